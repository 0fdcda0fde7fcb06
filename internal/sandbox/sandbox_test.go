package sandbox_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

func TestInsideKeepsThePathUnlessItHidesSomething(t *testing.T) {
	for dir, want := range map[string]string{
		"/srv/project": "/srv/project", "/home/alice/project": "/home/alice/project", "/root/x/": "/root/x",
		"/tmp/x": "/tmp/x", "/home/agent/x": "/home/agent/x", "/users": "/users", "/etcetera": "/etcetera",
		"/": sandbox.Workspace, "/tmp": sandbox.Workspace, "/home": sandbox.Workspace, "/home/agent": sandbox.Workspace,
		"/usr/local/src/x": sandbox.Workspace, "/etc": sandbox.Workspace, "/proc/1": sandbox.Workspace, "/dev/shm/x": sandbox.Workspace,
		"/srv/../usr": sandbox.Workspace,
	} {
		if got := sandbox.Inside(dir); got != want {
			t.Errorf("Inside(%q) = %q; want %q", dir, got, want)
		}
	}
}

func valid() sandbox.Spec {
	return sandbox.Spec{
		Args: []string{"true"}, Env: []string{"A=b", "EMPTY=", "E=a=b\nc"}, Dir: "/tree", Home: "/srv/home",
		Mounts: []sandbox.Mount{
			{Source: "/srv/ro", Target: "/ro"}, {Source: "/srv/in", Target: "/ro/in", Writable: true},
			{Source: "/srv/work", Target: "/tree", Writable: true}, {Source: "/srv/x", Target: "/home/agent/x"},
		},
		Sockets: []sandbox.Socket{{Host: "/srv/a.sock", Port: 1024}, {Host: "/srv/b.sock", Port: 65535}},
		Limits:  sandbox.Limits{Memory: 1, Processes: 1, Time: 1, Output: 1, FileSize: 1, MinFree: 1, Temp: 1},
	}
}

func TestValidate(t *testing.T) {
	if err := valid().Validate(); err != nil {
		t.Fatalf("a good spec is refused: %v", err)
	}
	mount := func(source, target string) func(*sandbox.Spec) {
		return func(s *sandbox.Spec) {
			s.Mounts = append(s.Mounts, sandbox.Mount{Source: source, Target: target})
		}
	}
	for name, c := range map[string]struct {
		change func(*sandbox.Spec)
		says   string
	}{
		"no command":          {func(s *sandbox.Spec) { s.Args = nil }, "no command"},
		"empty command":       {func(s *sandbox.Spec) { s.Args = []string{""} }, "no command"},
		"NUL in an argument":  {func(s *sandbox.Spec) { s.Args = append(s.Args, "a\x00b") }, "NUL"},
		"NUL in a variable":   {func(s *sandbox.Spec) { s.Env = append(s.Env, "A=\x00") }, "NUL"},
		"NUL in the home":     {func(s *sandbox.Spec) { s.Home = "/a\x00" }, "NUL"},
		"variable without =":  {func(s *sandbox.Spec) { s.Env = append(s.Env, "SECRET") }, "NAME=VALUE"},
		"variable, no name":   {func(s *sandbox.Spec) { s.Env = append(s.Env, "=x") }, "NAME=VALUE"},
		"relative directory":  {func(s *sandbox.Spec) { s.Dir = "work" }, "directory"},
		"relative home":       {func(s *sandbox.Spec) { s.Home = "home" }, "home"},
		"home with dots":      {func(s *sandbox.Spec) { s.Home = "/a/../b" }, "home"},
		"relative source":     {mount("x", "/x"), "absolute"},
		"relative target":     {mount("/x", "x"), "absolute"},
		"target with dots":    {mount("/x", "/x/../usr"), "clean"},
		"target with NUL":     {mount("/x", "/x\x00"), "absolute"},
		"the whole host":      {mount("/", "/host"), "whole host"},
		"over the root":       {mount("/x", "/"), "hide"},
		"over the system":     {mount("/x", "/usr/lib"), "hide"},
		"over /etc":           {mount("/x", "/etc"), "hide"},
		"into /proc":          {mount("/x", "/proc/self/x"), "hide"},
		"over the home":       {mount("/x", "/home/agent"), "hide"},
		"over what holds it":  {mount("/x", "/home"), "hide"},
		"in a writable mount": {mount("/x", "/tree/.git"), "writable"},
		"over another mount":  {mount("/x", "/tree"), "earlier"},
		"relative socket":     {func(s *sandbox.Spec) { s.Sockets[0].Host = "a.sock" }, "socket"},
		"low port":            {func(s *sandbox.Spec) { s.Sockets[0].Port = 80 }, "port"},
		"high port":           {func(s *sandbox.Spec) { s.Sockets[0].Port = 65536 }, "port"},
		"one port twice":      {func(s *sandbox.Spec) { s.Sockets[0].Port = 65535 }, "port"},
		"negative limit":      {func(s *sandbox.Spec) { s.Limits.Output = -1 }, "negative"},
		"negative processors": {func(s *sandbox.Spec) { s.Limits.CPUs = -1 }, "negative"},
		"processors, none":    {func(s *sandbox.Spec) { s.Limits.CPUs = math.NaN() }, "negative"},
	} {
		spec := valid()
		c.change(&spec)
		if err := spec.Validate(); !errors.Is(err, hub.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want ErrInvalid that says %q", name, err, c.says)
		}
	}
	spec := valid()
	spec.Env = append(spec.Env, "sk-ant-oat01-fake")
	if err := spec.Validate(); err == nil || strings.Count(err.Error(), "fake") > 1 {
		t.Errorf("variable without a value: %v", err)
	}
}

package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script writes an executable shell script.
func script(t *testing.T, path, body string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	hubtest.Script(t, path, "#!/bin/sh\n"+body+"\n")
	return path
}

func TestTestedVersionIsThePinnedOne(t *testing.T) {
	b, err := os.ReadFile("cli/package.json")
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	if got := p.Dependencies["@anthropic-ai/claude-code"]; got != agent.TestedVersion {
		t.Errorf("cli/package.json pins %s; TestedVersion is %s", got, agent.TestedVersion)
	}
}

func TestVersionOfTheRealCLI(t *testing.T) {
	got, err := agent.Version(t.Context(), hubtest.Claude(t))
	if err != nil || got != agent.TestedVersion {
		t.Errorf("Version = %q, %v; want %s", got, err, agent.TestedVersion)
	}
}

func TestVersionSeesAScrubbedEnvironment(t *testing.T) {
	for _, name := range hostile {
		if name == "TMPDIR" || strings.HasPrefix(name, "LD_") { // the test itself would not get far
			continue
		}
		t.Setenv(name, "canary")
	}
	bin := script(t, filepath.Join(t.TempDir(), "claude"), `env >&2; case "$HOME" in *claude-hub-ask-*) echo "9.9.9 (Claude Code)";; esac`)
	_, err := agent.Version(t.Context(), bin) // env's output makes it no version, and is in the error
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("error = %v; want one without the canary", err)
	}
	quiet := script(t, filepath.Join(t.TempDir(), "claude"), `if env | grep -q =canary; then echo leaked; else echo "9.9.9-beta.1 (Claude Code)"; fi`)
	if got, err := agent.Version(t.Context(), quiet); err != nil || got != "9.9.9-beta.1" {
		t.Errorf("Version = %q, %v", got, err)
	}
}

func TestVersionOfAProgramThatMisbehaves(t *testing.T) {
	for _, c := range []struct {
		name, body, message string
		kind                error
	}{
		{"garbage", `printf '\033[31m\001\377 hello'`, "is not a claude CLI", hub.ErrInvalid},
		{"nothing", `true`, "is not a claude CLI", hub.ErrInvalid},
		{"another program", `echo "GNU bash, version 5.2.15"`, "is not a claude CLI", hub.ErrInvalid},
		{"fails", `echo "no such thing" >&2; exit 3`, "exited with 3: no such thing", nil},
		{"endless output", `yes "2.1.330 (Claude Code)" | head -c 30000000`, "is not a claude CLI", hub.ErrInvalid},
		{"kills itself", `kill -9 $$`, "exited with -1", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := agent.Version(t.Context(), script(t, filepath.Join(t.TempDir(), "claude"), c.body))
			if err == nil || !strings.Contains(err.Error(), c.message) || hub.HintOf(err) == "" || c.kind != nil && !errors.Is(err, c.kind) {
				t.Errorf("error = %v; want %q with a hint", err, c.message)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\x01") {
				t.Errorf("control characters in %q", err)
			}
		})
	}
	if _, err := agent.Version(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("error = %v; want ErrNotFound", err)
	}
}

func TestVersionKillsAHangingProgramAndItsChildren(t *testing.T) {
	dir := t.TempDir()
	// The child holds the write end of the fifo: reading it ends when all are dead.
	fifo := filepath.Join(dir, "fifo")
	mkfifo(t, fifo)
	bin := script(t, filepath.Join(dir, "claude"), `trap "" TERM INT; (exec >`+fifo+`; sleep 1000) & sleep 1000`)
	ctx, cancel := context.WithCancel(t.Context())
	dead := make(chan struct{})
	go func() {
		defer close(dead)
		f, err := os.Open(fifo) // waits for the child
		cancel()
		if err == nil {
			f.Read(make([]byte, 1))
			f.Close()
		}
	}()
	if _, err := agent.Version(ctx, bin); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v; want it cancelled", err)
	}
	select {
	case <-dead:
	case <-time.After(20 * time.Second):
		t.Error("the child of a killed CLI lives on")
	}
}

func TestVersionLeavesNoChildBehind(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	mkfifo(t, fifo)
	bin := script(t, filepath.Join(t.TempDir(), "claude"), `(exec 3>`+fifo+`; sleep 1000) & echo "`+agent.TestedVersion+` (Claude Code)"; exec 3<>`+fifo)
	dead := make(chan struct{})
	go func() {
		defer close(dead)
		if f, err := os.Open(fifo); err == nil {
			f.Read(make([]byte, 1)) // ends with the last writer
			f.Close()
		}
	}()
	if got, err := agent.Version(t.Context(), bin); err != nil || got != agent.TestedVersion {
		t.Errorf("Version = %q, %v", got, err)
	}
	select {
	case <-dead:
	case <-time.After(20 * time.Second):
		t.Error("a child of the CLI lives on")
	}
}

func TestFindPrefersTheInstalledVersion(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	onPath := script(t, filepath.Join(bin, "claude"), "true")
	t.Setenv("PATH", bin)
	if got, err := agent.Find(dir); err != nil || got != onPath {
		t.Errorf("Find = %q, %v; want %q", got, err, onPath)
	}
	installed := filepath.Join(dir, "agent", agent.TestedVersion, "node_modules", ".bin", "claude")
	if err := os.MkdirAll(installed, 0o700); err != nil { // a directory is no program
		t.Fatal(err)
	}
	if got, err := agent.Find(dir); err != nil || got != onPath {
		t.Errorf("Find = %q, %v; want %q", got, err, onPath)
	}
	os.Remove(installed)
	script(t, installed, "true")
	if got, err := agent.Find(dir); err != nil || got != installed {
		t.Errorf("Find = %q, %v; want %q", got, err, installed)
	}
}

func TestFindNothing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := agent.Find(t.TempDir())
	if !errors.Is(err, hub.ErrNotFound) || !strings.Contains(hub.HintOf(err), "agent install") {
		t.Errorf("error = %v with hint %q", err, hub.HintOf(err))
	}
}

func TestFindTakesNoProgramFromTheWorkingDirectory(t *testing.T) {
	dir := t.TempDir()
	script(t, filepath.Join(dir, "claude"), "true")
	t.Chdir(dir)
	t.Setenv("PATH", ".")
	if got, err := agent.Find(t.TempDir()); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Find = %q, %v; want ErrNotFound", got, err)
	}
}

package docker_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
)

// TestOddPaths mounts directories whose names an engine might take apart.
func TestOddPaths(t *testing.T) {
	for _, kind := range []string{docker.KindDocker, docker.KindPodman} {
		d := newDriver(t, kind)
		for _, name := range []string{"with space", "with:colon:rw", "ünï→码", "'quoted\"", "-v=x", "$HOME", `back\slash`, "with,comma"} {
			work := filepath.Join(t.TempDir(), name)
			if err := os.Mkdir(work, 0o700); err != nil {
				t.Fatal(err)
			}
			var out, errs bytes.Buffer
			s, err := d.Start(t.Context(), sandbox.Spec{
				Args: []string{"sh", "-c", "pwd; echo new > file"}, Env: []string{"PATH=" + sandbox.Path}, Dir: work,
				Mounts: []sandbox.Mount{{Source: work, Target: work, Writable: true}}, Stdout: &out, Stderr: &errs,
			})
			if kind == docker.KindPodman && strings.ContainsAny(name, ",\"") {
				if err == nil || !strings.Contains(hub.HintOf(err), "rename") {
					t.Errorf("%s: %q: %v, hint %q", kind, name, err, hub.HintOf(err))
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %q: %v", kind, name, err)
				continue
			}
			exit, err := s.Wait()
			text, _ := os.ReadFile(filepath.Join(work, "file"))
			if err != nil || exit != (sandbox.Exit{}) || out.String() != work+"\n" || string(text) != "new\n" {
				t.Errorf("%s: %q: ended with %+v, %v, said %q %q, wrote %q", kind, name, exit, err, out.String(), errs.String(), text)
			}
		}
	}
}

// TestFilesOfOthersAreNotTheJobs: owners are mapped for the hub's user alone.
func TestFilesOfOthersAreNotTheJobs(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root can make files of others
	}
	work := t.TempDir()
	const agent = docker.AgentUser
	for uid, name := range map[int]string{0: "mine", agent: "of-agent", 1234: "of-1234"} {
		path := filepath.Join(work, name)
		write(t, path, "x")
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	s, err := newDriver(t, docker.KindDocker).Start(t.Context(), sandbox.Spec{
		Args: []string{"sh", "-c", "for f in *; do stat -c '%n %u %g' $f; cat $f 2>/dev/null && echo read; echo y >> $f; done 2>/dev/null; touch new"},
		Env:  []string{"PATH=" + sandbox.Path}, Dir: "/work",
		Mounts: []sandbox.Mount{{Source: work, Target: "/work", Writable: true}}, Stdout: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Wait()
	if want := fmt.Sprintf("mine %d %[1]d\nxread\nof-1234 1234 1234\nof-agent 0 0\n", agent); out.String() != want {
		t.Errorf("the job saw %q; want %q", out.String(), want)
	}
	for name, want := range map[string]uint32{"mine": 0, "of-agent": agent, "of-1234": 1234, "new": 0} {
		info, err := os.Stat(filepath.Join(work, name))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != want {
			t.Errorf("%s: %v, %+v; want user %d", name, err, info, want)
		}
	}
}

// TestFileSystemWithoutMapping has a workspace where owners can't be mapped.
func TestFileSystemWithoutMapping(t *testing.T) {
	if os.Getuid() != 0 {
		return // nothing is mapped
	}
	var dir string
	d := newDriver(t, docker.KindDocker, func(c *docker.Config) { dir = c.Dir })
	_, err := d.Start(t.Context(), sandbox.Spec{Args: []string{"/bin/true"}, Mounts: []sandbox.Mount{{Source: "/proc/sys", Target: "/x"}}})
	if err == nil || !strings.Contains(hub.HintOf(err), "map owners") {
		t.Errorf("Start: %v, hint %q", err, hub.HintOf(err))
	}
	nothingLeft(t, d, dir)
}

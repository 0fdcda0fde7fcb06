package docker_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
)

// hubArg, as the first argument, makes the test binary a hub with one container:
// of the kind, at the host, in the directory that follow.
const hubArg = "container-hub"

func hubMain(args []string) int {
	d, err := docker.New(docker.Config{Kind: args[2], Host: args[3], Dir: args[4], Environ: []string{}, Image: hubtest.BaseImage})
	if err == nil {
		_, err = d.Start(context.Background(), sandbox.Spec{
			Name: "r-of-a-hub-that-dies", Args: []string{"sh", "-c", "trap '' TERM HUP INT; echo up; while :; do sleep 0.05; done", args[5]},
			Env: []string{"PATH=" + sandbox.Path}, Stdout: os.Stdout,
		})
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	select {}
}

// running returns how many processes have marker in their command line.
func running(marker string) int {
	n := 0
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, _ := os.ReadFile(path)
		if bytes.Contains(line, []byte(marker)) {
			n++
		}
	}
	return n
}

// eventually polls, because the deaths of strangers can't be waited for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestContainerDiesWithItsHubAndIsSwept(t *testing.T) {
	for _, kind := range []string{docker.KindDocker, docker.KindPodman} {
		t.Run(kind, func(t *testing.T) {
			var dir string
			d := newDriver(t, kind, func(c *docker.Config) { dir = c.Dir })
			marker := fmt.Sprintf("marker-%d-%d", os.Getpid(), time.Now().UnixNano())
			cmd := exec.Command("/proc/self/exe", hubArg, kind, d.Address(), dir, marker)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, _ := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
				t.Errorf("the hub's job said %q", line)
			}
			// A sweep leaves alone what lives.
			if n, err := d.Sweep(t.Context()); n != 0 || err != nil || d.Left() {
				t.Errorf("beside a hub that lives, a sweep removed %d, %v", n, err)
			}
			if running(marker) < 2 { // the hub and the job
				t.Error("after the sweep, the job is gone")
			}
			cmd.Process.Kill()
			cmd.Wait()
			eventually(t, "the end of a container whose hub was killed", func() bool { return running(marker) == 0 })
			if !d.Left() {
				t.Error("nothing is said to be left")
			}
			var sweeps sync.WaitGroup
			for range 3 {
				sweeps.Go(func() {
					if _, err := d.Sweep(t.Context()); err != nil {
						t.Errorf("one of three sweeps at once: %v", err)
					}
				})
			}
			sweeps.Wait()
			nothingLeft(t, d, dir)
		})
	}
}

// TestSweepAfterDeathDuringStart: a hub that dies while its mounts are attached and
// its container is half made.
func TestSweepAfterDeathDuringStart(t *testing.T) {
	for _, at := range []string{"/containers/create", "/start"} {
		b := newBetween(t, docker.KindDocker)
		reached, answered, release := b.blockAt(at)
		var dir string
		d := newDriver(t, docker.KindDocker, via(b), func(c *docker.Config) { dir = c.Dir })
		cmd := exec.Command("/proc/self/exe", hubArg, docker.KindDocker, b.host(), dir, "x")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-reached
		if mounts, _ := os.ReadFile("/proc/self/mountinfo"); os.Getuid() == 0 && !bytes.Contains(mounts, []byte(dir)) {
			t.Error("nothing is mounted: the test would see nothing left")
		}
		cmd.Process.Kill()
		cmd.Wait()
		release()
		<-answered
		if _, err := d.Sweep(t.Context()); err != nil {
			t.Errorf("after a death at %s: %v", at, err)
		}
		nothingLeft(t, d, dir)
	}
}

func TestSweepLeavesOthersAlone(t *testing.T) {
	var mine, other string
	d := newDriver(t, docker.KindDocker, func(c *docker.Config) { mine = c.Dir })
	stranger := newDriver(t, docker.KindDocker, func(c *docker.Config) { other = c.Dir })
	if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("before anything was made: %d, %v", n, err)
	}
	s, err := stranger.Start(t.Context(), sandbox.Spec{Args: []string{"/bin/sleep", "300"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, d, mine)
	s.Kill()
	if exit, err := s.Wait(); err != nil || exit.Reason != sandbox.ReasonKilled {
		t.Errorf("the other hub's container ended with %+v, %v", exit, err)
	}
	nothingLeft(t, stranger, other)
}

// TestEngineSeesNoSecret: what can be read of a container by everybody who may use
// the engine.
func TestEngineSeesNoSecret(t *testing.T) {
	d := newDriver(t, docker.KindDocker)
	secret := fmt.Sprintf("sk-ant-oat01-fake-%d", time.Now().UnixNano())
	s, err := d.Start(t.Context(), sandbox.Spec{
		Name: "r-01", Args: []string{"sh", "-c", "echo " + secret + "; sleep 300"}, Env: []string{"PATH=" + sandbox.Path, "TOKEN=" + secret},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Wait()
	defer s.Kill()
	ids, err := exec.Command("docker", "-H", d.Address(), "ps", "-q", "--filter", "label=io.claude-hub.run=r-01").Output()
	if err != nil || len(bytes.Fields(ids)) == 0 {
		t.Fatalf("docker ps by the run's label: %q, %v", ids, err)
	}
	for _, id := range strings.Fields(string(ids)) {
		all, err := exec.Command("docker", "-H", d.Address(), "inspect", id).Output()
		if err != nil || bytes.Contains(all, []byte("sk-ant-oat01-fake")) {
			t.Errorf("docker inspect: %v, with the secret: %v", err, bytes.Contains(all, []byte(secret)))
		}
	}
}

// TestProgramReplaced: a hub whose file has been replaced since it started goes on
// with itself as the shim.
func TestProgramReplaced(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "hub")
	copyFile(t, program, "/proc/self/exe")
	d := newDriver(t, docker.KindDocker)
	cmd := exec.Command(program, replacedArg, docker.KindDocker, d.Address(), filepath.Join(dir, "containers"))
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "works\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// replacedArg, as the first argument, makes the test binary a hub that replaces its
// own file before it starts a container.
const replacedArg = "replaced-hub"

func replacedMain(args []string) int {
	next := args[0] + "-next"
	// What an update brings may be of another mind about the shim.
	err := os.WriteFile(next, []byte("#!/bin/sh\nexit 9 # "+boot.Arg+"\n"), 0o755)
	if err == nil {
		err = os.Rename(next, args[0])
	}
	var d *docker.Driver
	if err == nil {
		d, err = docker.New(docker.Config{Kind: args[2], Host: args[3], Dir: args[4], Environ: []string{}, Image: hubtest.BaseImage})
	}
	for range 2 { // the second finds the copy
		if err == nil {
			err = d.Check(context.Background())
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("works")
	return 0
}

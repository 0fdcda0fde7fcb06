package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hubtest"
)

// inContainers has the bed's hub confine its runs with Docker.
func (t bed) inContainers() bed {
	settings := filepath.Join(t.dir, "hub", "config.yaml")
	if err := os.WriteFile(settings, []byte("sandbox: docker\nimage: "+hubtest.BaseImage+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.environ = append(t.environ, "DOCKER_HOST="+hubtest.Engine(t, "docker"))
	return t
}

// BenchmarkContainerRun compares a run of the program in a container with a plain
// `docker run` of the same CLI on the same prompt and image, and a daemon's second
// run with its first, in turns.
func BenchmarkContainerRun(b *testing.B) {
	t := newBed(b).inContainers()
	plain := t.plainContainer()
	run := func() time.Duration { return t.timed(t.command(t.hub, "run", benchPrompt)) }
	var ours, theirs, first, second []time.Duration
	for b.Loop() {
		ours = append(ours, run())
		theirs = append(theirs, t.timed(plain()))
		stop := t.serve()
		first = append(first, run())
		second = append(second, run())
		stop()
	}
	row := func(name string, took []time.Duration, baseline string, base []time.Duration) {
		o, p := hubtest.Median(took), hubtest.Median(base)
		hubtest.Row(name, hubtest.Milliseconds(o), baseline, hubtest.Milliseconds(p), float64(o)/float64(p))
	}
	row("one run in a container, wall", ours, "docker run, same CLI", theirs)
	row("a daemon's second run in a container", second, "its first", first)
}

// plainContainer returns what makes a `docker run` of the CLI on the benchmark's
// prompt, with a login of its own, and the host's network to reach the platform.
func (t bed) plainContainer() func() *exec.Cmd {
	binary, err := filepath.EvalSymlinks(t.claude)
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(t.dir, "bare")
	t.signIn(filepath.Join(home, ".claude"))
	return func() *exec.Cmd {
		args := []string{"run", "--rm", "-i", "--network", "host", "-v", binary + ":" + binary + ":ro", "-v", home + ":" + home, "-v", t.workspace() + ":" + t.workspace(), "-w", t.workspace()}
		for _, kv := range append(agent.RunEnviron(nil, home, "/usr/bin:/bin", "", nil), t.sim.Environ()...) {
			name, value, _ := strings.Cut(kv, "=")
			args = append(args, "-e", kv)
			if name == "NODE_EXTRA_CA_CERTS" {
				args = append(args, "-v", value+":"+value+":ro")
			}
		}
		cmd := exec.Command("docker", append(append(args, hubtest.BaseImage, binary), agent.Invocation{}.Args()...)...)
		cmd.Stdin = strings.NewReader(benchPrompt)
		return cmd
	}
}

// serve starts a daemon, and returns what stops it.
func (t bed) serve() (stop func()) {
	cmd := t.startDaemon()
	return func() {
		err := cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (t bed) startDaemon() *exec.Cmd {
	cmd := t.command(t.hub, "serve")
	stderr, err := cmd.StderrPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "serving") {
	}
	go io.Copy(io.Discard, stderr)
	return cmd
}

// BenchmarkContainers measures the daemon's memory while 20 runs are in
// containers.
func BenchmarkContainers(b *testing.B) {
	const runs = 20
	t := newBed(b).inContainers()
	daemon := t.startDaemon()
	defer daemon.Wait()
	defer daemon.Process.Signal(syscall.SIGTERM)
	idle := t.resident(daemon.Process.Pid)
	var all sync.WaitGroup
	for i := range runs {
		cmd := t.command(t.hub, "run", fmt.Sprintf("simulate: bash \"touch up-%d; while [ ! -e go ]; do sleep 0.2; done\"", i))
		all.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Errorf("%v\n%s", err, out)
			}
		})
	}
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		up, _ := filepath.Glob(filepath.Join(t.workspace(), "up-*"))
		if len(up) == runs {
			break
		}
		if time.Now().After(deadline) {
			b.Fatalf("only %d of %d runs have started", len(up), runs)
		}
	}
	busy := t.resident(daemon.Process.Pid)
	if err := os.WriteFile(filepath.Join(t.workspace(), "go"), nil, 0o600); err != nil {
		b.Fatal(err)
	}
	all.Wait()
	megabytes := func(n float64) string { return fmt.Sprintf("%.1f MB", n/1e6) }
	hubtest.Row(fmt.Sprintf("daemon with %d containers, resident", runs), megabytes(busy), "idle daemon", megabytes(idle), busy/idle)
}

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// The benchmarks measure bin/claude-hub, as `make build` makes it, as a whole.

var benchRuns = flag.Int("runs", 1000, "runs of BenchmarkRotation, each way")

func program(b *testing.B) string {
	path := filepath.Join(hubtest.Root(b), "bin", "claude-hub")
	if _, err := os.Stat(path); err != nil {
		b.Fatalf("build it first, with `make build`: %v", err)
	}
	return path
}

func BenchmarkBinary(b *testing.B) {
	info, err := os.Stat(program(b))
	if err != nil {
		b.Fatal(err)
	}
	const allowed = 60e6
	hubtest.Row("binary", fmt.Sprintf("%.1f MB", float64(info.Size())/1e6), "allowed", "60 MB", float64(info.Size())/allowed)
}

// BenchmarkRotation is the headline: the same runs, with access tokens that die
// in between, by the hub and by copying the captured directory.
func BenchmarkRotation(b *testing.B) {
	cmd := exec.Command(program(b), "demo", "--json", "--runs", strconv.Itoa(*benchRuns))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(hubtest.Claude(b))+":"+os.Getenv("PATH"))
	cmd.Stderr = io.Discard
	out, err := cmd.Output()
	var r demoReport
	if err := errors.Join(err, json.Unmarshal(out, &r)); err != nil {
		b.Fatal(err)
	}
	of := func(n, all int) string { return fmt.Sprintf("%d of %d", n, all) }
	share := func(a, b int) float64 {
		if b == 0 {
			return 0
		}
		return float64(a) / float64(b)
	}
	h, c := r.Hub, r.Copying
	hubtest.Row("runs that asked for a login", of(h.LoginsAsked, h.Runs), "copying the directory", of(c.LoginsAsked, c.Runs), share(h.LoginsAsked, c.LoginsAsked))
	hubtest.Row("runs that did their work", of(h.Done, h.Runs), "copying the directory", of(c.Done, c.Runs), share(h.Done, c.Done))
	hubtest.Row("runs that could read a token", of(h.TokensInSandbox, h.Runs), "copying the directory", of(c.TokensInSandbox, c.Runs), 0)
	hubtest.Row("spent tokens replayed", strconv.Itoa(h.SpentReplays), "copying the directory", strconv.Itoa(c.SpentReplays), 0)
	hubtest.Row("rotations on the way", strconv.Itoa(h.Rotations), "copying the directory", strconv.Itoa(c.Rotations), 0)
}

// bed is a hub with a login, in a directory of its own, on a platform of its own.
type bed struct {
	*testing.B
	hub, claude, dir string
	environ          []string
	sim              *simulator.Simulator
}

func newBed(b *testing.B) bed {
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { sim.Close() })
	t := bed{B: b, hub: program(b), claude: hubtest.Claude(b), dir: b.TempDir(), sim: sim}
	t.environ = append([]string{
		"HOME=" + t.dir, "CLAUDE_HUB_DIR=" + filepath.Join(t.dir, "hub"), "CLAUDE_HUB_LISTEN=off", "PATH=" + filepath.Dir(t.claude) + ":" + os.Getenv("PATH"),
	}, sim.Environ()...)
	t.signIn(filepath.Join(t.dir, ".claude"))
	t.timed(t.command(t.hub, "init"))
	t.timed(t.command(t.hub, "import", t.dir))
	return t
}

// signIn puts a fresh login of the platform's into a config directory.
func (t bed) signIn(config string) {
	file := filepath.Join(config, agent.CredentialFile)
	err := errors.Join(os.MkdirAll(config, 0o700), os.WriteFile(file, t.sim.SignIn(simulator.SignIn{}).Credentials, 0o600))
	if err != nil {
		t.Fatal(err)
	}
}

func (t bed) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Dir = t.environ, t.workspace()
	return cmd
}

func (t bed) workspace() string {
	dir := filepath.Join(t.dir, "work")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (t bed) timed(cmd *exec.Cmd) time.Duration {
	t.Helper()
	started := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return time.Since(started)
}

const benchPrompt = `simulate: bash "echo 42 > answer.txt"
simulate: say "done"
`

// BenchmarkRun compares a run of the program with the bare CLI on the same
// prompt, in turns.
func BenchmarkRun(b *testing.B) {
	t := newBed(b)
	bare := filepath.Join(t.dir, "bare")
	t.signIn(filepath.Join(bare, ".claude"))
	var ours, theirs []time.Duration
	for b.Loop() {
		ours = append(ours, t.timed(t.command(t.hub, "run", benchPrompt)))
		cmd := t.command(t.claude, agent.Invocation{}.Args()...)
		cmd.Env = append(agent.RunEnviron(t.environ, bare, os.Getenv("PATH"), "", nil), t.sim.Environ()...)
		cmd.Stdin = strings.NewReader(benchPrompt)
		theirs = append(theirs, t.timed(cmd))
	}
	o, c := hubtest.Median(ours), hubtest.Median(theirs)
	hubtest.Row("one sandboxed run, wall", hubtest.Milliseconds(o), "the bare CLI", hubtest.Milliseconds(c), float64(o)/float64(c))
}

func BenchmarkStatus(b *testing.B) {
	t := newBed(b)
	var all []time.Duration
	for b.Loop() {
		all = append(all, t.timed(t.command(t.hub, "status", "--json")))
	}
	m := hubtest.Median(all)
	hubtest.Row("status, wall", hubtest.Milliseconds(m), "allowed", "50 ms", float64(m)/float64(50*time.Millisecond))
}

// BenchmarkDaemon measures the daemon's memory when it serves, and after a run.
func BenchmarkDaemon(b *testing.B) {
	t := newBed(b)
	cmd := t.command(t.hub, "serve")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGTERM)
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "serving") {
	}
	go io.Copy(io.Discard, stderr)
	t.memory("idle daemon, resident", cmd.Process.Pid)
	t.timed(t.command(t.hub, "run", benchPrompt))
	t.memory("daemon after a run, resident", cmd.Process.Pid)
}

func (t bed) memory(name string, pid int) {
	const allowed = 40e6
	bytes := t.resident(pid)
	hubtest.Row(name, fmt.Sprintf("%.1f MB", bytes/1e6), "allowed", "40 MB", bytes/allowed)
}

// resident returns a process's resident memory, in bytes.
func (t bed) resident(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb * 1024
}

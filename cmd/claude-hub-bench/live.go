package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// bed is a hub with a login, in a directory of its own, on a platform of its own.
type bed struct {
	bench
	dir     string
	environ []string
	sim     *simulator.Simulator
}

// live measures what a user waits for: one run, the status, an idle daemon.
func (b bench) live(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "claude-hub-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		return err
	}
	defer sim.Close()
	bed := bed{bench: b, dir: dir, sim: sim}
	bed.environ = append([]string{
		"HOME=" + dir, "CLAUDE_HUB_DIR=" + filepath.Join(dir, "hub"), "PATH=" + filepath.Dir(b.claude) + ":" + os.Getenv("PATH"),
	}, sim.Environ()...)
	if err := bed.signIn(ctx); err != nil {
		return err
	}
	return errors.Join(bed.run(ctx), bed.status(ctx), bed.idle(ctx))
}

func (b bed) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Dir = b.environ, b.dir
	return cmd
}

// signIn adopts a login of the platform's as a captured directory.
func (b bed) signIn(ctx context.Context) error {
	captured := filepath.Join(b.dir, ".claude")
	if err := os.Mkdir(captured, 0o700); err != nil {
		return err
	}
	file := filepath.Join(captured, agent.CredentialFile)
	if err := os.WriteFile(file, b.sim.SignIn(simulator.SignIn{}).Credentials, 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{{"init"}, {"import", captured}} {
		if out, err := b.command(ctx, b.hub, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("claude-hub %s: %w: %s", args[0], err, out)
		}
	}
	return nil
}

const prompt = `simulate: bash "echo 42 > answer.txt"
simulate: say "done"
`

// run compares a sandboxed run with the bare CLI on the same prompt, in turns.
func (b bed) run(ctx context.Context) error {
	workspace := filepath.Join(b.dir, "work")
	if err := os.Mkdir(workspace, 0o700); err != nil {
		return err
	}
	login := filepath.Join(b.dir, "bare")
	if err := os.MkdirAll(filepath.Join(login, ".claude"), 0o700); err != nil {
		return err
	}
	file := filepath.Join(login, ".claude", agent.CredentialFile)
	if err := os.WriteFile(file, b.sim.SignIn(simulator.SignIn{}).Credentials, 0o600); err != nil {
		return err
	}
	var hub, bare []time.Duration
	for range b.rounds {
		took, err := timed(b.command(ctx, b.hub, "run", "--dir", workspace, prompt))
		if err != nil {
			return err
		}
		hub = append(hub, took)
		cmd := b.command(ctx, b.claude, agent.Invocation{}.Args()...)
		cmd.Env = append(agent.RunEnviron(b.environ, login, os.Getenv("PATH"), "", nil), b.sim.Environ()...)
		cmd.Dir, cmd.Stdin = workspace, strings.NewReader(prompt)
		if took, err = timed(cmd); err != nil {
			return err
		}
		bare = append(bare, took)
	}
	h, c := median(hub), median(bare)
	row("one sandboxed run, wall (bare CLI)", ms(h), ms(c), float64(h)/float64(c))
	return nil
}

func timed(cmd *exec.Cmd) (time.Duration, error) {
	started := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, out)
	}
	return time.Since(started), nil
}

func (b bed) status(ctx context.Context) error {
	var all []time.Duration
	for range b.rounds {
		took, err := timed(b.command(ctx, b.hub, "status", "--json"))
		if err != nil {
			return err
		}
		all = append(all, took)
	}
	m := median(all)
	row("status, wall", ms(m), "50 ms allowed", float64(m)/float64(50*time.Millisecond))
	return nil
}

// idle measures the daemon's memory once it serves and has done one run.
func (b bed) idle(ctx context.Context) error {
	cmd := b.command(ctx, b.hub, "serve")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait() //nolint:errcheck // it is told to stop
	defer cmd.Process.Signal(syscall.SIGTERM)
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "serving") {
	}
	go io.Copy(io.Discard, stderr) //nolint:errcheck // it ends with the daemon
	fresh, err := resident(cmd.Process.Pid)
	if err != nil {
		return err
	}
	if _, err := timed(b.command(ctx, b.hub, "run", "--dir", filepath.Join(b.dir, "work"), prompt)); err != nil {
		return err
	}
	used, err := resident(cmd.Process.Pid)
	if err != nil {
		return err
	}
	const allowed = 40e6
	row("idle daemon, resident", fmt.Sprintf("%.1f MB", float64(fresh)/1e6), "40 MB allowed", float64(fresh)/allowed)
	row("daemon after a run, resident", fmt.Sprintf("%.1f MB", float64(used)/1e6), "40 MB allowed", float64(used)/allowed)
	return nil
}

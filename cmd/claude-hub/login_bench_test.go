package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hubtest"
)

// BenchmarkSignIn measures a sign-in as a whole, from the command's start to its
// end with a login that the platform was asked about and that is in the vault, in
// each place; beside it the bare CLI's own. The owner takes no time.
func BenchmarkSignIn(b *testing.B) {
	t := newBed(b)
	t.environ = append(t.environ, "DOCKER_HOST="+hubtest.Engine(b, "docker"))
	t.timed(t.command(t.hub, "image", "build", "setup"))
	took := map[string][]time.Duration{}
	const bare = "bare"
	for b.Loop() {
		took[bare] = append(took[bare], t.bareSignIn())
		for _, in := range places[1:] {
			took[in] = append(took[in], t.hubSignIn(in))
		}
	}
	baseline := hubtest.Median(took[bare])
	for _, in := range places[1:] {
		d := hubtest.Median(took[in])
		hubtest.Row("sign-in to verified capture, "+in, hubtest.Milliseconds(d), "bare claude auth login", hubtest.Milliseconds(baseline), float64(d)/float64(baseline))
	}
}

func (t bed) hubSignIn(in string) time.Duration {
	cmd := t.command(t.hub, "login", "--in", in)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	last := ""
	for lines.Scan() {
		last = lines.Text()
		if link := linkPattern.FindString(last); link != "" {
			fmt.Fprintln(stdin, t.approve(link))
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("signing in, in %s: %v, %s", in, err, last)
	}
	return time.Since(started)
}

func (t bed) approve(link string) string {
	code, err := t.sim.Approve(context.Background(), link)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// bareSignIn signs in with nothing around the CLI but a terminal.
func (t bed) bareSignIn() time.Duration {
	home := filepath.Join(t.dir, "bare-sign-in")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	c := agent.LoginCommand(t.claude, home)
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Dir = c.Environ(t.environ, nil), home
	started := time.Now()
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 8192})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var screen agent.SignIn
	buf := make([]byte, 4096)
	for pasted := false; ; {
		n, err := terminal.Read(buf)
		_, _ = screen.Write(buf[:n]) // it never fails
		if link, ok := screen.Link(); ok && screen.Prompts() > 0 && !pasted {
			pasted = true
			fmt.Fprint(terminal, t.approve(link)+"\r")
		}
		if err != nil { // EIO: it is gone
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the bare sign-in: %v", err)
	}
	return time.Since(started)
}

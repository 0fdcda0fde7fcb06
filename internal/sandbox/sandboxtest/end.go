package sandboxtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// stubborn is a script that leaves processes in every way there is, with the
// marker in their arguments, says "up", and ends or goes on.
func stubborn(marker, end string) string {
	return fmt.Sprintf(`
		trap '' TERM HUP INT QUIT PIPE
		loop='trap "" TERM HUP INT QUIT PIPE; while :; do echo x >> beat; sleep 0.02; done'
		sh -c "$loop" %[1]s >/dev/null 2>&1 &
		setsid sh -c "$loop" %[1]s &
		( ( setsid nohup sh -c "$loop" %[1]s >/dev/null 2>&1 & ) & )
		sh -c 'exec 0<&- 1>&- 2>&-; setsid sleep 300 # %[1]s' %[1]s &
		sh -c 'kill -STOP $$' %[1]s &
		while [ ! -s beat ]; do sleep 0.02; done
		echo up
		%[2]s`, marker, end)
}

func newMarker() string { return "marker-" + rand.Text() }

// mustBeGone fails if a process with the marker is left or the workspace still
// changes.
func mustBeGone(t *testing.T, p place, marker string) {
	t.Helper()
	if left := hostProcesses(marker); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	if err := os.WriteFile(filepath.Join(p.work, "beat"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func testTree(t *testing.T, d sandbox.Driver) {
	p, marker := newPlace(t), newMarker()
	r := run(t, d, p.spec(t, "sh", "-c", stubborn(marker, "exit 5")))
	if r.Exit != (sandbox.Exit{Code: 5}) || r.out != "up\n" {
		t.Errorf("ended with %+v, output %q, error %q", r.Exit, r.out, r.err)
	}
	mustBeGone(t, p, marker)
}

func testInterrupt(t *testing.T, d sandbox.Driver) {
	spec := newPlace(t).spec(t, "sh", "-c", `trap 'echo saved; exit 143' TERM; echo up; while :; do sleep 0.02; done`)
	out := newLines()
	defer out.Close()
	spec.Stdout = out
	s := start(t, d, spec)
	out.await(t, "up")
	if err := s.Interrupt(); err != nil {
		t.Fatalf("Interrupt: %v", err)
	}
	out.await(t, "saved")
	if exit, err := s.Wait(); err != nil || exit != (sandbox.Exit{Code: 143}) {
		t.Errorf("ended with %+v, %v; want 143 and no reason", exit, err)
	}
	for name, again := range map[string]func() error{"Interrupt": s.Interrupt, "Kill": s.Kill} {
		if err := again(); err != nil {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
	if exit, err := s.Wait(); err != nil || exit != (sandbox.Exit{Code: 143}) {
		t.Errorf("a second Wait: %+v, %v", exit, err)
	}
}

func testKill(t *testing.T, d sandbox.Driver) {
	p, marker := newPlace(t), newMarker()
	spec := p.spec(t, "sh", "-c", stubborn(marker, "while :; do sleep 1; done"))
	out := newLines()
	defer out.Close()
	spec.Stdout = out
	s := start(t, d, spec)
	out.await(t, "up")
	if len(hostProcesses(marker)) < 4 {
		t.Fatalf("on the host these are seen: %q; the test would see nothing left", hostProcesses(marker))
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() { s.Kill() })
		all.Go(func() { s.Interrupt() })
	}
	exit, err := s.Wait()
	all.Wait()
	if err != nil || exit != (sandbox.Exit{Code: -1, Signal: "SIGKILL", Reason: sandbox.ReasonKilled}) {
		t.Errorf("ended with %+v, %v", exit, err)
	}
	mustBeGone(t, p, marker)
}

func testContext(t *testing.T, d sandbox.Driver) {
	for end, want := range map[string]sandbox.Exit{ // of scripts that say "ready" when they are
		"echo ready; while :; do sleep 0.02; done":                       {Code: -1, Signal: "SIGKILL", Reason: sandbox.ReasonKilled},
		"trap 'exit 143' TERM; echo ready; while :; do sleep 0.02; done": {Code: 143, Reason: sandbox.ReasonKilled},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		p, marker := newPlace(t), newMarker()
		spec := p.spec(t, "sh", "-c", stubborn(marker, end))
		out := newLines()
		defer out.Close()
		spec.Stdout = out
		s, err := d.Start(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		out.await(t, "ready")
		cancel()
		if exit, err := s.Wait(); err != nil || exit != want {
			t.Errorf("%s: ended with %+v, %v; want %+v", end, exit, err, want)
		}
		mustBeGone(t, p, marker)
		if _, err := d.Start(ctx, p.spec(t, "true")); !errors.Is(err, context.Canceled) {
			t.Errorf("Start with a context that has ended: %v", err)
		}
	}
}

// testMany runs sandboxes side by side and checks that each gets its own.
func testMany(t *testing.T, d sandbox.Driver) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			p := newPlace(t)
			spec := p.spec(t, "sh", "-c", fmt.Sprintf("echo %d > mine; echo %d > /tmp/mine; sleep 0.1; cat mine /tmp/mine; ls /proc | grep -c '^[0-9]'", i, i))
			spec.Limits.Processes, spec.Limits.Memory = 100, 1<<30
			var out bytes.Buffer
			spec.Stdout = &out
			s, err := d.Start(context.Background(), spec)
			if err != nil {
				t.Errorf("Start: %v", err)
				return
			}
			exit, err := s.Wait()
			if want := fmt.Sprintf("%d\n%d\n", i, i); err != nil || exit != (sandbox.Exit{}) || len(out.String()) < 4 || out.String()[:4] != want {
				t.Errorf("sandbox %d ended with %+v, %v, output %q", i, exit, err, out.String())
			}
		})
	}
	all.Wait()
}

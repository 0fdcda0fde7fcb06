package run_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// work is a task of three steps, in whose middle something happens: the job says
// that it has come there, and goes on when it is told to.
const work = `simulate: bash "echo one >> steps"
simulate: bash "touch middle; until [ -e go ]; do sleep 0.05; done; echo two >> steps"
simulate: bash "echo three >> steps"
simulate: say "finished"`

// realParking is a hub with real parts whose runs may be parked.
func realParking(t *testing.T) (*fixture, *simulator.Simulator, *logins, *run.Resumer, chan struct{}) {
	t.Helper()
	f, sim, l := real(t)
	changed := make(chan struct{}, 10)
	resumer := run.NewResumer(f.Runner, func() { changed <- struct{}{} })
	t.Cleanup(resumer.Stop)
	return f, sim, l, resumer, changed
}

// inTheMiddle runs the work up to its middle, has happen happen, and returns what
// Run does.
func inTheMiddle(t *testing.T, f *fixture, happen func(cancel context.CancelCauseFunc)) hub.Run {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(f.workspace, "middle")); err == nil {
				happen(cancel)
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	req := f.request(work)
	req.Park = true
	r, err := f.Run(ctx, req, nil)
	if err != nil || r.Parked == nil || r.AgentSession == "" {
		t.Fatalf("%+v, %v; want it parked, with its session", r, err)
	}
	return r
}

func goes(t *testing.T, f *fixture) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.workspace, "go"), nil, 0o600); err != nil {
		t.Error(err)
	}
}

// finishes demands that the parked run has done its work by itself.
func finishes(t *testing.T, f *fixture, before hub.Run, steps string) {
	t.Helper()
	r, err := f.store.Run(t.Context(), before.ID)
	if err != nil || r.Verdict != hub.VerdictDone || r.Result != "finished" || r.Attempts != 2 || r.AgentSession != before.AgentSession {
		var log bytes.Buffer
		f.Log(before.ID, &log)
		t.Fatalf("%+v, %v; want done, in session %s\n%s", r, err, before.AgentSession, &log)
	}
	f.checkAfter(t, r)
	got, _ := os.ReadFile(filepath.Join(f.workspace, "steps"))
	if strings.Join(strings.Fields(string(got)), " ") != steps {
		t.Errorf("the steps that were done: %q; want %q", got, steps)
	}
}

func TestRealRunGoesOnAfterItsLoginIsRevokedAndMadeAgain(t *testing.T) {
	f, sim, l, resumer, changed := realParking(t)
	r := inTheMiddle(t, f, func(context.CancelCauseFunc) {
		login, _ := l.current()
		sim.RevokeLogin(login.RefreshToken)
		goes(t, f)
	})
	if r.Parked.Cause != hub.ParkedForLogin {
		t.Fatalf("parked for %+v", r.Parked)
	}
	resumer.Start(t.Context())
	l.replace(sim.SignIn(simulator.SignIn{}))
	<-changed
	finishes(t, f, r, "one two three")
}

func TestRealRunGoesOnWhenTheWindowOpens(t *testing.T) {
	f, sim, _, resumer, changed := realParking(t)
	r := inTheMiddle(t, f, func(context.CancelCauseFunc) {
		sim.SetWindows(simulator.Windows{FiveHour: simulator.Window{Utilization: 1, Reset: time.Now().Add(time.Hour)}})
		goes(t, f)
	})
	if r.Parked.Cause != hub.ParkedForWindow || r.Parked.Until.IsZero() {
		t.Fatalf("parked for %+v", r.Parked)
	}
	resumer.RunOnce(t.Context())
	if again, err := f.store.Run(t.Context(), r.ID); err != nil || again.Parked == nil || again.Attempts != r.Attempts {
		t.Errorf("before the window opens: %+v, %v; want it left alone", again, err)
	}
	sim.SetWindows(simulator.Windows{})
	f.ahead.Store(int64(2 * time.Hour))
	resumer.Start(t.Context())
	<-changed
	finishes(t, f, r, "one two three")
}

func TestRealRunGoesOnAfterARestart(t *testing.T) {
	f, _, _, resumer, changed := realParking(t)
	r := inTheMiddle(t, f, func(cancel context.CancelCauseFunc) { cancel(run.ErrStopping) })
	if r.Parked.Cause != hub.ParkedForRestart || r.ExitCode != 143 {
		t.Fatalf("parked for %+v, exit %d; want a restart, and 143", r.Parked, r.ExitCode)
	}
	goes(t, f)
	resumer.Start(t.Context())
	<-changed
	// The CLI answers for the two steps that it was interrupted in, so that the
	// script, which counts answers, is at its end.
	finishes(t, f, r, "one")
}

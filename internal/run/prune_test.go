package run_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
)

// old makes the record and the directory of a run that took an hour.
func (f *fixture) old(t *testing.T, started time.Time, v hub.Verdict) hub.RunID {
	t.Helper()
	r := hub.Run{ID: hub.NewRunID(started), Profile: "default", Dir: f.workspace, Prompt: "p", Delivery: hub.DeliveryGateway, Started: started}
	if err := f.store.CreateRun(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if v != "" {
		r.Verdict, r.Ended = v, started.Add(time.Hour)
		if err := f.store.UpdateRun(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	f.directoryOf(t, r.ID)
	return r.ID
}

func (f *fixture) directoryOf(t *testing.T, id hub.RunID) {
	t.Helper()
	dir := filepath.Join(f.dir, "runs", string(id))
	if err := os.MkdirAll(filepath.Join(dir, "session", "p"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lock", "events.jsonl", "session/p/x.jsonl"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fixture) wantRun(t *testing.T, what string, id hub.RunID, record, directory bool) {
	t.Helper()
	_, err := f.store.Run(t.Context(), id)
	_, statErr := os.Lstat(filepath.Join(f.dir, "runs", string(id)))
	if (err == nil) != record || (statErr == nil) != directory {
		t.Errorf("%s: its record: %v, its directory: %v; want them there: %v, %v", what, err, statErr, record, directory)
	}
}

func TestPruneRemovesWhatEndedBefore(t *testing.T) {
	f := newFixture(t)
	day := 24 * time.Hour
	before := time.Now().Add(-30 * day)
	ended := f.old(t, before.Add(-day), hub.VerdictDone)
	across := f.old(t, before.Add(-time.Minute), hub.VerdictFailed) // it ended after that
	recent := f.old(t, before.Add(day), hub.VerdictDone)
	parked := f.old(t, before.Add(-2*day), "")
	gone := f.old(t, before.Add(-3*day), hub.VerdictDone)
	if err := os.RemoveAll(filepath.Join(f.dir, "runs", string(gone))); err != nil {
		t.Fatal(err)
	}
	cut := f.old(t, before.Add(-4*day), hub.VerdictDone)
	if err := os.Remove(filepath.Join(f.dir, "runs", string(cut), "lock")); err != nil {
		t.Fatal(err)
	}
	left, young := hub.NewRunID(before.Add(-5*day)), hub.NewRunID(before.Add(day))
	f.directoryOf(t, left)
	f.directoryOf(t, young)
	foreign := filepath.Join(f.dir, "runs", "notes")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := f.Prune(t.Context(), f.store, before)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", got)
	}
	f.wantRun(t, "one that ended before", ended, false, false)
	f.wantRun(t, "one that ended after", across, true, true)
	f.wantRun(t, "a recent one", recent, true, true)
	f.wantRun(t, "one without a verdict", parked, true, true)
	f.wantRun(t, "one without a directory", gone, false, false)
	f.wantRun(t, "one whose removal was cut short", cut, false, false)
	f.wantRun(t, "a directory without a record", left, false, false)
	f.wantRun(t, "a young directory without a record", young, false, true)
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("what is not ours was removed: %v", err)
	}
}

// unforgetting fails as a database does.
type unforgetting struct{}

func (unforgetting) Forget(context.Context, hub.RunID) error { return errors.New("boom") }

func TestAPruneThatIsCutShortIsFinishedByTheNext(t *testing.T) {
	f := newFixture(t)
	now := time.Now()
	ids := []hub.RunID{f.old(t, now.Add(-3*time.Hour), hub.VerdictDone), f.old(t, now.Add(-2*time.Hour), hub.VerdictDone)}
	if got, err := f.Prune(t.Context(), unforgetting{}, now); err == nil || got.Runs != 0 || got.Directories != 2 {
		t.Errorf("Prune = %+v, %v; want both failures, after both directories", got, err)
	}
	if got, err := f.Prune(t.Context(), f.store, now); err != nil || got != (run.Pruned{Runs: 2}) {
		t.Errorf("Prune again = %+v, %v", got, err)
	}
	for _, id := range ids {
		f.wantRun(t, "a pruned one", id, false, false)
	}
}

func TestPruneLeavesARunThatGoesOn(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hanging, ended := make(chan struct{}, 8), make(chan hub.Run, 1)
	go func() {
		r, err := f.Run(ctx, f.request("hang"), func([]byte) { hanging <- struct{}{} })
		if err != nil {
			t.Error(err)
		}
		ended <- r
	}()
	<-hanging
	if got, err := f.Prune(t.Context(), f.store, time.Now().Add(time.Hour)); err != nil || got != (run.Pruned{}) {
		t.Errorf("Prune = %+v, %v; want nothing removed", got, err)
	}
	cancel()
	f.checkAfter(t, <-ended)
}

package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/store"
)

// childPath, when set, makes this binary one more process that uses a database.
const childPath = "STORE_TEST_PATH"

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		if err := useDatabase(path, 20); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// useDatabase does what a process with runs does, n times.
func useDatabase(path string, n int) error {
	ctx := context.Background()
	s, err := store.Open(ctx, path)
	if err != nil {
		return err
	}
	for range n {
		r := newRun()
		if err := s.CreateRun(ctx, r); err != nil {
			return err
		}
		if _, err := s.Runs(ctx, store.Filter{Limit: 5, Running: true}); err != nil {
			return err
		}
		r.Verdict, r.Ended = hub.VerdictDone, r.Started.Add(time.Second)
		if err := s.UpdateRun(ctx, r); err != nil {
			return err
		}
	}
	return s.Close()
}

func newRun() hub.Run {
	now := time.Now().UTC().Truncate(time.Microsecond)
	return hub.Run{ID: hub.NewRunID(now), Profile: "default", Dir: "/w", Prompt: "p", Delivery: hub.DeliveryGateway, Started: now}
}

func create(t *testing.T) (*store.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a %41?b#c", "hub.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := store.Create(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

func TestOpenNeverCreates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	_, err := store.Open(t.Context(), path)
	if !errors.Is(err, hub.ErrNotFound) || hub.HintOf(err) == "" {
		t.Errorf("Open of a missing database: %v; want ErrNotFound with a hint", err)
	}
	if names, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(names) > 0 {
		t.Errorf("Open left %v", names)
	}
	if _, err := store.Create(t.Context(), filepath.Join(t.TempDir(), "missing", "hub.db")); err == nil {
		t.Error("Create made the directory")
	}
}

func TestCreateDoesNotReplace(t *testing.T) {
	s, path := create(t)
	r := newRun()
	if err := s.CreateRun(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(t.Context(), path); !errors.Is(err, hub.ErrExists) {
		t.Errorf("Create over a database: %v; want ErrExists", err)
	}
	if _, err := s.Run(t.Context(), r.ID); err != nil {
		t.Errorf("the run is gone: %v", err)
	}
}

func TestFilesArePrivate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	s, path := create(t)
	if err := s.CreateRun(t.Context(), newRun()); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Dir(path) + "/*")
	if len(names) < 3 {
		t.Fatalf("only %v; want the database, its -wal and its -shm", names)
	}
	os.Chmod(path, 0o644)
	again, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v; want 0600", filepath.Base(name), info.Mode())
		}
	}
}

func TestRunRoundTrip(t *testing.T) {
	s, path := create(t)
	zone := time.FixedZone("+0530", 19800)
	at := time.Date(2026, 3, 29, 2, 30, 0, 123456000, zone)
	r := hub.Run{
		ID: hub.NewRunID(at), Profile: "alice", ProfileID: "p-alice", Dir: "/w/ü", Prompt: "say 'hi'; DROP TABLE runs", Model: "m",
		Delivery: hub.DeliveryCopy, Started: at,
	}
	if err := s.CreateRun(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateRun(t.Context(), r); !errors.Is(err, hub.ErrExists) {
		t.Errorf("the same ID again: %v; want ErrExists", err)
	}
	r.Ended, r.Until = at.Add(time.Minute), at.Add(time.Hour)
	r.Verdict, r.Reason, r.Result, r.ExitCode, r.AgentSession = hub.VerdictParked, "why", "words", 1, "s-1"
	r.Usage = hub.Usage{Requests: 2, InputTokens: 3, OutputTokens: 4, CacheReadTokens: 5, CacheWriteTokens: 6, Cost: 7, Models: []string{"m1", "m2"}}
	if err := s.UpdateRun(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Run(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	r.Started, r.Ended, r.Until = r.Started.UTC(), r.Ended.UTC(), r.Until.UTC()
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("the run changed on its way (-want +got):\n%s", diff)
	}
}

func TestAParkedRunKeepsWhatItWaitsForUntilItGoesOn(t *testing.T) {
	s, _ := create(t)
	r := newRun()
	r.Attempts = 1
	if err := s.CreateRun(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*hub.Parking{
		{Cause: hub.ParkedForWindow, Reason: "why", Since: r.Started, Until: r.Started.Add(time.Hour)},
		nil,
		{Cause: hub.ParkedForLogin, Reason: "again", Since: r.Started.Add(time.Minute)},
	} {
		r.Parked, r.Interruptions = p, r.Interruptions+1
		if err := s.UpdateRun(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		got, err := s.Run(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("the run changed on its way (-want +got):\n%s", diff)
		}
	}
}

// The database of the first release goes on, with its runs.
func TestAnOlderSchemaIsBroughtUpToDate(t *testing.T) {
	s, path := create(t)
	r := newRun()
	r.Attempts = 1
	if err := s.CreateRun(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	s.Close()
	alter(t, path, `DROP INDEX runs_by_profile_id`)
	for _, column := range []string{"parked_cause", "parked_reason", "parked_since", "parked_until", "attempts", "interruptions", "profile_id"} {
		alter(t, path, `ALTER TABLE runs DROP COLUMN `+column)
	}
	alter(t, path, `DELETE FROM goose_db_version WHERE version_id > 1`)
	s, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.Run(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("an older run (-want +got):\n%s", diff)
	}
}

func TestAVerdictIsWrittenOnce(t *testing.T) {
	s, _ := create(t)
	r := newRun()
	if err := s.UpdateRun(t.Context(), r); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("UpdateRun of an unknown run: %v; want ErrNotFound", err)
	}
	if err := s.CreateRun(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	var won int
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, v := range []hub.Verdict{hub.VerdictDone, hub.VerdictFailed, hub.VerdictCancelled, hub.VerdictTimedOut} {
		group.Go(func() {
			mine := r
			mine.Verdict = v
			err := s.UpdateRun(t.Context(), mine)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.Is(err, hub.ErrConflict) {
				t.Errorf("the loser got %v; want ErrConflict", err)
			}
		})
	}
	group.Wait()
	if won != 1 {
		t.Errorf("%d verdicts were accepted; want 1", won)
	}
}

func TestRunsFilters(t *testing.T) {
	s, _ := create(t)
	var ids []hub.RunID
	for i := range 6 {
		r := newRun()
		r.ID = hub.NewRunID(r.Started.Add(time.Duration(i) * time.Second))
		if i%2 == 0 {
			r.Profile, r.ProfileID = "alice", "p-alice"
		}
		if i == 2 || i == 5 { // under another name at the time, and by an older hub
			r.Profile, r.ProfileID = map[int]hub.ProfileName{2: "before", 5: "alice"}[i], map[int]hub.ProfileID{2: "p-alice"}[i]
		}
		if err := s.CreateRun(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			r.Parked = &hub.Parking{Cause: hub.ParkedForLogin, Since: r.Started}
			if err := s.UpdateRun(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		if i < 3 {
			r.Verdict = hub.VerdictDone
			if err := s.UpdateRun(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, r.ID)
	}
	for name, c := range map[string]struct {
		filter store.Filter
		want   []int
	}{
		"all, newest first": {store.Filter{}, []int{5, 4, 3, 2, 1, 0}},
		"name":              {store.Filter{Profile: "alice"}, []int{5, 4, 0}},
		"profile":           {store.Filter{Of: hub.Profile{ID: "p-alice", Name: "alice"}}, []int{5, 4, 2, 0}},
		"another profile":   {store.Filter{Of: hub.Profile{ID: "p-bob", Name: "before"}}, nil},
		"running":           {store.Filter{Running: true}, []int{5, 4, 3}},
		"parked":            {store.Filter{Parked: true}, []int{3}},
		"both":              {store.Filter{Of: hub.Profile{ID: "p-alice"}, Running: true}, []int{4}},
		"limit":             {store.Filter{Limit: 2}, []int{5, 4}},
		"next page":         {store.Filter{Limit: 2, Before: ids[4]}, []int{3, 2}},
		"nobody":            {store.Filter{Profile: "bob"}, nil},
	} {
		runs, err := s.Runs(t.Context(), c.filter)
		if err != nil {
			t.Fatal(err)
		}
		got := []hub.RunID{}
		for _, r := range runs {
			got = append(got, r.ID)
		}
		want := []hub.RunID{}
		for _, i := range c.want {
			want = append(want, ids[i])
		}
		if diff := cmp.Diff(want, got); diff != "" || runs == nil {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestOnlyRunsThatHaveEndedAreForgotten(t *testing.T) {
	s, _ := create(t)
	r := newRun()
	if err := s.CreateRun(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(t.Context(), r.ID); !errors.Is(err, hub.ErrConflict) {
		t.Errorf("one that goes on: %v; want ErrConflict", err)
	}
	r.Verdict = hub.VerdictDone
	if err := s.UpdateRun(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Forget(t.Context(), r.ID); err != nil {
			t.Errorf("Forget: %v", err)
		}
	}
	if _, err := s.Run(t.Context(), r.ID); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("it is there still: %v", err)
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	s, path := create(t)
	s.Close()
	alter(t, path, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`)
	_, err := store.Open(t.Context(), path)
	if !errors.Is(err, hub.ErrFormat) || hub.HintOf(err) == "" {
		t.Errorf("Open of a newer schema: %v; want ErrFormat with a hint", err)
	}
}

func TestForeignAndDamagedFilesAreRefused(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.db")
	os.WriteFile(other, nil, 0o600)
	alter(t, other, `CREATE TABLE theirs (x)`)
	garbage := filepath.Join(dir, "garbage.db")
	os.WriteFile(garbage, bytes.Repeat([]byte("garbage "), 1000), 0o600)
	os.Symlink(other, filepath.Join(dir, "link.db"))
	for _, name := range []string{"other.db", "garbage.db", "link.db", "."} {
		if _, err := store.Open(t.Context(), filepath.Join(dir, name)); !errors.Is(err, hub.ErrFormat) {
			t.Errorf("Open of %s: %v; want ErrFormat", name, err)
		}
	}
}

// A process may die between making the file and the schema.
func TestOpenFinishesAnInterruptedCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	processes(t, path, 4)
}

func TestManyProcessesAndGoroutinesWrite(t *testing.T) {
	s, path := create(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := useDatabase(path, 20); err != nil {
				t.Error(err)
			}
		})
	}
	processes(t, path, 4)
	group.Wait()
	runs, err := s.Runs(t.Context(), store.Filter{})
	if err != nil || len(runs) != 8*20 {
		t.Errorf("%d runs, %v; want %d", len(runs), err, 8*20)
	}
	if open, _ := s.Runs(t.Context(), store.Filter{Running: true}); len(open) != 0 {
		t.Errorf("%d runs have no verdict", len(open))
	}
}

// processes lets n processes use the database at path at the same time.
func processes(t *testing.T, path string, n int) {
	t.Helper()
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childPath+"="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("a process failed: %v\n%s", err, out)
			}
		})
	}
	group.Wait()
}

func alter(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "hub.db")
	s, err := store.Create(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	s.Close()
	for b.Loop() {
		s, err := store.Open(b.Context(), path)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Runs(b.Context(), store.Filter{Limit: 20}); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

package run_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/store"
)

// processHub, when set, makes this binary a process that runs one prompt on that
// hub directory and says "hanging" when it hangs.
const processHub = "RUN_TEST_HUB"

func process(dir string) int {
	ctx := context.Background()
	s, err := store.Open(ctx, filepath.Join(dir, "hub.db"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer s.Close()
	r, err := run.New(run.Config{
		Dir: dir, Agent: os.Args[0], Store: s, Driver: &processDriver{}, Gateway: &fakeGateway{},
		Home: "/nonexistent", Grace: 30 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	req := run.Request{Profile: hub.Profile{ID: "p-1", Name: "other"}, Dir: os.Args[1], Prompt: os.Args[2], Park: len(os.Args) > 3}
	if len(os.Args) > 4 {
		if req.Limits.Requests, err = strconv.Atoi(os.Args[4]); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	got, err := r.Run(ctx, req, func(line []byte) {
		if bytes.Contains(line, []byte("hanging")) {
			fmt.Println("hanging")
		}
	})
	fmt.Println(got.Verdict, err)
	return 0
}

// start starts a process with a run that hangs, and returns once it does.
func (f *fixture) start(t *testing.T, more ...string) (cmd *exec.Cmd, id hub.RunID, said func() string) {
	t.Helper()
	cmd = exec.Command(os.Args[0], append([]string{f.workspace, "hang"}, more...)...)
	cmd.Env = append(os.Environ(), processHub+"="+f.dir, "GORACE=atexit_sleep_ms=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "hanging" {
		t.Fatalf("the process said %q", lines.Text())
	}
	runs, err := f.store.Runs(t.Context(), store.Filter{Running: true, Limit: 1})
	if err != nil || len(runs) != 1 {
		t.Fatalf("runs: %v, %v", runs, err)
	}
	return cmd, runs[0].ID, func() string {
		lines.Scan()
		return lines.Text()
	}
}

func TestAKilledProcessIsReconciled(t *testing.T) {
	f := newFixture(t)
	cmd, id, _ := f.start(t)
	if n, err := f.Reconcile(t.Context()); n != 0 || err != nil {
		t.Fatalf("Reconcile of a live run: %d, %v; want it left alone", n, err)
	}
	dir := filepath.Join(f.dir, "runs", string(id))
	if _, err := os.Stat(filepath.Join(dir, "home", ".claude", ".credentials.json")); err != nil {
		t.Fatalf("nothing to clean up: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	var group sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for range 4 {
		group.Go(func() {
			n, err := f.Reconcile(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += n
		})
	}
	group.Wait()
	if total != 1 {
		t.Errorf("%d reconcilers closed the run; want 1", total)
	}
	r, err := f.store.Run(t.Context(), id)
	if err != nil || r.Verdict != hub.VerdictFailed || !strings.Contains(r.Reason, "interrupted") || r.ExitCode != -1 {
		t.Errorf("%+v, %v; want failed, interrupted", r, err)
	}
	f.checkAfter(t, r)
	lines := f.log(t, id)
	if n := note(t, lines[len(lines)-1]); n.Verdict != hub.VerdictFailed {
		t.Errorf("the log ends with %+v", n)
	}
}

func TestReconcileClosesARowWithoutItsDirectory(t *testing.T) {
	f := newFixture(t)
	row := hub.Run{ID: hub.NewRunID(time.Now()), Profile: "default", Started: time.Now()}
	if err := f.store.CreateRun(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Reconcile(t.Context()); n != 1 || err != nil {
		t.Errorf("Reconcile = %d, %v; want 1", n, err)
	}
	if _, err := os.Stat(filepath.Join(f.dir, "runs")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Reconcile made a directory: %v", err)
	}
}

// A run that is just starting must never be taken for a dead one.
func TestReconcileLeavesStartingRunsAlone(t *testing.T) {
	f := newFixture(t)
	stop := make(chan struct{})
	var reconciling sync.WaitGroup
	reconciling.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, err := f.Reconcile(t.Context()); n != 0 || err != nil {
				t.Errorf("Reconcile closed %d, %v", n, err)
			}
		}
	})
	for range 10 {
		if r, err := f.Run(t.Context(), f.request("succeed"), nil); err != nil || r.Verdict != hub.VerdictDone {
			t.Errorf("%s (%q), %v", r.Verdict, r.Reason, err)
		}
	}
	close(stop)
	reconciling.Wait()
}

func TestCancelFromAnotherProcess(t *testing.T) {
	f := newFixture(t)
	cmd, id, said := f.start(t)
	if err := f.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := said(); got != "cancelled <nil>" {
		t.Errorf("the other process said %q; want its run cancelled", got)
	}
	cmd.Wait()
	if err := f.Cancel(t.Context(), id); !errors.Is(err, hub.ErrConflict) {
		t.Errorf("Cancel after the end: %v; want ErrConflict", err)
	}
	if err := f.Cancel(t.Context(), hub.NewRunID(time.Now())); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Cancel of an unknown run: %v; want ErrNotFound", err)
	}
	if err := f.Cancel(t.Context(), "../x"); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("Cancel of no ID: %v; want ErrInvalid", err)
	}
}

// watcher tells when a text has come by.
type watcher struct {
	mu   sync.Mutex
	b    bytes.Buffer
	text string
	seen chan struct{}
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.b.String(), w.text)
	w.b.Write(p)
	if !before && strings.Contains(w.b.String(), w.text) {
		close(w.seen)
	}
	return len(p), nil
}

func TestFollowUntilTheEnd(t *testing.T) {
	f := newFixture(t)
	_, id, _ := f.start(t)
	w := &watcher{text: "hanging", seen: make(chan struct{})}
	ended := make(chan error)
	go func() { ended <- f.Follow(t.Context(), id, w) }()
	<-w.seen
	select {
	case err := <-ended:
		t.Fatalf("Follow ended before the run: %v", err)
	default:
	}
	if err := f.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(f.log(t, id), "\n") + "\n"; w.b.String() != want || !strings.Contains(want, `"verdict":"cancelled"`) {
		t.Errorf("followed:\n%s\nin the log:\n%s", w.b.String(), want)
	}
	var again bytes.Buffer
	if err := f.Follow(t.Context(), id, &again); err != nil || again.String() != w.b.String() {
		t.Errorf("following a run that has ended: %v\n%s", err, again.String())
	}
}

func TestFollowEndsWithItsContextAndWithTheProcess(t *testing.T) {
	f := newFixture(t)
	cmd, id, _ := f.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Follow(ctx, id, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Follow on a dead context: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := f.Follow(t.Context(), id, &bytes.Buffer{}); err != nil {
		t.Errorf("Follow after the process died: %v", err)
	}
	if err := f.Follow(t.Context(), hub.NewRunID(time.Now()), &bytes.Buffer{}); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Follow of an unknown run: %v; want ErrNotFound", err)
	}
}

// Who has cancelled a run was told so: the death of its process does not undo it.
func TestACancelOutlivesTheProcess(t *testing.T) {
	for name, more := range map[string][]string{"of a command": nil, "of a daemon": {"park"}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			cmd, id, _ := f.start(t, more...)
			if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil { // it does not get to hear of it
				t.Fatal(err)
			}
			if err := f.Cancel(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			cmd.Process.Kill()
			cmd.Wait()
			if n, err := f.Reconcile(t.Context()); n != 1 || err != nil {
				t.Fatalf("Reconcile = %d, %v", n, err)
			}
			r, err := f.store.Run(t.Context(), id)
			if err != nil || r.Verdict != hub.VerdictCancelled {
				t.Fatalf("%+v, %v; want cancelled", r, err)
			}
			f.checkAfter(t, r)
		})
	}
}

// What a run has used is not given back to it because its process dies.
func TestTheDeathOfTheProcessGivesNothingBack(t *testing.T) {
	die := func(t *testing.T, requests string) (*parking, hub.Run) {
		p := newParking(t)
		cmd, id, _ := p.start(t, "park", requests)
		note := filepath.Join(p.dir, "runs", string(id), "spent.json")
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for { // it has used two requests from its beginning
			if info, err := os.Stat(note); err == nil {
				if info.Mode().Perm() != 0o600 {
					t.Errorf("the note has mode %v", info.Mode())
				}
				break
			}
			select {
			case <-tick.C:
			case <-time.After(time.Minute):
				t.Fatal("nothing was noted")
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		if n, err := p.Reconcile(t.Context()); n != 1 || err != nil {
			t.Fatalf("Reconcile = %d, %v", n, err)
		}
		r, err := p.store.Run(t.Context(), id)
		if err != nil || r.Usage.Requests != 2 || r.Usage.InputTokens != 10 {
			t.Fatalf("%+v, %v; want what was used before", r.Usage, err)
		}
		return p, r
	}
	t.Run("something is left", func(t *testing.T) {
		p, r := die(t, "5")
		p.parked(t, r, hub.ParkedForRestart)
		w := &watcher{text: "resumed", seen: make(chan struct{})}
		followed := make(chan error)
		go func() { followed <- p.Follow(t.Context(), r.ID, w) }()
		if n, err := p.resumer.RunOnce(t.Context()); n != 1 || err != nil {
			t.Fatalf("RunOnce = %d, %v", n, err)
		}
		<-w.seen
		if err := p.Cancel(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		<-p.changed
		<-followed
		if got := p.gateway.last.Limits; got.Requests != 3 || got.Lifetime >= run.DefaultTimeout+2*30*time.Second+time.Minute {
			t.Errorf("the second attempt had %+v; want 3 requests, and less time", got)
		}
		if r := p.ends(t, r.ID, hub.VerdictCancelled); r.Usage.Requests != 4 {
			t.Errorf("%+v; want the usage of both attempts", r.Usage)
		}
	})
	t.Run("nothing is left", func(t *testing.T) {
		p, r := die(t, "2")
		if r = p.ends(t, r.ID, hub.VerdictFailed); !strings.Contains(r.Reason, "used up") {
			t.Errorf("the reason is %q", r.Reason)
		}
	})
}

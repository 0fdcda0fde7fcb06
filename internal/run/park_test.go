package run_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/store"
)

// owner is a login that a test signs in and out, and a clock that it sets.
type owner struct {
	mu   sync.Mutex
	gone bool
	ok   bool
	mark string
	at   time.Time

	rule    string // that forbids what was asked for
	model   string // that the rules demand
	trouble error  // of asking
}

func (o *owner) Login(context.Context, hub.ProfileID) (bool, string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return false, "", hub.ErrNotFound
	}
	return o.ok, o.mark, nil
}

func (o *owner) Allow(_ context.Context, req run.Request) (run.Request, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return req, fmt.Errorf("%w: the profile", hub.ErrNotFound)
	}
	if o.rule != "" {
		return req, fmt.Errorf("%w: %s", hub.ErrRefused, o.rule)
	}
	req.Model = o.model
	return req, o.trouble
}

func (o *owner) now() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.at
}

func (o *owner) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

// parking is a fixture whose runs may be parked.
type parking struct {
	*fixture
	*owner
	resumer *run.Resumer
	changed chan struct{}
}

func newParking(t *testing.T, change ...func(*run.Config)) *parking {
	t.Helper()
	p := &parking{owner: &owner{mark: "1", ok: true, at: time.Now()}, changed: make(chan struct{}, 10)}
	p.fixture = newFixture(t, append([]func(*run.Config){func(c *run.Config) { c.Logins, c.Now = p.owner, p.now }}, change...)...)
	p.resumer = run.NewResumer(p.Runner, func() { p.changed <- struct{}{} })
	t.Cleanup(p.resumer.Stop)
	return p
}

func (p *parking) request(prompt string) run.Request {
	req := p.fixture.request(prompt)
	req.Park = true
	return req
}

// park runs the request and demands that it is parked for that cause.
func (p *parking) park(t *testing.T, req run.Request, cause hub.ParkCause) hub.Run {
	t.Helper()
	r, err := p.Run(t.Context(), req, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p.parked(t, r, cause)
}

// parked checks what must hold of a parked run.
func (p *parking) parked(t *testing.T, r hub.Run, cause hub.ParkCause) hub.Run {
	t.Helper()
	stored, err := p.store.Run(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Parked == nil || stored.Parked.Cause != cause || stored.Parked.Reason == "" || stored.Parked.Since.IsZero() || stored.Verdict != "" || !stored.Ended.IsZero() {
		t.Fatalf("%+v, %+v; want it parked for %s", stored, stored.Parked, cause)
	}
	if r.Parked == nil || r.Parked.Cause != cause {
		t.Errorf("Run returned %+v; want what is stored", r)
	}
	if p.driver.running() || p.gateway.open != 0 {
		t.Error("a sandbox or a lease is left")
	}
	info, err := os.Stat(filepath.Join(p.dir, "runs", string(r.ID), "request.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the kept request: %v, %v; want a private file", info, err)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "runs", string(r.ID), "home")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the private home of a parked run: %v; want none", err)
	}
	return stored
}

// once has the resumer look once and waits for what it has started.
func (p *parking) once(t *testing.T, want int) {
	t.Helper()
	n, err := p.resumer.RunOnce(t.Context())
	if err != nil || n != want {
		t.Fatalf("RunOnce = %d, %v; want %d runs to go on", n, err, want)
	}
	for range n {
		<-p.changed
	}
}

// ends demands the run's verdict, and that nothing but its log is left.
func (p *parking) ends(t *testing.T, id hub.RunID, want hub.Verdict) hub.Run {
	t.Helper()
	r, err := p.store.Run(t.Context(), id)
	if err != nil || r.Verdict != want || r.Parked != nil {
		t.Fatalf("%+v, %v; want %s", r, err, want)
	}
	p.checkAfter(t, r)
	return r
}

func (p *parking) refuse(verdict hub.Verdict, until time.Time) {
	p.gateway.refuse = &run.RefusedError{Refusal: run.Refusal{Verdict: verdict, Reason: "the platform says no", Until: until}}
}

func TestAParkedRunGoesOnAfterTheSignIn(t *testing.T) {
	p := newParking(t)
	p.refuse(hub.VerdictLoginRequired, time.Time{})
	p.ok = false
	id := p.park(t, p.request("succeed"), hub.ParkedForLogin).ID
	p.once(t, 0)
	if n, err := p.Reconcile(t.Context()); n != 0 || err != nil {
		t.Errorf("Reconcile of a parked run = %d, %v", n, err)
	}
	p.set(func() { p.mark, p.at = "another that does not serve", p.at.Add(time.Hour) })
	p.once(t, 0)
	p.gateway.refuse = nil
	p.set(func() { p.ok, p.mark = true, "2" })
	p.once(t, 1)
	r := p.ends(t, id, hub.VerdictDone)
	if r.Attempts != 2 || r.Result != "all done" {
		t.Errorf("%+v; want it done in the second attempt", r)
	}
	p.once(t, 0)
	var kinds []string
	for _, l := range p.log(t, id) {
		if strings.HasPrefix(l, `{"type":"hub"`) {
			kinds = append(kinds, note(t, l).Subtype)
		}
	}
	if diff := cmp.Diff([]string{run.NoteStarted, run.NoteParked, run.NoteResumed, run.NoteVerdict}, kinds); diff != "" {
		t.Errorf("the hub's own entries in the log (-want +got):\n%s", diff)
	}
}

// A login that says it serves, and then does not, must not be tried all the time.
func TestTheSameLoginIsTriedAgainAfterPauses(t *testing.T) {
	p := newParking(t)
	p.refuse(hub.VerdictLoginRequired, time.Time{})
	id := p.park(t, p.request("succeed"), hub.ParkedForLogin).ID
	for _, pause := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		p.set(func() { p.at = p.at.Add(pause - time.Second) })
		p.once(t, 0)
		p.set(func() { p.at = p.at.Add(time.Second) })
		p.once(t, 1)
	}
	if r, _ := p.store.Run(t.Context(), id); r.Attempts != 4 || r.Parked == nil {
		t.Errorf("%+v; want it parked after 4 attempts", r)
	}
}

func TestAParkedRunGoesOnWhenTheWindowOpens(t *testing.T) {
	p := newParking(t)
	opens := p.at.Add(5 * time.Hour)
	p.refuse(hub.VerdictParked, opens)
	r := p.park(t, p.request("succeed"), hub.ParkedForWindow)
	if !r.Parked.Until.Equal(opens.Truncate(time.Microsecond)) {
		t.Errorf("parked until %v; want %v", r.Parked.Until, opens)
	}
	p.set(func() { p.at = opens.Add(-time.Second) })
	p.once(t, 0)
	p.gateway.refuse = nil
	p.set(func() { p.at = opens.Add(time.Minute) })
	p.once(t, 1)
	p.ends(t, r.ID, hub.VerdictDone)
}

func TestAStoppingProcessParksWhatItRuns(t *testing.T) {
	p := newParking(t)
	stopping := func() (context.Context, func([]byte)) {
		ctx, cancel := context.WithCancelCause(t.Context())
		return ctx, func(line []byte) {
			if bytes.Contains(line, []byte("hanging")) {
				cancel(run.ErrStopping)
			}
		}
	}
	ctx, sink := stopping()
	r, err := p.Run(ctx, p.request("hang"), sink)
	if err != nil {
		t.Fatal(err)
	}
	p.parked(t, r, hub.ParkedForRestart)

	// The next process takes it up, and stops, too.
	next := run.NewResumer(p.Runner, func() { p.changed <- struct{}{} })
	w := &watcher{text: "resumed", seen: make(chan struct{})}
	followed := make(chan error)
	go func() { followed <- p.Follow(t.Context(), r.ID, w) }()
	next.Start(t.Context())
	next.Start(t.Context())
	<-w.seen
	next.Stop()
	next.Stop()
	<-p.changed
	if r, err = p.store.Run(t.Context(), r.ID); err != nil || r.Attempts != 2 {
		t.Fatalf("%+v, %v; want a second attempt", r, err)
	}
	p.parked(t, r, hub.ParkedForRestart)

	if err := p.Cancel(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	p.ends(t, r.ID, hub.VerdictCancelled)
	if err := <-followed; err != nil || !strings.Contains(w.b.String(), `"verdict":"cancelled"`) {
		t.Errorf("following: %v\n%s", err, w.b.String())
	}
	if err := p.Cancel(t.Context(), r.ID); !errors.Is(err, hub.ErrConflict) {
		t.Errorf("Cancel after the end: %v; want ErrConflict", err)
	}
	if _, err := p.Resume(t.Context(), r.ID); !errors.Is(err, hub.ErrConflict) {
		t.Errorf("Resume after the end: %v; want ErrConflict", err)
	}
}

// A run that was not to be parked ends when its process does.
func TestARunOfACommandIsNotParked(t *testing.T) {
	p := newParking(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	req := p.request("hang")
	req.Park = false
	r, err := p.Run(ctx, req, func([]byte) { cancel(run.ErrStopping) })
	if err != nil || r.Verdict != hub.VerdictCancelled {
		t.Errorf("%+v, %v; want cancelled", r, err)
	}
	p.ends(t, r.ID, hub.VerdictCancelled)
}

func TestAResumedRunHasWhatIsLeftOfItsLimits(t *testing.T) {
	p := newParking(t)
	p.gateway.refusal = &run.Refusal{Verdict: hub.VerdictParked, Reason: "full", Until: p.at}
	req := p.request("fail")
	req.Limits = hub.Limits{Requests: 5, Tokens: 25, Cost: 100, Models: []string{"m"}}
	id := p.park(t, req, hub.ParkedForWindow).ID
	p.set(func() { p.at = p.at.Add(time.Hour) })
	p.once(t, 1)
	if got, want := p.gateway.last.Limits, (hub.Limits{Requests: 3, Tokens: 15, Cost: 58, Models: []string{"m"}}); got.Requests != want.Requests || got.Tokens != want.Tokens || got.Cost != want.Cost || !cmp.Equal(got.Models, want.Models) {
		t.Errorf("the second attempt had %+v; want %+v", got, want)
	}
	r, err := p.store.Run(t.Context(), id)
	if err != nil || r.Usage.Requests != 4 || r.Usage.Tokens() != 20 || r.Usage.Cost != 84 {
		t.Errorf("%+v, %v; want the usage of both attempts", r.Usage, err)
	}
	// After the third, nothing is left: 4 of 5 requests, 20 of 25 tokens, 84 of 100.
	p.set(func() { p.at = p.at.Add(time.Hour) })
	p.once(t, 1)
	p.ends(t, id, hub.VerdictParked)
}

func TestARunWhoseProcessDiesIsParkedAFewTimes(t *testing.T) {
	p := newParking(t)
	cmd, id, _ := p.start(t, "park")
	cmd.Process.Kill()
	cmd.Wait()
	log, err := os.OpenFile(filepath.Join(p.dir, "runs", string(id), "events.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	log.WriteString(`{"type":"assis`) // it died in the middle of a line
	log.Close()
	if n, err := p.Reconcile(t.Context()); n != 1 || err != nil {
		t.Fatalf("Reconcile = %d, %v", n, err)
	}
	r, err := p.store.Run(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	r = p.parked(t, r, hub.ParkedForRestart)
	if r.Interruptions != 1 || r.AgentSession == "" {
		t.Errorf("%+v; want one interruption, and the session", r)
	}
	var all bytes.Buffer
	if err := p.Log(id, &all); err != nil || !strings.Contains(all.String(), "\n{\"type\":\"hub\",\"subtype\":\"parked\"") {
		t.Errorf("the parking is no line of the log: %v\n%s", err, &all)
	}

	// It goes on, and kills its process again and again.
	for range 3 {
		r.Parked = nil
		if err := p.store.UpdateRun(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if n, err := p.Reconcile(t.Context()); n != 1 || err != nil {
			t.Fatalf("Reconcile = %d, %v", n, err)
		}
		if r, err = p.store.Run(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if r = p.ends(t, id, hub.VerdictFailed); r.Interruptions != 4 || !strings.Contains(r.Reason, "4 times") {
		t.Errorf("%+v", r)
	}
}

func TestWhatCannotGoOnEnds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*parking, string)
		reason string
	}{
		"the workspace is gone": {func(p *parking, _ string) { os.RemoveAll(p.workspace) }, "workspace"},
		"the workspace is elsewhere": {func(p *parking, _ string) {
			os.Rename(p.workspace, p.workspace+"2")
			os.Symlink(p.workspace+"2", p.workspace)
		}, "another directory"},
		"the request is lost":    {func(_ *parking, dir string) { os.Remove(filepath.Join(dir, "request.json")) }, "request"},
		"the request is damaged": {func(_ *parking, dir string) { os.WriteFile(filepath.Join(dir, "request.json"), []byte("{"), 0o600) }, "request"},
		"the request is newer":   {func(_ *parking, dir string) { newerRequest(filepath.Join(dir, "request.json")) }, "request"},
		"the profile is gone":    {func(p *parking, _ string) { p.set(func() { p.gone = true }) }, "profile"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParking(t)
			p.refuse(hub.VerdictLoginRequired, time.Time{})
			id := p.park(t, p.request("succeed"), hub.ParkedForLogin).ID
			c.change(p, filepath.Join(p.dir, "runs", string(id)))
			p.set(func() { p.at, p.mark = p.at.Add(time.Hour), "2" })
			p.once(t, 1)
			if r := p.ends(t, id, hub.VerdictFailed); !strings.Contains(r.Reason, c.reason) {
				t.Errorf("the reason is %q; want it to name the %s", r.Reason, c.reason)
			}
		})
	}
}

// newerRequest adds a limit that this version does not know.
func newerRequest(path string) {
	data, _ := os.ReadFile(path)
	os.WriteFile(path, bytes.Replace(data, []byte(`"Profile":{`), []byte(`"Profile":{"sessions":1,`), 1), 0o600)
}

func TestAResumedRunHasWhatIsLeftOfItsTime(t *testing.T) {
	p := newParking(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	req := p.request("hang")
	req.Timeout = time.Hour
	r, err := p.Run(ctx, req, func(line []byte) {
		if bytes.Contains(line, []byte("hanging")) {
			p.set(func() { p.at = p.at.Add(45 * time.Minute) })
			cancel(run.ErrStopping)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	before := p.gateway.last.Limits.Lifetime
	p.parked(t, r, hub.ParkedForRestart)
	p.set(func() { p.at = p.at.Add(24 * time.Hour) }) // parked, it takes none of its time
	if n, err := p.resumer.RunOnce(t.Context()); n != 1 || err != nil {
		t.Fatalf("RunOnce = %d, %v", n, err)
	}
	w := &watcher{text: "resumed", seen: make(chan struct{})}
	followed := make(chan error)
	go func() { followed <- p.Follow(t.Context(), r.ID, w) }()
	<-w.seen
	if err := p.Cancel(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	<-p.changed
	<-followed
	if got := before - p.gateway.last.Limits.Lifetime; got != 45*time.Minute {
		t.Errorf("the second attempt had %v less; want 45m", got)
	}
	p.ends(t, r.ID, hub.VerdictCancelled)
}

func TestTheRulesOfTheDayHold(t *testing.T) {
	p := newParking(t)
	p.refuse(hub.VerdictParked, p.at.Add(-time.Hour))
	id := p.park(t, p.request("succeed"), hub.ParkedForWindow).ID
	p.set(func() { p.trouble = errors.New("the disk is slow") })
	p.once(t, 1)
	if r, err := p.store.Run(t.Context(), id); err != nil || r.Parked == nil {
		t.Fatalf("%+v, %v; want it parked while nobody can say", r, err)
	}
	p.set(func() { p.trouble, p.rule = nil, "not any more" })
	p.once(t, 1)
	if r := p.ends(t, id, hub.VerdictRefused); !strings.Contains(r.Reason, "not any more") {
		t.Errorf("the reason is %q", r.Reason)
	}

	id = p.park(t, p.request("show"), hub.ParkedForWindow).ID // without the rule again
	p.gateway.refuse = nil
	p.set(func() { p.rule, p.model = "", "opus" })
	p.once(t, 1)
	if r := p.ends(t, id, hub.VerdictDone); !strings.Contains(r.Result, "--model=opus") {
		t.Errorf("it went on with %q", r.Result)
	}
}

// A cancel that comes while the run is being parked is not lost.
func TestACancelMeetsParking(t *testing.T) {
	p := newParking(t)
	for i := range 20 {
		ctx, cancel := context.WithCancelCause(t.Context())
		told := make(chan error, 1)
		r, err := p.Run(ctx, p.request("hang"), func(line []byte) {
			switch {
			case bytes.Contains(line, []byte("hanging")):
				cancel(run.ErrStopping)
			case bytes.Contains(line, []byte(`"interrupted"`)): // it is about to be parked
				open, err := p.store.Runs(t.Context(), store.Filter{Running: true})
				if err != nil || len(open) != 1 {
					told <- fmt.Errorf("%d runs: %w", len(open), err)
					return
				}
				go func() {
					time.Sleep(time.Duration(i) * 500 * time.Microsecond) // to come at every moment of it
					told <- p.Cancel(t.Context(), open[0].ID)
				}()
			}
		})
		if err := errors.Join(err, <-told); err != nil {
			t.Fatal(err)
		}
		p.ends(t, r.ID, hub.VerdictCancelled)
	}
}

func TestARunWithoutItsDirectoryEnds(t *testing.T) {
	p := newParking(t)
	p.refuse(hub.VerdictParked, p.at)
	id := p.park(t, p.request("succeed"), hub.ParkedForWindow).ID
	os.RemoveAll(filepath.Join(p.dir, "runs", string(id)))
	p.set(func() { p.at = p.at.Add(time.Hour) })
	p.once(t, 1)
	if r, err := p.store.Run(t.Context(), id); err != nil || r.Verdict != hub.VerdictFailed {
		t.Errorf("%+v, %v; want failed", r, err)
	}
}

func TestARunIsNotParkedForEver(t *testing.T) {
	p := newParking(t)
	p.ok = false
	p.refuse(hub.VerdictLoginRequired, time.Time{})
	id := p.park(t, p.request("succeed"), hub.ParkedForLogin).ID
	p.set(func() { p.at = p.at.Add(14*24*time.Hour - time.Second) })
	p.once(t, 0)
	if r, _ := p.store.Run(t.Context(), id); r.Parked == nil {
		t.Fatalf("%+v; want it parked for 14 days", r)
	}
	p.set(func() { p.at = p.at.Add(time.Second) })
	p.once(t, 0)
	p.ends(t, id, hub.VerdictLoginRequired)
}

// However a cancel and a resume meet, the run gets one verdict and leaves nothing.
func TestCancelMeetsResume(t *testing.T) {
	p := newParking(t)
	for range 20 {
		p.refuse(hub.VerdictParked, p.at.Add(-time.Hour))
		id := p.park(t, p.request("succeed"), hub.ParkedForWindow).ID
		p.gateway.refuse = nil
		cancelled := make(chan error)
		go func() { cancelled <- p.Cancel(t.Context(), id) }()
		if _, err := p.Resume(t.Context(), id); err != nil && !errors.Is(err, hub.ErrConflict) && !errors.Is(err, hub.ErrLocked) {
			t.Errorf("Resume: %v", err)
		}
		if err := <-cancelled; err != nil && !errors.Is(err, hub.ErrConflict) {
			t.Errorf("Cancel: %v", err)
		}
		r, err := p.store.Run(t.Context(), id)
		if err != nil || r.Verdict != hub.VerdictDone && r.Verdict != hub.VerdictCancelled {
			t.Fatalf("%+v, %v; want done or cancelled", r, err)
		}
		p.checkAfter(t, r)
	}
}

// What is kept holds the whole prompt, which the record does not.
func TestAPromptOfTwoMegabytesIsKept(t *testing.T) {
	p := newParking(t)
	p.refuse(hub.VerdictParked, p.at.Add(-time.Hour))
	prompt := "succeed " + strings.Repeat("\x01", run.MaxPrompt-8) // each of which JSON writes as six bytes
	id := p.park(t, p.request(prompt), hub.ParkedForWindow).ID
	data, err := os.ReadFile(filepath.Join(p.dir, "runs", string(id), "request.json"))
	if err != nil || !json.Valid(data) {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	p.gateway.refuse = nil
	p.once(t, 1)
	p.ends(t, id, hub.VerdictDone)
}

// The process died after it had parked the run, and before it saw the cancel.
func TestACancelledRunDoesNotGoOn(t *testing.T) {
	for name, next := range map[string]func(*parking, hub.RunID) error{
		"resumed": func(p *parking, id hub.RunID) error { _, err := p.Resume(t.Context(), id); return err },
		"reconciled": func(p *parking, _ hub.RunID) error {
			_, err := p.Reconcile(t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParking(t)
			p.refuse(hub.VerdictLoginRequired, time.Time{})
			id := p.park(t, p.request("succeed"), hub.ParkedForLogin).ID
			p.gateway.refuse = nil
			if err := os.WriteFile(filepath.Join(p.dir, "runs", string(id), "cancel"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := next(p, id); err != nil {
				t.Fatal(err)
			}
			p.ends(t, id, hub.VerdictCancelled)
		})
	}
}

func TestTheSessionOfTheLastAttemptIsFound(t *testing.T) {
	const first, second = "0f0e0d0c-0000-4000-8000-000000000001", "0f0e0d0c-0000-4000-8000-000000000002"
	event := func(session string) string {
		return `{"type":"system","subtype":"init","session_id":"` + session + `","model":"m","cwd":"/w"}` + "\n"
	}
	long := strings.Repeat(event(first), 1500)
	resumed := `{"type":"hub","subtype":"resumed","run":"r-1","text":"it goes on"}` + "\n"
	for name, c := range map[string]struct{ log, want string }{
		"one attempt":             {long, first},
		"a second":                {event(first) + resumed + event(second), second},
		"a second, after a long":  {long + resumed + event(second), second},
		"a second, and long":      {long + resumed + strings.Repeat(event(second), 1500), second},
		"a second that said none": {long + resumed, first},
		"a second, cut off":       {long + resumed + event(second) + `{"type":"assis`, second},
		"nothing":                 {"", ""},
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(c.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := run.LastSession(path); got != c.want {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
}

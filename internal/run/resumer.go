package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/store"
)

// How often parked runs are looked at, how many go on at once, and how long one
// waits that nothing has changed for.
const (
	resumePeriod   = 5 * time.Second
	resumeParallel = 4
	maxParkedRuns  = 100_000 // that are looked at; the oldest go on first
	minResumePause = time.Minute
	maxResumePause = time.Hour
	windowMargin   = 2 * time.Second // the platform's clock may be behind ours
)

// Resumer goes on with parked runs by itself once what they wait for is there: a
// new sign-in, the time at which the plan's window opens, or, for those of a
// process that has stopped or died, at once. It may be stopped at any time: the
// runs that it has going are parked again. One at a time works on a directory;
// more do no harm.
type Resumer struct {
	runner  *Runner
	changed func()
	slots   chan struct{}

	mu      sync.Mutex // covers all below
	started bool
	stop    context.CancelCauseFunc
	going   map[hub.RunID]bool // runs that this one has
	wg      sync.WaitGroup
}

// NewResumer returns a resumer of the runner's parked runs. changed, if not nil,
// is called after one went on, and after it ended or was parked again.
func NewResumer(r *Runner, changed func()) *Resumer {
	if changed == nil {
		changed = func() {}
	}
	return &Resumer{runner: r, changed: changed, slots: make(chan struct{}, resumeParallel), going: map[hub.RunID]bool{}}
}

// Start begins to look after parked runs until Stop or the end of ctx. It returns
// at once; it may be called twice.
func (s *Resumer) Start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return
	}
	s.started = true
	ctx, s.stop = context.WithCancelCause(ctx)
	s.wg.Go(func() { s.loop(ctx) })
}

// Stop parks the runs that are going again, and waits for that. It may be called
// twice, and without Start.
func (s *Resumer) Stop() {
	s.mu.Lock()
	if s.stop != nil {
		s.stop(ErrStopping)
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Resumer) loop(ctx context.Context) {
	timer := time.NewTimer(rand.N(200 * time.Millisecond))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if _, err := s.RunOnce(ctx); err != nil && ctx.Err() == nil {
			s.runner.cfg.Log.Error("looking after parked runs", "err", err)
		}
		timer.Reset(resumePeriod)
	}
}

// RunOnce takes care of the runs whose process has died, starts the parked runs
// that are due, the oldest first, as far as there is room, and returns how many. ctx is theirs: [Resumer.Stop] waits for them.
func (s *Resumer) RunOnce(ctx context.Context) (int, error) {
	r := s.runner
	_, interrupted := r.Reconcile(ctx)
	parked, err := r.cfg.Store.Runs(ctx, store.Filter{Parked: true, Limit: maxParkedRuns})
	if err != nil {
		return 0, fmt.Errorf("listing parked runs: %w", err)
	}
	n := 0
	errs := []error{interrupted}
	for i := len(parked) - 1; i >= 0; i-- { // they come newest first
		due, err := s.due(ctx, parked[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("run %s: %w", parked[i].ID, err))
		}
		if !due || !s.claim(parked[i].ID) {
			continue
		}
		select {
		case s.slots <- struct{}{}:
			n++
			s.wg.Go(func() { s.resume(ctx, parked[i].ID) })
		default:
			s.release(parked[i].ID)
			return n, errors.Join(errs...)
		}
	}
	return n, errors.Join(errs...)
}

func (s *Resumer) claim(id hub.RunID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.going[id] {
		return false
	}
	s.going[id] = true
	return true
}

func (s *Resumer) release(id hub.RunID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.going, id)
}

// resume goes on with one run until its end. Errors are told, and it is tried
// again with the next look.
func (s *Resumer) resume(ctx context.Context, id hub.RunID) {
	defer s.changed()
	defer s.release(id)
	defer func() { <-s.slots }()
	log := s.runner.cfg.Log.With("run", id)
	log.Info("a parked run goes on")
	record, err := s.runner.Resume(ctx, id)
	switch {
	case errors.Is(err, hub.ErrConflict), errors.Is(err, hub.ErrLocked): // cancelled this moment
	case err != nil:
		log.Error("a parked run could not go on", "err", err)
	case record.Parked != nil:
		log.Info("a run is parked again", "cause", record.Parked.Cause)
	default:
		log.Log(ctx, slog.LevelInfo, "a parked run has ended", "verdict", record.Verdict)
	}
}

// due reports whether what the run waits for is there.
func (s *Resumer) due(ctx context.Context, record hub.Run) (bool, error) {
	r, p := s.runner, record.Parked
	now := r.cfg.Now()
	if _, _, over := overdue(p, now); over {
		return false, nil // for [Runner.Reconcile]
	}
	paused := !now.Before(p.Since.Add(resumePause(record.Attempts)))
	switch p.Cause {
	case hub.ParkedForLogin:
		return s.signedIn(ctx, record, paused)
	case hub.ParkedForWindow:
		if p.Until.IsZero() {
			return paused, nil
		}
		return !now.Before(p.Until.Add(windowMargin)), nil
	}
	return true, nil
}

// signedIn reports whether the login of the run's profile serves again. Where the
// login is the one that the run was refused with, the hub takes another look only
// after a pause.
func (s *Resumer) signedIn(ctx context.Context, record hub.Run, paused bool) (bool, error) {
	r := s.runner
	if r.cfg.Logins == nil {
		return paused, nil
	}
	serves, mark, err := r.cfg.Logins.Login(ctx, record.ProfileID)
	if errors.Is(err, hub.ErrNotFound) {
		return true, nil // it can only end, and Resume has it do so
	}
	if err != nil || !serves || paused {
		return err == nil && serves, err
	}
	k, err := readKept(r.directory(record.ID)) // it may be large: only now
	return err != nil || mark != k.Mark, nil   // Resume says what is wrong with it
}

// resumePause doubles with each attempt.
func resumePause(attempts int) time.Duration {
	return min(maxResumePause, minResumePause<<min(max(attempts-1, 0), 10))
}

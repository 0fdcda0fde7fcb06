package refresh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// maxPeriod is the longest time between two sweeps: what other processes signed in
// meanwhile is found after that at the latest. minPeriod keeps a clock that jumps
// from making the sweep spin.
const (
	maxPeriod = time.Minute
	minPeriod = 20 * time.Millisecond
)

// Start begins to keep every profile's login fresh, and to finish what was
// interrupted, until Stop or the end of ctx. It returns at once; it may be called
// twice. The first sweep comes after a moment of jitter, the following ones when
// the next token is due.
func (r *Refresher) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return errStopped
	}
	if r.started {
		return nil
	}
	r.started = true
	r.wg.Go(func() { r.loop(ctx) })
	return nil
}

func (r *Refresher) loop(ctx context.Context) {
	timer := time.NewTimer(rand.N(200 * time.Millisecond))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.life.Done():
			return
		case <-r.landed:
		case <-timer.C:
		}
		next, err := r.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.Error("looking after the logins", "err", err)
		}
		timer.Reset(min(maxPeriod, max(minPeriod, next.Sub(r.cfg.Now()))))
	}
}

// sweep starts a flight for every profile that needs one, and returns when the
// next will be due. A flight that ends is a reason to sweep again. Profiles that
// could not be looked at are in the error; the others were.
func (r *Refresher) sweep(ctx context.Context) (next time.Time, err error) {
	profiles, err := r.cfg.Vault.Profiles(ctx)
	errs := []error{err}
	next = r.cfg.Now().Add(maxPeriod)
	for _, p := range profiles {
		due, err := r.sweepOne(ctx, p.ID)
		if err != nil {
			errs = append(errs, fmt.Errorf("profile %s: %w", p.Name, err))
		}
		if !due.IsZero() && due.Before(next) {
			next = due
		}
	}
	return next, errors.Join(errs...)
}

// sweepOne starts what the profile needs now, or returns when it will; the zero
// time if a flight is at work, or nothing can be done before a person signs in.
func (r *Refresher) sweepOne(ctx context.Context, id hub.ProfileID) (time.Time, error) {
	e, err := r.entry(id)
	if err != nil {
		return time.Time{}, err
	}
	e.mu.Lock()
	flying, notBefore := e.flight != nil, e.notBefore
	e.mu.Unlock()
	l, err := r.current(ctx, e)
	if flying || err != nil || l == nil {
		return time.Time{}, err
	}
	p := placeOf(r.cfg.Dir, id)
	st, err := p.readState()
	if err != nil {
		return time.Time{}, err
	}
	now := r.cfg.Now()
	when := due(l, st.of(l.gen), p.leftovers(), now)
	if when.IsZero() {
		return when, nil
	}
	if notBefore.After(when) {
		when = notBefore
	}
	if now.Before(when) {
		return when, nil
	}
	req := request{mode: modeDue, from: l.gen}
	if now.Before(l.due) {
		req.mode = modeRecover
	}
	r.fly(e, req)
	return time.Time{}, nil
}

// due returns when l needs a helper next: at once if a refresh was interrupted,
// else when the advisory window comes; not before the back-off has passed. Zero:
// not before a person signs in.
func due(l *login, st state, interrupted bool, now time.Time) time.Time {
	when := l.due
	switch {
	case st.Health == hub.HealthLoginRequired || l.moved != nil || l.ended(now) || l.cred.RefreshToken.IsZero():
		return time.Time{}
	case st.Dead || interrupted:
		when = now
	}
	if st.NotBefore.After(when) {
		when = st.NotBefore
	}
	return when
}

package refresh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// readHandover returns the newest record of the login's leaving, and its
// generation; zero if there is none. A record that can't be read is an error: it
// may say that the login must not be refreshed.
func readHandover(ctx context.Context, v *vault.Vault, id hub.ProfileID) (hub.Handover, hub.Generation, error) {
	rec, err := v.Latest(ctx, id, hub.KindHandover)
	if errors.Is(err, hub.ErrNotFound) {
		return hub.Handover{}, 0, nil
	}
	if err != nil {
		return hub.Handover{}, 0, fmt.Errorf("reading whether the login was moved: %w", err)
	}
	h, err := hub.ParseHandover(rec.Payload)
	if err != nil {
		return hub.Handover{}, 0, hub.Hint(fmt.Errorf("reading whether the login was moved: %w", err), "sign in again with `claude-hub login`")
	}
	return h, rec.Generation, nil
}

// withHandover returns l with what the newest handover record says of it. now is
// when the look at the vault began.
func (r *Refresher) withHandover(ctx context.Context, e *entry, l *login, now time.Time) (*login, error) {
	e.mu.Lock()
	known := e.handed
	if e.login != l {
		known = 0
	}
	e.mu.Unlock()
	newer, err := r.cfg.Vault.Newer(ctx, e.id, hub.KindHandover, known)
	if err != nil {
		return nil, fmt.Errorf("looking whether the login was moved: %w", err)
	}
	if newer {
		var h hub.Handover
		if h, known, err = readHandover(ctx, r.cfg.Vault, e.id); err != nil {
			return nil, err
		}
		snapshot, err := r.cfg.Vault.Generation(ctx, e.id, hub.KindSnapshot)
		if err != nil {
			return nil, fmt.Errorf("looking whether the login was moved: %w", err)
		}
		l = l.after(h, snapshot)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.login == nil || e.login.gen < l.gen || e.login.gen == l.gen && e.handed <= known {
		e.login, e.handed, e.looked = l, known, now
	}
	return l, nil
}

// after returns l as the handover record h leaves it. snapshot is the newest
// generation of the captured config directory.
func (l *login) after(h hub.Handover, snapshot hub.Generation) *login {
	after := *l
	after.moved, after.shared = nil, nil
	if h.Holds(l.gen) {
		after.moved = &h
	}
	for _, c := range h.SharedCopies(l.gen, snapshot) {
		if after.shared == nil {
			after.shared = &hub.Handover{Shared: true}
		}
		s := after.shared // of several the newest, with all their directories, the newest first
		s.Generation, s.At, s.Snapshot, s.To = c.Generation, c.At, c.Snapshot, slices.Insert(s.To, 0, c.To)
	}
	return &after
}

// movedReason is one line for a person.
func movedReason(h hub.Handover) string {
	return fmt.Sprintf("the login was moved on %s to %s (bundle %s), which alone refreshes it now",
		h.At.UTC().Format("2 January 2006 15:04 UTC"), strings.Join(h.To, ", "), h.Bundle)
}

// Hold keeps every refresh of one profile out, in every process, until Release.
type Hold struct {
	place place
	lock  *os.File
}

// Hold waits until no refresh of profile is under way, as long as ctx lives, and
// keeps the next one out. The kernel ends it with this process, at the latest.
func (r *Refresher) Hold(ctx context.Context, profile hub.ProfileID) (*Hold, error) {
	if err := checkProfileID(profile); err != nil {
		return nil, err
	}
	p := placeOf(r.cfg.Dir, profile)
	if err := p.make(); err != nil {
		return nil, err
	}
	lock, err := takeLock(ctx, p.lock())
	if err != nil {
		return nil, err
	}
	return &Hold{p, lock}, nil
}

// Settled returns nil when the refresh token of the newest generation, gen, is
// known to be unspent as far as this hub goes. It is hub.ErrConflict when a
// refresh was interrupted or is in doubt, and hub.ErrLoginRequired when only a
// sign-in helps.
func (h *Hold) Settled(gen hub.Generation) error {
	dirs, err := h.place.attempts()
	if err != nil {
		return err
	}
	if len(dirs) > 0 {
		return hub.Hint(fmt.Errorf("%w: a refresh was interrupted, and what became of it is not known yet", hub.ErrConflict),
			"finish it with `claude-hub refresh`, or sign in again with `claude-hub login`")
	}
	st, err := h.place.readState()
	if err != nil {
		return err
	}
	switch st = st.of(gen); {
	case st.Health == hub.HealthLoginRequired:
		return loginRequired(st.Reason)
	case st.Dead || st.Doubt:
		return hub.Hint(fmt.Errorf("%w: whether the login was rotated is not known yet: %s", hub.ErrConflict, st.Reason), "find it out with `claude-hub refresh`")
	}
	return nil
}

// Forget removes what is known of the refreshes of older generations: the login
// was just replaced.
func (h *Hold) Forget() error {
	var errs []error
	for _, prefix := range []string{attemptPrefix, keptPrefix} {
		dirs, err := h.place.withPrefix(prefix)
		errs = append(errs, err)
		for _, dir := range dirs {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	if err := os.Remove(h.place.status()); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Release lets refreshes in again. It may be called twice.
func (h *Hold) Release() { h.lock.Close() }

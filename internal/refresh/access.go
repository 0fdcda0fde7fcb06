package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// maxRotations bounds for how many generations one call of AccessToken waits: a
// token that has expired as soon as it is made must end in an error, not in a
// loop. maxRounds bounds how often it looks again at all.
const (
	maxRotations = 4
	maxRounds    = 50
)

// AccessToken returns profile's access token and the generation that it belongs
// to. Shortly before a token expires it is refreshed behind the callers; once it
// is about to expire, or was refused, callers wait for the refresh.
//
// stale, if not zero, is a generation that the platform has just answered 401 to:
// a newer token is returned, or an error. That one generation is refreshed, once,
// however many callers report it, in however many processes.
//
// When the login can't be refreshed any more, the profile's setup token is served
// if it has one; its generations have [SpareBit] set. When nothing is left, the
// error is a hub.ErrLoginRequired. Other errors are trouble that may pass, and say
// when the next try is due.
func (r *Refresher) AccessToken(ctx context.Context, profile hub.ProfileID, stale hub.Generation) (secret.Text, hub.Generation, error) {
	e, err := r.entry(profile)
	if err != nil {
		return secret.Text{}, 0, err
	}
	if token, gen, ok := e.fresh(stale, r.cfg.Now()); ok {
		return token, gen, nil
	}
	if stale&SpareBit != 0 {
		if err := r.burySpare(ctx, e, stale&^SpareBit); err != nil {
			return secret.Text{}, 0, err
		}
	}
	patience := r.cfg.Now().Add(r.cfg.MaxWait)
	var first hub.Generation
	for range maxRounds {
		l, err := r.current(ctx, e)
		if err != nil {
			return secret.Text{}, 0, err
		}
		c, err := r.choose(ctx, e, l, stale)
		if err != nil {
			return secret.Text{}, 0, err
		}
		if c.gen != 0 {
			if c.refresh {
				r.fly(e, c.request(l)) // behind the caller
			}
			return c.token, c.gen, nil
		}
		if l != nil {
			if first == 0 {
				first = l.gen
			}
			if l.gen > first+maxRotations {
				break
			}
		}
		if err := r.helpOut(ctx, e, l, c, patience); err != nil {
			return secret.Text{}, 0, err
		}
	}
	return secret.Text{}, 0, errors.New("refreshing the login: one refresh after the other, and no token that lives")
}

// lookAgain is for how long a good answer of the vault is taken for granted. A
// token that another process has rotated away within it costs its user one 401.
const lookAgain = 25 * time.Millisecond

// fresh returns what is nearly always the answer, without a look at the disk.
func (e *entry) fresh(stale hub.Generation, now time.Time) (secret.Text, hub.Generation, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.login
	if l == nil || l.moved != nil || l.gen == stale || l.gen == e.dead || !now.Before(l.due) || now.Sub(e.looked) > lookAgain || now.Before(e.looked) {
		return secret.Text{}, 0, false
	}
	return l.cred.AccessToken, l.gen, true
}

// helpOut does what can be done for a caller for whom there is no token now.
func (r *Refresher) helpOut(ctx context.Context, e *entry, l *login, c choice, patience time.Time) error {
	switch {
	case !c.refresh:
		return loginRequired(c.reason)
	case c.wait.IsZero():
		return r.await(ctx, r.fly(e, c.request(l)))
	case c.wait.After(patience):
		return trouble(c)
	}
	return r.sleepUntil(ctx, c.wait)
}

// request is the flight that a choice with refresh asks for.
func (c choice) request(l *login) request {
	req := request{mode: modeDue, from: l.gen}
	if c.dead {
		req.mode = modeDead
	}
	return req
}

func loginRequired(reason string) error {
	return hub.Hint(fmt.Errorf("%w: %s", hub.ErrLoginRequired, reason), "sign in with `claude-hub login`")
}

// trouble is the error for callers that can't be helped before c.wait.
func trouble(c choice) error {
	err := fmt.Errorf("the login can't be refreshed before %s: %s", c.wait.UTC().Format(time.TimeOnly), c.reason)
	return hub.Hint(err, "it is tried again by itself; `claude-hub status` shows the state, `claude-hub refresh` tries at once")
}

// current returns the newest generation of the login, nil if there is none. It
// asks the vault each time, because other processes rotate and hand over, too,
// but reads and decrypts only what is new.
func (r *Refresher) current(ctx context.Context, e *entry) (*login, error) {
	now := r.cfg.Now()
	l, err := r.newest(ctx, e)
	if l == nil || err != nil {
		return nil, err
	}
	return r.withHandover(ctx, e, l, now)
}

func (r *Refresher) newest(ctx context.Context, e *entry) (*login, error) {
	e.mu.Lock()
	known := e.login
	e.mu.Unlock()
	if known != nil {
		newer, err := r.cfg.Vault.Newer(ctx, e.id, hub.KindLogin, known.gen)
		if errors.Is(err, hub.ErrNotFound) { // the profile was removed, and its token with it
			e.forget(known)
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the login: %w", err)
		}
		if !newer {
			return known, nil
		}
	}
	rec, err := r.cfg.Vault.Latest(ctx, e.id, hub.KindLogin)
	if errors.Is(err, hub.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the login: %w", err)
	}
	l, err := parseLogin(rec)
	if err != nil {
		return nil, err
	}
	st, err := placeOf(r.cfg.Dir, e.id).readState()
	dead := err == nil && st.of(l.gen).Dead // as another process found; an error counts when it matters
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.login == nil || e.login.gen < l.gen {
		e.login, e.looked, e.handed = l, time.Time{}, 0
		if dead {
			e.dead = l.gen
		}
	}
	return e.login, nil
}

// forget drops what is known of a login that is not there any more.
func (e *entry) forget(l *login) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.login != nil && e.login.gen <= l.gen {
		e.login, e.looked, e.handed = nil, time.Time{}, 0
	}
}

// choose looks at as much as decide needs to know.
func (r *Refresher) choose(ctx context.Context, e *entry, l *login, stale hub.Generation) (choice, error) {
	e.mu.Lock()
	if l != nil && l.gen == stale {
		e.dead = stale
	} else if l != nil && l.gen == e.dead { // somebody else was told
		stale = e.dead
	}
	notBefore, lastErr := e.notBefore, e.lastErr
	e.mu.Unlock()
	now := r.cfg.Now()
	if l != nil && l.moved == nil && l.gen != stale && now.Before(l.due) { // nearly always
		return choice{token: l.cred.AccessToken, gen: l.gen}, nil
	}
	st, err := placeOf(r.cfg.Dir, e.id).readState()
	if err != nil {
		if l != nil && l.moved == nil && l.gen != stale && now.Before(l.cred.ExpiresAt) {
			return choice{token: l.cred.AccessToken, gen: l.gen}, nil
		}
		return choice{}, err
	}
	if l != nil { // what this process alone knows counts as well
		if st = st.of(l.gen); notBefore.After(st.NotBefore) {
			st.NotBefore, st.LastError = notBefore, tidy(lastErr.Error())
		}
	}
	c := decide(l, nil, st, stale, now)
	if c.gen == 0 && !c.refresh { // only the spare can help
		sp, err := r.spare(ctx, e.id)
		if err != nil {
			return choice{}, err
		}
		c = decide(l, sp, st, stale, now)
	}
	return c, nil
}

// spare returns the profile's setup token, nil if it has none.
func (r *Refresher) spare(ctx context.Context, id hub.ProfileID) (*spare, error) {
	rec, err := r.cfg.Vault.Latest(ctx, id, hub.KindSetupToken)
	if errors.Is(err, hub.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the setup token: %w", err)
	}
	token, err := agent.ParseSetupToken(rec.Payload)
	if err != nil {
		return nil, fmt.Errorf("reading the setup token: %w", err)
	}
	return &spare{rec.Generation, token}, nil
}

// burySpare notes that the platform refuses a generation of the setup token.
func (r *Refresher) burySpare(ctx context.Context, e *entry, gen hub.Generation) error {
	p := placeOf(r.cfg.Dir, e.id)
	if st, err := p.readState(); err == nil && st.SpareDead >= gen {
		return nil
	}
	if err := p.make(); err != nil {
		return err
	}
	lock, err := takeLock(ctx, p.lock())
	if err != nil {
		return err
	}
	defer lock.Close()
	st, err := p.readState()
	if err != nil {
		return err
	}
	if st.Health == "" {
		st.Health = hub.HealthOK
	}
	st.SpareDead = max(st.SpareDead, gen)
	return p.writeState(st)
}

func (r *Refresher) sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(t.Sub(r.cfg.Now()))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.life.Done():
		return errStopped
	}
}

var errStopped = fmt.Errorf("%w: the refresher was stopped", hub.ErrCancelled)

package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Status is what a person or a monitor wants to know about a profile's login. It
// holds no token.
type Status struct {
	Profile hub.ProfileID `json:"profile"`
	Health  hub.Health    `json:"health"`
	// Reason is one line for a person; empty when the health is ok.
	Reason string `json:"reason,omitempty"`

	SignedIn       bool           `json:"signed_in"` // has a login that can be refreshed
	Generation     hub.Generation `json:"generation,omitempty"`
	Account        string         `json:"account,omitempty"` // UUID
	Organization   string         `json:"organization,omitempty"`
	Plan           string         `json:"plan,omitempty"`
	RateLimitTier  string         `json:"rate_limit_tier,omitempty"`
	AccessExpires  time.Time      `json:"access_expires,omitzero"`
	LoginExpires   time.Time      `json:"login_expires,omitzero"`
	LoginDaysLeft  *int           `json:"login_days_left,omitempty"` // whole days, rounded down; nil if not known
	LastRefresh    time.Time      `json:"last_refresh,omitzero"`
	LastTry        time.Time      `json:"last_try,omitzero"`
	LastError      string         `json:"last_error,omitempty"`  // of the newest failure since the last rotation
	Failures       int            `json:"failures,omitempty"`    // in a row
	NextTry        time.Time      `json:"next_try,omitzero"`     // when the next refresh is due, or the back-off ends
	Refreshing     bool           `json:"refreshing,omitempty"`  // a helper is at work
	Interrupted    bool           `json:"interrupted,omitempty"` // a refresh was, and waits to be finished
	Spare          *SpareStatus   `json:"spare,omitempty"`
	ServedBySpare  bool           `json:"served_by_spare,omitempty"`
	AccessAccepted *bool          `json:"access_accepted,omitempty"` // only after Check with live

	// SecondWriter says that the platform refused a refresh token that was never
	// sent from here before: somebody else has used this login, or the owner has
	// signed it out at the provider. A sign-in ends it.
	SecondWriter bool `json:"second_writer,omitempty"`
	// HandedOver says to whom the login was moved; nil if this hub is its writer.
	HandedOver *hub.Handover `json:"handed_over,omitempty"`
	// FullCopy says where copies of this login with its refresh token were left by
	// `claude-hub restore`, the newest first; nil if nowhere. Each is a second
	// writer in waiting. All but To is the newest's.
	FullCopy *hub.Handover `json:"full_copy,omitempty"`
}

// SpareStatus is what is known of a profile's setup token.
type SpareStatus struct {
	Generation hub.Generation `json:"generation"`
	Created    time.Time      `json:"created,omitzero"`
	Expires    time.Time      `json:"expires"`
	DaysLeft   int            `json:"days_left"`
	Refused    bool           `json:"refused,omitempty"` // the platform does not accept it
}

// Status returns what is known about profile, without asking the platform and
// without changing anything.
func (r *Refresher) Status(ctx context.Context, profile hub.ProfileID) (Status, error) {
	e, err := r.entry(profile)
	if err != nil {
		return Status{}, err
	}
	l, err := r.current(ctx, e)
	if err != nil {
		return Status{}, err
	}
	sp, err := r.spare(ctx, profile)
	if err != nil {
		return Status{}, err
	}
	p := placeOf(r.cfg.Dir, profile)
	st, err := p.readState()
	if err != nil {
		return Status{}, err
	}
	s := describe(l, sp, st, r.cfg.Now())
	s.Profile, s.Refreshing = profile, p.locked()
	s.Interrupted = !s.Refreshing && p.leftovers()
	return s, nil
}

// describe is Status without its effects.
func describe(l *login, sp *spare, st state, now time.Time) Status {
	s := Status{Health: hub.HealthOK}
	if l != nil {
		st = st.of(l.gen)
		s = describeLogin(l, st, now)
	}
	if sp != nil {
		s.Spare = &SpareStatus{
			Generation: sp.gen, Created: sp.token.Created, Expires: sp.token.Expires,
			DaysLeft: days(sp.token.Expires.Sub(now)), Refused: st.SpareDead == sp.gen,
		}
	}
	c := decide(l, sp, st, 0, now)
	s.ServedBySpare = c.gen&SpareBit != 0
	switch {
	case c.gen == 0 && !c.refresh:
		s.Health, s.Reason = hub.HealthLoginRequired, c.reason
	case l != nil && l.moved != nil:
		s.Health, s.Reason = hub.HealthLoginRequired, movedReason(*l.moved)
	case l != nil && l.ended(now):
		s.Health, s.Reason = hub.HealthLoginRequired, "the login has reached the end of its life"
	}
	return s
}

func describeLogin(l *login, st state, now time.Time) Status {
	s := Status{
		Health: st.Health, Reason: st.Reason,
		SignedIn: !l.cred.RefreshToken.IsZero() && l.moved == nil, Generation: l.gen,
		Account: l.cred.AccountUUID, Organization: l.cred.OrganizationUUID,
		Plan: l.cred.Subscription, RateLimitTier: l.cred.RateLimitTier,
		AccessExpires: l.cred.ExpiresAt, LoginExpires: l.cred.LoginExpiresAt,
		LastRefresh: st.Refreshed, LastTry: st.LastTry, LastError: st.LastError, Failures: st.Failures,
		SecondWriter: st.SecondWriter, HandedOver: l.moved, FullCopy: l.shared,
	}
	if !l.cred.LoginExpiresAt.IsZero() {
		left := days(l.cred.LoginExpiresAt.Sub(now))
		s.LoginDaysLeft = &left
	}
	if st.Health != hub.HealthLoginRequired && s.SignedIn {
		s.NextTry = l.advisory
		if st.NotBefore.After(s.NextTry) || st.Failures > 0 {
			s.NextTry = st.NotBefore
		}
	}
	return s
}

func days(d time.Duration) int { return int(max(0, d) / (24 * time.Hour)) }

// Check is Status after making sure that there is an access token to serve, which
// may mean a refresh. With live, the platform is asked through probe whether it
// accepts the token; one that it does not accept is refreshed, and the new one
// asked about. An error is what AccessToken would return.
func (r *Refresher) Check(ctx context.Context, profile hub.ProfileID, probe Probe) (Status, error) {
	token, gen, err := r.AccessToken(ctx, profile, 0)
	var accepted *bool
	if err == nil && probe != nil && gen&SpareBit == 0 { // a setup token may not ask for the profile
		var ok bool
		ok, err = probe(ctx, token)
		if err == nil && !ok {
			if token, gen, err = r.AccessToken(ctx, profile, gen); err == nil && gen&SpareBit == 0 {
				ok, err = probe(ctx, token)
			}
		}
		if err == nil {
			accepted = &ok
		}
	}
	s, serr := r.Status(ctx, profile)
	s.AccessAccepted = accepted
	if err == nil && accepted != nil && !*accepted {
		err = loginRequired("the platform does not accept the access token")
	}
	return s, errors.Join(err, serr)
}

// Outcome is what a refresh on demand has come to.
type Outcome struct {
	Rotated    bool           `json:"rotated"`
	Generation hub.Generation `json:"generation"` // the newest
	Expires    time.Time      `json:"expires"`    // of its access token
	Status     Status         `json:"status"`
}

// Refresh refreshes profile's login if that is due; with force it does so in any
// case, even where the status says that a login is required or where the refresh
// token may have been used already: that is at the owner's risk. It waits for the
// end. The error says why there is no newer generation although one was wanted,
// or that only a sign-in helps.
func (r *Refresher) Refresh(ctx context.Context, profile hub.ProfileID, force bool) (Outcome, error) {
	e, err := r.entry(profile)
	if err != nil {
		return Outcome{}, err
	}
	before, err := r.current(ctx, e)
	if err != nil {
		return Outcome{}, err
	}
	if before == nil {
		return Outcome{}, loginRequired("there is no login that could be refreshed")
	}
	switch {
	case before.moved != nil:
		return Outcome{}, loginRequired(movedReason(*before.moved))
	case force && before.cred.RefreshToken.IsZero():
		return Outcome{}, loginRequired("the login has no refresh token")
	}
	now := r.cfg.Now()
	wanted := force || !now.Before(before.advisory) || placeOf(r.cfg.Dir, profile).leftovers()
	if wanted {
		req := request{mode: modeDue, from: before.gen}
		if force {
			req.mode = modeForce
		}
		if err := r.flyNow(ctx, e, req); err != nil {
			return Outcome{}, err
		}
	}
	after, err := r.current(ctx, e)
	if err != nil {
		return Outcome{}, err
	}
	s, err := r.Status(ctx, profile)
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Rotated: after.gen > before.gen, Generation: after.gen, Expires: after.cred.ExpiresAt, Status: s}
	return out, notRotated(out, wanted)
}

// flyNow waits for whatever flight there is, and then for one of its own.
func (r *Refresher) flyNow(ctx context.Context, e *entry, req request) error {
	for {
		e.mu.Lock()
		other := e.flight
		e.mu.Unlock()
		if other == nil {
			break
		}
		if err := r.await(ctx, other); err != nil {
			return err
		}
	}
	f := r.fly(e, req)
	if err := r.await(ctx, f); err != nil {
		return err
	}
	return f.err
}

func notRotated(out Outcome, wanted bool) error {
	switch s := out.Status; {
	case s.Health == hub.HealthLoginRequired:
		return loginRequired(s.Reason)
	case s.Failures > 0 && wanted && !out.Rotated:
		return hub.Hint(fmt.Errorf("the login was not refreshed: %s", s.LastError), "it is tried again by itself; `claude-hub status` shows when")
	}
	return nil
}

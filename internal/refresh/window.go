package refresh

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// login is one generation of a login, with the times that matter. Immutable.
type login struct {
	gen     hub.Generation
	cred    agent.Credentials
	created time.Time // when it was committed
	// moved says to whom this generation was handed over: nothing of it is served
	// or refreshed here then. shared says where full copies of the login were left.
	// nil: neither.
	moved, shared *hub.Handover
	// From advisory on it is refreshed behind the callers, from mandatory on they
	// wait for that. due is advisory with this process's jitter.
	advisory, due, mandatory time.Time
}

// The widest windows; those of a short-lived token are a part of its life.
const (
	maxAdvisory  = 30 * time.Minute
	maxMandatory = time.Minute
)

func newLogin(gen hub.Generation, cred agent.Credentials, created time.Time) *login {
	life := max(0, cred.ExpiresAt.Sub(created))
	advisory, mandatory := min(maxAdvisory, life/4), min(maxMandatory, life/10)
	return &login{
		gen: gen, cred: cred, created: created,
		advisory:  cred.ExpiresAt.Add(-advisory),
		due:       cred.ExpiresAt.Add(-advisory + rand.N(advisory/5+1)),
		mandatory: cred.ExpiresAt.Add(-mandatory),
	}
}

// parseLogin reads a record of kind login.
func parseLogin(rec vault.Record) (*login, error) {
	cred, err := agent.ParseCredentials(rec.Payload)
	if err != nil {
		return nil, fmt.Errorf("reading the login: %w", err)
	}
	return newLogin(rec.Generation, cred, rec.Created), nil
}

// ended reports whether the login as a whole is over: only a person can go on.
func (l *login) ended(now time.Time) bool {
	return !l.cred.LoginExpiresAt.IsZero() && !now.Before(l.cred.LoginExpiresAt)
}

// SpareBit marks the generations that belong to a setup token, so that a caller's
// stale generation can't be mistaken for one of the login.
const SpareBit hub.Generation = 1 << 63

// spare is a setup token.
type spare struct {
	gen   hub.Generation // without SpareBit
	token agent.SetupToken
}

// choice is what can be done for a caller right now.
type choice struct {
	token   secret.Text // to be served, if gen is not 0
	gen     hub.Generation
	refresh bool      // a refresh is wanted: behind the caller if there is a token, else before it is answered
	dead    bool      // it is wanted because the token was refused
	wait    time.Time // without a token: not to be tried before; zero is now
	reason  string    // without a token: why there is none
}

// decide says what to do for a caller that was told 401 with generation stale (or
// 0), given what is known. l and s may be nil. It has no effects.
func decide(l *login, s *spare, st state, stale hub.Generation, now time.Time) choice {
	if l == nil {
		return static(s, st, stale, now, "this profile has not signed in")
	}
	st = st.of(l.gen)
	if l.moved != nil {
		return static(s, st, stale, now, movedReason(*l.moved))
	}
	usable := l.gen != stale && !st.Dead && now.Before(l.cred.ExpiresAt)
	over, reason := st.Health == hub.HealthLoginRequired, st.Reason
	if !over && l.ended(now) {
		over, reason = true, "the login has reached the end of its life, "+l.cred.LoginExpiresAt.UTC().Format(time.DateOnly)
	}
	if !over && l.cred.RefreshToken.IsZero() {
		over, reason = true, "the login has no refresh token"
	}
	serve := choice{token: l.cred.AccessToken, gen: l.gen}
	pending := now.Before(st.NotBefore)
	switch {
	case usable && (over || now.Before(l.due)):
		return serve
	case over:
		return static(s, st, stale, now, reason)
	case usable && (pending || now.Before(l.mandatory)):
		serve.refresh = !pending
		return serve
	case pending:
		return choice{wait: st.NotBefore, refresh: true, reason: st.LastError}
	}
	return choice{refresh: true, dead: l.gen == stale}
}

// static serves the setup token, if there is one that is any good.
func static(s *spare, st state, stale hub.Generation, now time.Time, reason string) choice {
	switch {
	case s == nil:
		return choice{reason: reason}
	case st.SpareDead == s.gen || stale == s.gen|SpareBit:
		return choice{reason: reason + "; the platform refuses the setup token"}
	case !now.Before(s.token.Expires):
		return choice{reason: reason + "; the setup token expired on " + s.token.Expires.UTC().Format(time.DateOnly)}
	}
	return choice{token: s.token.Token, gen: s.gen | SpareBit}
}

package refresh

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

func tokenURL() *url.URL { return &url.URL{Scheme: "https", Host: tokenEndpoint} }

// finish brings an attempt whose CLI is gone to its end: it judges what is in the
// directory, commits, publishes and cleans up. It is what runs after an
// undisturbed refresh and what takes up one that was interrupted anywhere; it can
// itself be interrupted anywhere and run again.
func (h *helper) finish(ctx context.Context, a *attempt) error {
	cur, err := h.cfg.Vault.Latest(ctx, h.profile, hub.KindLogin)
	if err != nil {
		return fmt.Errorf("reading the login: %w", err)
	}
	old, err := h.startedFrom(ctx, a, cur)
	if err != nil {
		return err
	}
	answer, cred := judge(a, old)
	h.log.Info("the answer", "attempt", a.dir, "kind", answer.Kind, "status", answer.Status, "words", answer.Reason)
	if answer.Kind == agent.RefreshRotated {
		return h.commit(ctx, a, cred.Adopt(old))
	}
	if cur.Generation != a.log.Generation { // a newer login has made it pointless to know
		return a.remove()
	}
	st, err := h.readState(a.log.Generation)
	if err != nil {
		return err
	}
	return h.settle(ctx, a, newLogin(cur.Generation, old, cur.Created), st, answer)
}

// readState returns what is known of generation gen. With modeForce, what can't be
// read is not known.
func (h *helper) readState(gen hub.Generation) (state, error) {
	st, err := h.place.readState()
	if err != nil && h.req.mode != modeForce {
		return state{}, err
	}
	return st.of(gen), nil
}

// startedFrom returns the credentials that the attempt used; none if the vault has
// pruned them.
func (h *helper) startedFrom(ctx context.Context, a *attempt, cur vault.Record) (agent.Credentials, error) {
	rec := cur
	if cur.Generation != a.log.Generation {
		var err error
		rec, err = h.cfg.Vault.Get(ctx, h.profile, hub.KindLogin, a.log.Generation)
		if errors.Is(err, hub.ErrNotFound) {
			return agent.Credentials{}, nil
		}
		if err != nil {
			return agent.Credentials{}, fmt.Errorf("reading the login: %w", err)
		}
	}
	cred, err := agent.ParseCredentials(rec.Payload)
	if err != nil {
		return agent.Credentials{}, fmt.Errorf("reading the login: %w", err)
	}
	return cred, nil
}

// judge says what the directory tells, and returns the new login if there is one.
func judge(a *attempt, old agent.Credentials) (agent.RefreshAnswer, agent.Credentials) {
	cred, wrote := a.credentials(old)
	end, _ := a.end()
	return agent.ParseRefreshWords(agent.RefreshRun{
		Exit:      end.Exit,
		Output:    a.words(),
		Wrote:     wrote,
		Connected: a.sent(),
	}), cred
}

// credentials returns the login that the CLI wrote. It reports false if there is
// none that is whole and new.
func (a *attempt) credentials(old agent.Credentials) (agent.Credentials, bool) {
	b, err := agent.ReadCredentialFile(a.credentialFile())
	if err != nil {
		return agent.Credentials{}, false
	}
	cred, err := agent.ParseCredentials(b)
	if err != nil || cred.AccessToken.Equal(old.AccessToken) {
		return agent.Credentials{}, false
	}
	return cred, true
}

// settle deals with an answer that is no new login.
func (h *helper) settle(ctx context.Context, a *attempt, l *login, st state, answer agent.RefreshAnswer) error {
	reason := answer.Reason
	if reason == "" {
		reason = "the CLI said nothing"
	}
	sentBefore := st.Sent
	st.Sent = st.Sent || a.sent()
	switch {
	case answer.Kind == agent.RefreshRefused:
		st = h.refused(ctx, l, st, sentBefore, reason)
	case answer.MayHaveRotated():
		return h.findOut(ctx, a, l, st, answer, reason)
	case answer.Kind == agent.RefreshNotSent:
		st = h.fail(st, "the platform was not reached: "+reason, longestUnsent)
	default:
		st = h.fail(st, reason, longestBackoff)
	}
	return h.close(a, st)
}

// refused deals with a refresh token that the platform does not take. One that
// was never sent from here must have been used elsewhere, unless the login itself
// has ended.
func (h *helper) refused(ctx context.Context, l *login, st state, sentBefore bool, reason string) state {
	st.SecondWriter = !sentBefore && !l.ended(h.cfg.Now()) && !h.keptToken(ctx, l)
	if st.SecondWriter {
		reason = "the platform refuses the refresh token (" + reason + "), which was never sent from here before: a second writer has used this login (a copy of it in another place), or it was signed out at the provider"
	} else {
		reason = "the platform refuses the refresh token (" + reason + "): it was used or revoked elsewhere, or the login has ended"
	}
	return requireLogin(st, reason, h.cfg.Now())
}

// keptToken reports whether l's refresh token is that of the generation before
// it, so that it was sent already: the platform may answer without a new one.
// What can't be read counts as that: nobody is accused without evidence.
func (h *helper) keptToken(ctx context.Context, l *login) bool {
	if l.gen == 1 {
		return false
	}
	rec, err := h.cfg.Vault.Get(ctx, h.profile, hub.KindLogin, l.gen-1)
	if errors.Is(err, hub.ErrNotFound) {
		return false
	}
	if err != nil {
		return true
	}
	before, err := agent.ParseCredentials(rec.Payload)
	return err != nil || before.RefreshToken.Equal(l.cred.RefreshToken)
}

// close writes what an attempt has come to, and then removes it.
func (h *helper) close(a *attempt, st state) error {
	if err := h.write(st); err != nil {
		return err
	}
	return a.remove()
}

// findOut deals with a refresh token that was sent and may have been rotated
// without our having the new one: an old access token that is still accepted
// proves that it was not, one that is refused before its time that it was.
// Where neither can be had, the directory stays as the evidence, the refresh
// token is not sent again, and the status says why.
func (h *helper) findOut(ctx context.Context, a *attempt, l *login, st state, answer agent.RefreshAnswer, reason string) error {
	accepted, err := h.cfg.Probe(ctx, l.cred.AccessToken)
	expired := !h.cfg.Now().Before(l.mandatory) // a refusal tells nothing then
	h.log.Info("asked whether the old access token is still accepted", "accepted", accepted, "expired", expired, "err", err)
	switch {
	case err == nil && accepted:
		st = h.fail(st, reason+" (nothing was rotated: the old access token is still accepted)", longestBackoff)
		st.Doubt = true
		return h.close(a, st)
	case err == nil && !expired:
		return h.lost(st)
	case !expired:
		return h.failed(st, reason+"; whether the login was rotated is not known yet: "+err.Error(), longestUnsent)
	case answer.Kind == agent.RefreshTrouble: // the platform itself said that it failed
		return h.close(a, h.fail(st, reason, longestBackoff))
	}
	return h.write(requireLogin(st, "a refresh was sent, its answer never came ("+reason+"), and whether the login was rotated can't be known any more. "+
		"`claude-hub refresh --force` sends the old refresh token once more, at your own risk; else sign in again", h.cfg.Now()))
}

// lost notes that the platform rotated the login and the new pair is gone.
func (h *helper) lost(st state) error {
	st.Dead = true
	return h.write(requireLogin(st, "the platform rotated the login, but its answer was lost", h.cfg.Now()))
}

func requireLogin(st state, reason string, now time.Time) state {
	st.Health, st.Reason, st.LastTry = hub.HealthLoginRequired, reason, now
	return st
}

// fail returns st after one more failure.
func (h *helper) fail(st state, reason string, longest time.Duration) state {
	now := h.cfg.Now()
	st.Failures++
	st.Health, st.Reason, st.LastError, st.LastTry = hub.HealthSuspect, reason, reason, now
	st.NotBefore = now.Add(backoff(st.Failures, h.cfg.Backoff, longest))
	return st
}

// write makes st durable, and says so in the log.
func (h *helper) write(st state) error {
	h.log.Info("status", "generation", st.Generation, "health", st.Health, "reason", st.Reason, "not_before", st.NotBefore)
	return h.place.writeState(st)
}

// failed writes st after one more failure.
func (h *helper) failed(st state, reason string, longest time.Duration) error {
	return h.write(h.fail(st, reason, longest))
}

// commit makes the new login the next generation.
func (h *helper) commit(ctx context.Context, a *attempt, cred agent.Credentials) error {
	payload, err := cred.Encode()
	if err != nil {
		return err
	}
	next := a.log.Generation + 1
	err = h.cfg.Failpoint("commit.before")
	if err == nil {
		_, err = h.cfg.Vault.Commit(ctx, h.profile, hub.KindLogin, a.log.Generation, payload)
	}
	if err == nil {
		err = h.cfg.Failpoint("commit.after")
	}
	if errors.Is(err, hub.ErrConflict) {
		return h.conflict(ctx, a, cred)
	}
	if err != nil {
		return h.uncommitted(a, err)
	}
	h.log.Info("committed", "generation", next, "expires", cred.ExpiresAt.UTC())
	return h.publish(a, next, cred)
}

// uncommitted deals with a vault that does not take the new login: it stays in the
// private directory, for the next helper.
func (h *helper) uncommitted(a *attempt, err error) error {
	err = fmt.Errorf("the new login could not be written to the vault (it is safe in %s): %w", a.dir, err)
	st, serr := h.readState(a.log.Generation)
	if serr != nil {
		return errors.Join(err, serr)
	}
	st = h.fail(st, err.Error(), longestUnsent)
	st.Dead = true // the rotation has seen to that
	return errors.Join(err, h.write(st))
}

// conflict deals with a generation that exists already. It is this attempt's own
// when the helper was interrupted after its commit. Anything else was written by
// somebody who does not hold our lock: either the owner signed in again, and then
// the platform accepts that login, or two writers rotate one login, and the
// profile stops. Once the committed access token is past its time, no answer tells
// these apart: ours is kept, and the next refresh of the committed login decides.
func (h *helper) conflict(ctx context.Context, a *attempt, cred agent.Credentials) error {
	next := a.log.Generation + 1
	if rec, err := h.cfg.Vault.Get(ctx, h.profile, hub.KindLogin, next); err == nil {
		if there, err := agent.ParseCredentials(rec.Payload); err == nil && there.AccessToken.Equal(cred.AccessToken) {
			return h.publish(a, next, cred)
		}
	}
	rec, err := h.cfg.Vault.Latest(ctx, h.profile, hub.KindLogin)
	if err != nil {
		return fmt.Errorf("reading the login: %w", err)
	}
	there, err := agent.ParseCredentials(rec.Payload)
	if err != nil {
		return fmt.Errorf("reading the login: %w", err)
	}
	st, err := h.readState(rec.Generation)
	if err != nil {
		return err
	}
	accepted, err := h.cfg.Probe(ctx, there.AccessToken)
	expired := !h.cfg.Now().Before(newLogin(rec.Generation, there, rec.Created).mandatory) // a refusal tells nothing then
	h.log.Warn("another login was committed meanwhile", "generation", rec.Generation, "accepted", accepted, "expired", expired, "err", err)
	switch {
	case err == nil && accepted:
		return a.remove()
	case expired:
		return a.keep()
	case err != nil:
		return h.failed(st, "another login was committed while this one was refreshed; which of them is good is not known yet: "+err.Error(), longestUnsent)
	}
	st.Dead = true
	st = requireLogin(st, "two writers rotated this login, and the platform refuses the one that was committed; the other is in "+keptPrefix+"*", h.cfg.Now())
	if err := h.write(st); err != nil {
		return err
	}
	return a.keep()
}

// publish tells the other processes about a generation that is durable, and cleans
// up. The vault is the truth: a status that can't be written is no failure.
func (h *helper) publish(a *attempt, gen hub.Generation, cred agent.Credentials) error {
	if err := h.cfg.Failpoint("publish.before"); err != nil {
		return err
	}
	now := h.cfg.Now()
	st := state{Health: hub.HealthOK, LastTry: now, Early: a.log.Early}
	if prev, err := h.place.readState(); err == nil {
		st.SpareDead = prev.SpareDead
	}
	st.Generation, st.Refreshed = gen, now
	if info, err := os.Stat(a.credentialFile()); err == nil && !info.ModTime().Before(cred.ExpiresAt) {
		// Committed all the same, since the old pair is gone; but not asked again at once.
		st = h.fail(st, "the platform answered with an access token that had expired already; are the clocks right?", longestBackoff)
	}
	if err := h.write(st); err != nil {
		h.log.Error("the status is not written", "err", err)
	}
	if err := h.cfg.Failpoint("publish.after"); err != nil {
		return err
	}
	if err := a.remove(); err != nil {
		h.log.Error("the private directory is not removed", "err", err)
	}
	return h.forgetKept()
}

// forgetKept removes the answers that were kept for a person: the login goes on.
func (h *helper) forgetKept() error {
	kept, err := h.place.withPrefix(keptPrefix)
	if err != nil {
		return err
	}
	for _, dir := range kept {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("cleaning up: %w", err)
		}
	}
	return nil
}

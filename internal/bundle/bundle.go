// Package bundle carries a login to other places: as a sealed bundle to another
// hub, or as a directory to other tools. What it guarantees:
//
//  1. A refresh token leaves this hub only on a record that is durable before the
//     first byte of it is written: a bundle that moves a login hands the writer's
//     role over, and a full copy is remembered as a second writer in waiting.
//     Everything else that leaves holds the access token at most.
//  2. A bundle is signed by its sender and then encrypted to its recipients, who
//     are part of what is signed: nobody can pass it on as meant for somebody
//     else, put another sender's name on it, or change a byte of it.
//  3. An import believes nothing before the signature is that of a sender whom the
//     owner trusts. What is cut off, damaged, too large, newer than this program,
//     for another hub, or was imported before, is refused, and then nothing has
//     changed. No older state of a login is imported after a newer one.
//  4. Importing and restoring are all or nothing: a crash leaves the old login or
//     the new one, the old directory or the new one, and the same command again
//     brings it to its end.
package bundle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// Config is what a Carrier works with.
type Config struct {
	Vault *vault.Vault // required
	Key   vault.Key    // the hub's: signs what is sent, opens what is received. Required.
	// Dir is the hub's directory, into or over which nothing is restored. Required.
	Dir string
	// Hold keeps the refreshes of a profile out. Required.
	Hold func(context.Context, hub.ProfileID) (Hold, error)
	Now  func() time.Time // nil means time.Now
	// Failpoint, if set, is called before and after each durable step, by name. For
	// tests, which make the step fail there or stop the process.
	Failpoint func(name string) error
}

// Hold keeps every refresh of one profile out, in every process, until Release.
type Hold interface {
	// Settled returns nil when the refresh token of that generation is known to be
	// unspent, as far as anything of this hub could have spent it.
	Settled(hub.Generation) error
	// Forget removes what is known of the refreshes of older generations.
	Forget() error
	// Release may be called twice.
	Release()
}

// Carrier carries logins out of and into one hub. Its methods may be called by
// several goroutines and processes at once.
type Carrier struct{ cfg Config }

// New checks cfg.
func New(cfg Config) (*Carrier, error) {
	if cfg.Vault == nil || cfg.Key.IsZero() || cfg.Dir == "" || cfg.Hold == nil {
		return nil, fmt.Errorf("%w: carrying a login needs a vault, a key, the hub's directory and its lock", hub.ErrInvalid)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Failpoint == nil {
		cfg.Failpoint = func(string) error { return nil }
	}
	return &Carrier{cfg}, nil
}

// step does one durable step between its failpoints.
func (c *Carrier) step(name string, do func() error) error {
	if err := c.cfg.Failpoint(name + ".before"); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return c.cfg.Failpoint(name + ".after")
}

// login is the newest generation of a profile's login, as the vault has it.
type login struct {
	gen      hub.Generation
	payload  []byte
	cred     agent.Credentials
	handover hub.Handover // the newest record of its leaving; zero if there is none
}

// readLogin returns the profile's login; its generation is 0 if there is none.
func (c *Carrier) readLogin(ctx context.Context, profile hub.ProfileID) (login, error) {
	rec, err := c.cfg.Vault.Latest(ctx, profile, hub.KindLogin)
	if errors.Is(err, hub.ErrNotFound) {
		return login{}, nil
	}
	if err != nil {
		return login{}, fmt.Errorf("reading the login: %w", err)
	}
	l := login{gen: rec.Generation, payload: rec.Payload}
	if l.cred, err = agent.ParseCredentials(rec.Payload); err != nil {
		return login{}, fmt.Errorf("reading the login: %w", err)
	}
	rec, err = c.cfg.Vault.Latest(ctx, profile, hub.KindHandover)
	if errors.Is(err, hub.ErrNotFound) {
		return l, nil
	}
	if err == nil {
		l.handover, err = hub.ParseHandover(rec.Payload)
	}
	if err != nil {
		return login{}, fmt.Errorf("reading whether the login was moved: %w", err)
	}
	return l, nil
}

// moved returns the error for what a login that was moved can't do here; nil if
// it wasn't.
func (l login) moved() error {
	if !l.handover.Holds(l.gen) {
		return nil
	}
	return hub.Hint(fmt.Errorf("%w: the login was moved to %s (bundle %s)", hub.ErrLoginRequired, l.handover.To[0], l.handover.Bundle),
		"work with it there, or sign in again with `claude-hub login`")
}

// ended reports whether only a sign-in helps.
func (l login) ended(now time.Time) bool {
	return !l.cred.LoginExpiresAt.IsZero() && !now.Before(l.cred.LoginExpiresAt)
}

// commit makes payload the latest generation of its kind. With the profile's
// Hold nobody else is at it but a sign-in that doesn't wait; whoever comes last
// wins then.
func (c *Carrier) commit(ctx context.Context, profile hub.ProfileID, kind hub.Kind, payload []byte) (hub.Generation, error) {
	for swap := 1; ; swap++ {
		latest, err := c.cfg.Vault.Generation(ctx, profile, kind)
		if err != nil {
			return 0, err
		}
		rec, err := c.cfg.Vault.Commit(ctx, profile, kind, latest, payload)
		if err != nil && !errors.Is(err, hub.ErrConflict) { // stored or not: the same call finds out
			rec, err = c.cfg.Vault.Commit(ctx, profile, kind, latest, payload)
		}
		if !errors.Is(err, hub.ErrConflict) || swap == maxSwaps {
			return rec.Generation, err
		}
	}
}

const maxSwaps = 10

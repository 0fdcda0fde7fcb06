// Package login brings a login into the vault: by driving the unmodified CLI's
// own sign-in on a terminal of ours, by taking a one-year setup token, or by
// adopting a directory that the CLI has signed in before.
//
// What it guarantees:
//
//  1. A capture is complete or there is none. Its commit point is the login's
//     generation in the vault; see capture. Ctrl-C, SIGTERM, SIGHUP, a closed
//     terminal and a CLI that is killed end a sign-in before that point, and
//     then nothing but an unused snapshot and an account's name may be left of
//     it, or are too late, and then it is all there. Once the CLI has written the login, a sign-in
//     is finished whatever its context says.
//  2. The CLI works in a scratch home that only this user can enter, and that is
//     removed in the end. What a killed process leaves, the next sign-in
//     removes.
//  3. The CLI alone talks to the platform. The hub sees the link, types the code
//     that the owner pasted, and reads the file that the CLI wrote. The screen on
//     which the CLI prints a setup token is passed through and never read.
//  4. A new login never slips under a live refresh of the old one: it is
//     committed under the refresh's lock, and then it wins.
package login

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// Config is what a Login needs.
type Config struct {
	Vault *vault.Vault // required
	// Place is where the CLI runs. Nil means Here, with Agent and Environ.
	Place Place
	// Agent is the path of the claude CLI. Required by SignIn, SetupToken and
	// Shell where there is no Place.
	Agent string
	// Dir is where scratch homes are made, on a disk that only this machine
	// writes. It is made if it does not exist. Required.
	Dir string
	// RefreshDir is the refresher's directory, with a folder per profile. Its
	// lock is taken for each commit of a login. Required.
	RefreshDir string
	// Environ is the environment of which the CLI gets the harmless part. Nil
	// means os.Environ().
	Environ []string
	// Accepted asks the platform whether it takes an access token; an error means
	// that this can't be found out now. A new login that the platform refuses is not
	// kept. Nil asks nobody.
	Accepted func(ctx context.Context, accessToken secret.Text) (bool, error)
	// Timeout bounds a sign-in from its start until the code is there. Zero
	// means 10 minutes.
	Timeout time.Duration
	Now     func() time.Time // nil means time.Now
	Log     *slog.Logger     // nil discards
}

// Login captures logins. Its methods may be called by several goroutines and
// processes at once; of two sign-ins to one profile, the second is a
// hub.ErrLocked.
type Login struct {
	cfg      Config
	patience patience
}

const defaultTimeout = 10 * time.Minute

// New checks cfg. It starts nothing and creates nothing.
func New(cfg Config) (*Login, error) {
	if cfg.Vault == nil || cfg.Dir == "" || cfg.RefreshDir == "" {
		return nil, fmt.Errorf("%w: login needs a vault, a scratch directory and the refresh directory", hub.ErrInvalid)
	}
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	if cfg.Place == nil {
		cfg.Place = &Here{Agent: cfg.Agent, Environ: cfg.Environ}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Login{cfg, defaultPatience}, nil
}

// UI is the owner's side of a sign-in.
type UI interface {
	// ShowURL tells the owner which link to open. It is called again, with
	// another link, when a code was not accepted: each link is good for one code.
	ShowURL(url string)
	// Code returns what the owner pasted, as it is. It returns when ctx ends. An
	// error ends the sign-in.
	Code(ctx context.Context) (secret.Text, error)
	// Trouble says why the last code was not taken. Code is called again after it.
	Trouble(message string)
}

// Progress is a [UI] that also wants to hear of each step of a sign-in, when it
// begins. Its goroutine is that of the other methods.
type Progress interface {
	Progress(step string)
}

// The steps of a sign-in, in words for the owner. StepStarting to StepExchange
// come again with each new link.
const (
	StepStarting  = "starting the claude CLI"
	StepLink      = "waiting for the link"
	StepCode      = "waiting for the code"
	StepExchange  = "signing in with the code"
	StepShell     = "waiting for the shell to end"
	StepChecking  = "asking the platform whether it accepts the login"
	StepCapturing = "capturing the login and the config directory"
	StepDone      = "done"
)

func progress(ui any, step string) {
	if p, ok := ui.(Progress); ok {
		p.Progress(step)
	}
}

// Result is what was captured.
type Result struct {
	Kind       hub.Kind       // hub.KindLogin or hub.KindSetupToken
	Generation hub.Generation // in the vault
	Files      int            // in the snapshot; 0 for a setup token

	Subscription  string    // such as "max"; "" if the platform did not say
	AccessExpires time.Time // of the access token; zero for a setup token
	LoginExpires  time.Time // when the owner must sign in again; zero if not known
	Warnings      []string  // whole sentences for the owner
}

// maxTries is how many codes a sign-in takes.
const maxTries = 3

// SignIn drives the CLI's sign-in: it shows the link, types the code that comes
// from ui, and captures what the CLI wrote. A code that the CLI or the platform
// refuses may be replaced twice. When ctx ends before the CLI has the login, the
// CLI is ended and the error is a hub.ErrCancelled; after that, SignIn finishes
// and returns no error.
func (l *Login) SignIn(ctx context.Context, profile hub.Profile, ui UI) (Result, error) {
	unlock, err := l.begin(ctx, profile)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.Timeout, errTooLate(l.cfg.Timeout))
	defer cancel()
	tries := maxTries
	for {
		result, err := l.attempt(ctx, profile, ui, &tries)
		var refused *refusedCodeError
		if !errors.As(err, &refused) {
			return result, err
		}
		if tries == 0 {
			return Result{}, hub.Hint(fmt.Errorf("after %d codes: %w", maxTries, err), "start again with `claude-hub login`, and take the code from the link that it shows last")
		}
		ui.Trouble(refused.why + " Here is a new link")
	}
}

// ready looks, before the owner is asked for anything, whether the vault can be
// read and the profile's ID is one, and clears away what dead sign-ins left.
func (l *Login) ready(ctx context.Context, profile hub.Profile) error {
	if _, err := l.cfg.Vault.Generation(ctx, profile.ID, hub.KindLogin); err != nil {
		return fmt.Errorf("looking for the login that there is: %w", err)
	}
	if err := sweep(ctx, l.cfg.Dir); err != nil {
		l.cfg.Log.Warn("a scratch home could not be removed", "err", err)
	}
	return nil
}

// begin is ready, and keeps other sign-ins to the profile out until unlock.
func (l *Login) begin(ctx context.Context, profile hub.Profile) (unlock func(), err error) {
	if err := l.ready(ctx, profile); err != nil {
		return nil, err
	}
	unlock, err = lockProfile(ctx, l.cfg.Dir, profile.ID)
	if errors.Is(err, hub.ErrLocked) {
		err = fmt.Errorf("%w: somebody is signing in to the profile %q already", hub.ErrLocked, profile.Name)
		return nil, hub.Hint(err, "finish that sign-in or end it, then start again")
	}
	if err != nil {
		return nil, fmt.Errorf("keeping other sign-ins to the profile out: %w", err)
	}
	return unlock, nil
}

func errTooLate(after time.Duration) error {
	return hub.Hint(fmt.Errorf("%w: no code came within %v", hub.ErrCancelled, after), "start again with `claude-hub login` when the browser is at hand")
}

// cancelled says that ctx ended a sign-in of which nothing was kept.
func cancelled(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, hub.ErrCancelled) {
		return cause
	}
	return fmt.Errorf("%w: the sign-in was interrupted and nothing was captured (%w)", hub.ErrCancelled, cause)
}

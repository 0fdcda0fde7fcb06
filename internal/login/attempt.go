package login

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// patience is how long each step may take. These are bounds for a CLI that hangs,
// not expectations.
type patience struct {
	link     time.Duration // from its start to the link
	exchange time.Duration // from the code to the login
	exit     time.Duration // from the login to its exit, which it spends on asking for settings
	check    time.Duration // for the platform to say whether it accepts the login
	capture  time.Duration // of our own part: a refresh that holds the lock takes 45 seconds at most
}

// The CLI itself waits 30 seconds for each of two answers.
var defaultPatience = patience{link: 30 * time.Second, exchange: 2 * time.Minute, exit: 15 * time.Second, check: 20 * time.Second, capture: 3 * time.Minute}

// filePoll is how often the credential file is looked at.
const filePoll = 50 * time.Millisecond

// screenSize is wide enough that no link is wrapped.
var screenSize = sandbox.Size{Rows: 50, Cols: 8 << 10}

// refusedCodeError is an attempt that failed on its code: another may do better.
type refusedCodeError struct{ why string }

func (e *refusedCodeError) Error() string { return e.why }
func (e *refusedCodeError) Unwrap() error { return hub.ErrRefused }

// attempt runs the CLI's sign-in once. tries is how many codes may still be
// pasted.
func (l *Login) attempt(ctx context.Context, profile hub.Profile, ui UI, tries *int) (Result, error) {
	home, err := newScratch(ctx, l.cfg.Dir)
	if err != nil {
		return Result{}, err
	}
	defer home.remove()
	screen := newTranscript()
	progress(ui, StepStarting)
	p, err := l.cfg.Place.start(ctx, home, work{
		build: agent.LoginCommand, size: screenSize, screen: screen,
		more: map[string]string{"TERM": "xterm-256color"}, // nobody sees this screen: its words must not depend on who asked
	})
	if err != nil {
		return Result{}, err
	}
	defer p.end()
	err = l.converse(ctx, p, screen, home, ui, tries)
	p.end()
	// Only now is it certain what the CLI did: an interrupted one may have
	// written the login, and one that says it's done may not have.
	content, creds, fileErr := home.credentials()
	switch {
	case fileErr == nil:
		return l.keep(ctx, profile, home, content, creds, ui)
	case err != nil:
		return Result{}, err
	}
	return Result{}, fmt.Errorf("the claude CLI ended without a login: %w", fileErr)
}

// converse leads the CLI to the point where it has written the login, or
// returns why it did not get there.
func (l *Login) converse(ctx context.Context, p program, screen *transcript, home *scratch, ui UI, tries *int) error {
	progress(ui, StepLink)
	link, state, err := l.awaitLink(ctx, p, screen)
	if err != nil {
		return err
	}
	ui.ShowURL(link)
	progress(ui, StepCode)
	for {
		code, err := askCode(ctx, p, ui, state, tries)
		if err != nil {
			return explain(ctx, p, screen, err)
		}
		*tries--
		prompts := screen.prompts()
		progress(ui, StepExchange)
		if err := p.enter([]byte(code.Reveal() + "\r")); err != nil {
			return fmt.Errorf("handing the code to the claude CLI: %w", err)
		}
		again, err := l.awaitLogin(ctx, p, screen, prompts, home)
		if !again {
			return err
		}
		if *tries == 0 {
			return &refusedCodeError{"the claude CLI does not take that for a code"}
		}
		ui.Trouble("the claude CLI does not take that for a code: copy all of it, including the # in the middle")
	}
}

// errGone stands for the CLI's end until explain has found the reason.
var errGone = errors.New("the claude CLI ended")

// awaitLink returns the link that the CLI prints, and its state.
func (l *Login) awaitLink(ctx context.Context, p program, screen *transcript) (link, state string, err error) {
	late := errors.New("late")
	ctx, cancel := context.WithTimeoutCause(ctx, l.patience.link, late)
	defer cancel()
	found, err := screen.await(ctx, p, func() bool { return screen.link() != "" && screen.prompts() > 0 })
	link = screen.link()
	switch {
	case found, errors.Is(err, late) && link != "": // without the words that we know, but with a link
		u, err := url.Parse(link)
		if err != nil {
			return "", "", fmt.Errorf("reading the sign-in link: %w", err)
		}
		return link, u.Query().Get("state"), nil
	case errors.Is(err, late):
		return "", "", hub.Hint(fmt.Errorf("the claude CLI printed no link within %v", l.patience.link), hintVersion)
	}
	return "", "", explain(ctx, p, screen, err)
}

const hintVersion = "this may be a version that the hub does not know: fetch the tested one with `claude-hub agent install`"

// askCode asks the owner until there is something that can be a code for this
// sign-in, and gives up when the CLI is gone.
func askCode(ctx context.Context, p program, ui UI, state string, tries *int) (secret.Text, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-p.exited():
			cancel(errGone)
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(nil); <-watched }()
	for {
		pasted, err := ui.Code(ctx)
		if ctx.Err() != nil {
			return secret.Text{}, context.Cause(ctx)
		}
		if err != nil {
			return secret.Text{}, err
		}
		code, err := parseCode(pasted.Reveal(), state)
		if err == nil {
			return secret.New(code), nil
		}
		if *tries--; *tries == 0 {
			return secret.Text{}, err
		}
		ui.Trouble(err.Error() + ": " + hub.HintOf(err))
	}
}

// awaitLogin waits until the CLI has written the login and is gone. It reports
// true if the CLI asks once more for a code instead; prompts is how often it had.
func (l *Login) awaitLogin(ctx context.Context, p program, screen *transcript, prompts int, home *scratch) (again bool, err error) {
	tick := time.NewTicker(filePoll)
	defer tick.Stop()
	deadline := time.NewTimer(l.patience.exchange)
	defer deadline.Stop()
	written := false
	for {
		select {
		case <-p.exited():
			return false, verdict(p, screen)
		case <-ctx.Done():
			if !written {
				return false, cancelled(ctx)
			}
			ctx = context.WithoutCancel(ctx) // let it come to its end
		case <-deadline.C:
			if written {
				return false, nil
			}
			return false, hub.Hint(fmt.Errorf("the claude CLI did not get a login within %v", l.patience.exchange), "see whether this machine reaches the platform, then start again")
		case <-screen.changed:
			if screen.prompts() > prompts {
				return true, nil
			}
		case <-tick.C:
			if _, _, err := home.credentials(); err == nil && !written {
				written = true
				deadline.Reset(l.patience.exit)
			}
		}
	}
}

// verdict says what the CLI's end means after a code was typed. Its last words
// are quoted only if they are the ones we know: the code is among the others.
func verdict(p program, screen *transcript) error {
	if why := screen.failure(); why != "" {
		return &refusedCodeError{why}
	}
	if p.failure() == nil {
		return nil
	}
	err := fmt.Errorf("the claude CLI ended before the sign-in was complete (%w)", p.failure())
	return hub.Hint(err, "nothing was captured: start again with `claude-hub login`")
}

// explain says why a sign-in ended at err before a code was typed. If the CLI is
// gone, its own words are the best reason.
func explain(ctx context.Context, p program, screen *transcript, err error) error {
	if ctx.Err() != nil {
		return cancelled(ctx)
	}
	if !hasEnded(p) {
		return err
	}
	how := p.failure()
	if how == nil {
		how = errors.New("exit status 0")
	}
	err = fmt.Errorf("the claude CLI ended before there was a code (%w); its last words: %q", how, lastLine(screen.tail()))
	if errors.Is(how, errFromOutside) {
		return hub.Hint(err, "nothing was captured: start again with `claude-hub login`")
	}
	return hub.Hint(err, hintVersion)
}

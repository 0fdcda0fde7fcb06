package login

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// SetupToken lets the owner make a one-year token with the CLI's own program,
// whose screen is passed through between the owner's terminal (in and out) and
// the CLI. The token that it prints is not looked at: the owner pastes it
// afterwards, unseen. Where there is no terminal, make the token elsewhere and
// use AdoptSetupToken.
func (l *Login) SetupToken(ctx context.Context, profile hub.Profile, in, out *os.File) (Result, error) {
	if !isTerminal(in) || !isTerminal(out) {
		err := fmt.Errorf("%w: making a setup token needs a terminal", hub.ErrInvalid)
		return Result{}, hub.Hint(err, "run `claude setup-token` where there is one, and hand the token over with --code-file or on standard input")
	}
	unlock, err := l.begin(ctx, profile)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if err := l.passThrough(ctx, in, out); err != nil {
		return Result{}, err
	}
	t, err := l.askSetupToken(ctx, in, out)
	if err != nil {
		return Result{}, err
	}
	result, err := l.keepSetupToken(ctx, profile, t)
	if err == nil {
		result.Warnings = append(result.Warnings, "The token is still to be seen in this terminal's history: clear it.")
	}
	return result, err
}

// askSetupToken takes the token from the terminal, which shows nothing of what is
// pasted. The CLI shows a token only once, so that a wrong paste may be mended as
// often as that of a code.
func (l *Login) askSetupToken(ctx context.Context, in, out *os.File) (agent.SetupToken, error) {
	restore, err := echoOff(in)
	if err != nil {
		return agent.SetupToken{}, err
	}
	defer restore()
	ui := &TerminalUI{In: in, Out: out}
	for try := 1; ; try++ {
		fmt.Fprint(out, "\nPaste the token that was just shown, and press Enter (it stays invisible): ")
		line, err := (&lines{f: in}).next(ctx)
		switch {
		case ctx.Err() != nil:
			return agent.SetupToken{}, cancelled(ctx)
		case err != nil:
			return agent.SetupToken{}, noCode(err)
		case len(line) == 0:
			return agent.SetupToken{}, fmt.Errorf("%w: no token was pasted", hub.ErrCancelled)
		}
		t, err := agent.NewSetupToken(secret.New(string(line)), l.cfg.Now())
		if err == nil || try == maxTries {
			return t, err
		}
		discardInput(in) // the wrong paste may have more lines
		ui.Trouble(err.Error() + ": " + hub.HintOf(err))
	}
}

// discardInput drops what was typed and not read yet.
func discardInput(f *os.File) {
	onFile(f, func(fd int) { _ = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) }) // only a terminal has such a queue
}

// AdoptSetupToken keeps a setup token that was just made: its year is counted
// from now. The token is taken as it was pasted, with white space around it.
func (l *Login) AdoptSetupToken(ctx context.Context, profile hub.Profile, token secret.Text) (Result, error) {
	t, err := agent.NewSetupToken(token, l.cfg.Now())
	if err != nil {
		return Result{}, err
	}
	return l.keepSetupToken(ctx, profile, t)
}

func (l *Login) keepSetupToken(ctx context.Context, profile hub.Profile, t agent.SetupToken) (Result, error) {
	payload, err := t.Encode()
	if err != nil {
		return Result{}, err
	}
	record, err := l.commit(ctx, profile.ID, hub.KindSetupToken, payload)
	if err != nil {
		return Result{}, fmt.Errorf("keeping the setup token: %w", err)
	}
	return Result{Kind: hub.KindSetupToken, Generation: record.Generation, LoginExpires: t.Expires}, nil
}

// resetModes undoes what a full-screen program may have left on when it was
// killed: mouse and focus reports, bracketed paste, key reports, a hidden cursor.
const resetModes = "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?2031l\x1b[>4m\x1b[<u\x1b[?7h\x1b[?25h\x1b[0m"

// setupEnviron keeps the CLI from starting a browser by itself, which could be a
// text browser on the same terminal, and makes it print the link in full, as for
// a sign-in.
var setupEnviron = map[string]string{"BROWSER": "true", "CLAUDE_CODE_FULL_SIGN_IN_LINK": "1"}

// passThrough runs the CLI's own program for setup tokens on the owner's terminal.
func (l *Login) passThrough(ctx context.Context, in, out *os.File) error {
	home, err := newScratch(ctx, l.cfg.Dir)
	if err != nil {
		return err
	}
	defer home.remove()
	p, err := l.onTerminal(ctx, home, in, out, work{build: agent.SetupTokenCommand, more: setupEnviron})
	if err != nil {
		return err
	}
	if err := p.failure(); err != nil {
		return hub.Hint(fmt.Errorf("%w: the claude CLI ended without a token (%w)", hub.ErrCancelled, err), hintVersion)
	}
	return nil
}

const ctrlD = 4

// onTerminal runs a full-screen program with the owner's terminal passed through,
// and returns when it is gone, and whether it came to its own end.
func (l *Login) onTerminal(ctx context.Context, home *scratch, in, out *os.File, w work) (program, error) {
	restore, err := rawMode(in)
	if err != nil {
		return nil, fmt.Errorf("taking over the terminal: %w", err)
	}
	defer func() {
		_, _ = out.WriteString(resetModes) // a terminal that is gone has no modes
		restore()
	}()
	w.size, w.screen = terminalSize(out), out
	p, err := l.cfg.Place.start(ctx, home, w)
	if err != nil {
		return nil, err
	}
	defer func() {
		// A shell that waits at its prompt is deaf to SIGTERM and leaves at a Ctrl-D.
		go p.enter([]byte{ctrlD}) //nolint:errcheck // it may have ended; that ends a Write, too
		p.end()
	}()
	return p, relay(ctx, p, in, out)
}

// relay passes keys and window sizes on until the program is gone. What is typed
// after that stays in the terminal for whoever reads next.
func relay(ctx context.Context, p program, in, out *os.File) error {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)

	typing, stop := context.WithCancelCause(ctx)
	var keyErr error
	typed := make(chan struct{}) // closed when keyErr is there
	go func() {
		defer close(typed)
		keyErr = copyKeys(typing, p, in)
	}()
	defer func() { stop(errGone); <-typed }()
	noMoreKeys := typed
	for {
		select {
		case <-p.exited():
			return nil
		case <-ctx.Done():
			return cancelled(ctx)
		case <-noMoreKeys:
			noMoreKeys = nil
			if ctx.Err() == nil && !hasEnded(p) && !errors.Is(keyErr, errGone) {
				return noCode(keyErr)
			}
		case <-resized:
			p.resize(terminalSize(out))
		}
	}
}

func copyKeys(ctx context.Context, p program, in *os.File) error {
	buf := make([]byte, 4<<10)
	for {
		n, err := readSome(ctx, in, buf)
		if err != nil {
			return err
		}
		if err := p.enter(buf[:n]); err != nil {
			return errors.Join(errGone, err)
		}
	}
}

func rawMode(f *os.File) (restore func(), err error) {
	var old *term.State
	err = unix.ENOTTY
	onFile(f, func(fd int) { old, err = term.MakeRaw(fd) })
	if err != nil {
		return nil, err
	}
	return func() { onFile(f, func(fd int) { _ = term.Restore(fd, old) }) }, nil
}

func terminalSize(f *os.File) sandbox.Size {
	size := sandbox.Size{Rows: 24, Cols: 80}
	onFile(f, func(fd int) {
		if w, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil && w.Col > 0 && w.Row > 0 {
			size = sandbox.Size{Rows: w.Row, Cols: w.Col}
		}
	})
	return size
}

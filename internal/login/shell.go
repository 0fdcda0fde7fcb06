package login

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// shellScript puts the CLI on PATH and becomes the best shell that there is. The
// shells read no file of anybody's: the home is a clean one.
const shellScript = `mkdir -p "$HOME/bin" && ln -sf "$1" "$HOME/bin/claude" && export PATH="$HOME/bin:$PATH" HISTFILE= PS1='sign-in$ ' || exit
command -v bash >/dev/null && exec bash --noprofile --norc -i
exec sh -i`

// Shell opens an interactive shell where the CLI would sign in, with the owner's
// terminal passed through, and captures the login that is in its home when it
// ends, however that is: by itself, with an error, by a signal, by the end of
// ctx, or with its container. Without a login nothing is changed, and the error
// says so; a login that the profile has stays as it was.
func (l *Login) Shell(ctx context.Context, profile hub.Profile, in, out *os.File, steps Progress) (Result, error) {
	if !isTerminal(in) || !isTerminal(out) {
		err := fmt.Errorf("%w: a shell needs a terminal", hub.ErrInvalid)
		return Result{}, hub.Hint(err, "without one, `claude-hub login` takes the code on standard input or from --code-file")
	}
	unlock, err := l.begin(ctx, profile)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	home, err := newScratch(ctx, l.cfg.Dir)
	if err != nil {
		return Result{}, err
	}
	defer home.remove()
	progress(steps, StepStarting)
	fmt.Fprintf(out, "This is a clean shell, %s. Sign in with `claude auth login`, then type `exit`:\n"+
		"the login and the CLI's whole config directory are captured, and this place is removed.\n", l.cfg.Place.Name())
	progress(steps, StepShell)
	p, err := l.onTerminal(ctx, home, in, out, work{build: shellCommand, more: setupEnviron})
	fmt.Fprintln(out) // whatever the shell was in the middle of
	content, creds, fileErr := home.credentials()
	switch {
	case fileErr == nil:
		return l.keep(ctx, profile, home, content, creds, steps)
	case err != nil:
		return Result{}, l.leftAsItWas(ctx, profile, err)
	case errors.Is(fileErr, fs.ErrNotExist), errors.Is(fileErr, hub.ErrNotFound):
		err := fmt.Errorf("%w: there was no login when the shell ended (%s), so nothing was captured", hub.ErrCancelled, ending(p))
		return Result{}, l.leftAsItWas(ctx, profile, hub.Hint(err, "in the shell, sign in with `claude auth login` before you leave it"))
	}
	return Result{}, l.leftAsItWas(ctx, profile, fmt.Errorf("nothing was captured: the login in the shell's home is no good: %w", fileErr))
}

func shellCommand(bin, home string) agent.Command {
	return agent.ShellCommand(home, "sh", "-c", shellScript, "sh", bin)
}

// leftAsItWas adds to err what became of the login that there was.
func (l *Login) leftAsItWas(ctx context.Context, profile hub.Profile, err error) error {
	generation, lookErr := l.cfg.Vault.Generation(context.WithoutCancel(ctx), profile.ID, hub.KindLogin)
	if lookErr != nil || generation == 0 {
		return err
	}
	return hub.Hint(fmt.Errorf("%w; the login that the profile has stays as it was (generation %d)", err, generation), hub.HintOf(err))
}

func ending(p program) string {
	if err := p.failure(); err != nil {
		return err.Error()
	}
	return "exit status 0"
}

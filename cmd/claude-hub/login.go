package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/secret"
)

type loginOptions struct {
	profile    *string
	codeFile   string
	setupToken bool
	web        bool
	in         string
	shell      bool
	quiet      bool
	timeout    time.Duration
}

func (a *app) loginCommand() *cobra.Command {
	var o loginOptions
	c := &cobra.Command{
		Use:   "login",
		Short: "Sign in through the browser and capture the login",
		Long: `Runs the claude CLI's own sign-in in a clean place, shows its link (and, on a
terminal, a QR code), takes the code that the page shows, asks the platform whether
it accepts the login, and keeps it in the vault with the CLI's whole config
directory. A profile that does not exist yet is made.

The place is a container, if an engine and the image of ` + "`claude-hub image build`" + `
are there, else a sandbox of bubblewrap's, else this machine itself; --in chooses.
From the first two, nothing can be reached but the platform.

With --shell you get a shell there and sign in by hand, with ` + "`claude auth login`" + `;
what is signed in when you leave it is captured. Without a login, nothing changes.

Without a terminal, the code is read from standard input, or from --code-file as
soon as that file is there.

With --web you sign in on a page in your browser: the daemon's, or, where there is
no daemon, one on this machine's loopback for as long as it takes.

With --setup-token it makes a one-year token for inference only: the CLI's own
screen is passed through, and you paste the token that it shows. A profile that
has a login keeps it as a spare for when the login runs out. Without a terminal,
the token itself is read from standard input or --code-file.`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.web {
				return a.loginWeb(c.Context(), o)
			}
			return a.login(c.Context(), o)
		},
	}
	o.profile = a.profileFlag(c)
	c.Flags().StringVar(&o.codeFile, "code-file", "", "read the code from this file when it is there")
	c.Flags().BoolVar(&o.setupToken, "setup-token", false, "make a one-year token instead of a login")
	c.Flags().BoolVar(&o.web, "web", false, "sign in on a web page instead of in this terminal")
	c.Flags().StringVar(&o.in, "in", inAuto, "where the claude CLI signs in: "+strings.Join(places, ", "))
	c.RegisterFlagCompletionFunc("in", cobra.FixedCompletions(places, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // it fails only for a flag that isn't there
	c.Flags().BoolVar(&o.shell, "shell", false, "open a shell in that place, and capture the login that you make there")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "don't print the steps")
	c.MarkFlagsMutuallyExclusive("shell", "setup-token", "web")
	c.MarkFlagsMutuallyExclusive("shell", "code-file")
	c.MarkFlagsMutuallyExclusive("web", "setup-token")
	c.MarkFlagsMutuallyExclusive("web", "code-file")
	c.Flags().DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long to wait for the code")
	return c
}

func (a *app) login(ctx context.Context, o loginOptions) error {
	if o.timeout <= 0 {
		return fmt.Errorf("%w: the timeout %s is no time at all", hub.ErrInvalid, o.timeout)
	}
	if err := leaveNoCore(); err != nil {
		return err
	}
	h, err := a.openHome()
	if err != nil {
		return err
	}
	if o.setupToken && (o.codeFile != "" || !isTerminal(a.stdin)) {
		l, err := a.newLogin(h, "", o.timeout)
		if err != nil {
			return err
		}
		return a.capture(ctx, h, *o.profile, func(p hub.Profile) (login.Result, error) { return a.adoptToken(ctx, l, p, o.codeFile) })
	}
	if o.shell && !isTerminal(a.stdin) { // before anything is started
		return hub.Hint(fmt.Errorf("%w: --shell needs a terminal", hub.ErrInvalid), "without one, the code is read from standard input or --code-file")
	}
	ui := a.loginUI(o)
	l, release, err := a.newSignIn(ctx, h, o.in, o.timeout, ui.Progress)
	if err != nil {
		return err
	}
	defer release()
	return a.capture(ctx, h, *o.profile, func(p hub.Profile) (login.Result, error) {
		in, _ := a.stdin.(*os.File)
		switch {
		case o.setupToken:
			return a.setupToken(ctx, l, p, in)
		case o.shell:
			return l.Shell(ctx, p, in, a.screen(), ui)
		}
		return l.SignIn(ctx, p, ui)
	})
}

// newLogin returns what captures without a sign-in of the CLI's.
func (a *app) newLogin(h *home, agentPath string, timeout time.Duration) (*login.Login, error) {
	return login.New(a.loginConfig(h, agentPath, timeout))
}

func (a *app) loginConfig(h *home, agentPath string, timeout time.Duration) login.Config {
	return login.Config{
		Vault: h.vault, Agent: agentPath, Dir: filepath.Join(h.dir, "login"), RefreshDir: filepath.Join(h.dir, "refresh"),
		Environ: a.environ, Timeout: timeout, Log: a.log(),
	}
}

// screen is where a program's screen is passed through to: standard output, or
// standard error where --json wants the former.
func (a *app) screen() *os.File {
	out := a.stdout
	if a.json {
		out = a.stderr
	}
	f, _ := out.(*os.File)
	return f
}

// loginUI talks on standard error, so that --json keeps standard output for the
// result.
func (a *app) loginUI(o loginOptions) interface {
	login.UI
	login.Progress
} {
	if o.codeFile != "" {
		return &login.FileUI{Path: o.codeFile, Out: a.stderr, Quiet: o.quiet}
	}
	in, _ := a.stdin.(*os.File)
	return &login.TerminalUI{In: in, Out: a.stderr, Quiet: o.quiet}
}

func (a *app) setupToken(ctx context.Context, l *login.Login, p hub.Profile, in *os.File) (login.Result, error) {
	result, err := l.SetupToken(ctx, p, in, a.screen())
	if errors.Is(err, hub.ErrInvalid) { // it was mistyped, and is shown only once
		err = hub.Hint(err, "the token that was shown is still good: hand all of it over with `claude-hub login --setup-token --code-file FILE`")
	}
	return result, err
}

func (a *app) adoptToken(ctx context.Context, l *login.Login, p hub.Profile, codeFile string) (login.Result, error) {
	token, err := a.readToken(codeFile)
	if err != nil {
		return login.Result{}, err
	}
	return l.AdoptSetupToken(ctx, p, token)
}

// readToken reads a setup token from a file, or from standard input if path is
// empty.
func (a *app) readToken(path string) (secret.Text, error) {
	from := a.stdin
	if path != "" {
		file, err := os.Open(path)
		if err != nil {
			return secret.Text{}, fmt.Errorf("reading the setup token: %w", err)
		}
		defer file.Close()
		from = file
	}
	data, err := io.ReadAll(io.LimitReader(from, 4096))
	if err != nil {
		return secret.Text{}, fmt.Errorf("reading the setup token: %w", err)
	}
	return secret.New(string(data)), nil
}

// capture captures a login and shows what came of it.
func (a *app) capture(ctx context.Context, h *home, name string, do func(hub.Profile) (login.Result, error)) error {
	p, result, err := a.captured(ctx, h, name, do)
	if err != nil {
		return err
	}
	return a.showCapture(p, result)
}

// captured makes the profile if it is new, and takes it back if nothing came of
// it: a profile that a kill leaves behind is empty, and the next login uses it.
func (a *app) captured(ctx context.Context, h *home, name string, do func(hub.Profile) (login.Result, error)) (hub.Profile, login.Result, error) {
	p, err := h.profile(ctx, name)
	isNew := errors.Is(err, hub.ErrNotFound)
	if isNew {
		p = hub.Profile{ID: hub.NewProfileID(), Name: hub.ProfileName(name), Created: now()}
		err = h.vault.CreateProfile(ctx, p)
	}
	if err != nil {
		return p, login.Result{}, err
	}
	result, err := do(p)
	if err != nil && isNew {
		err = errors.Join(err, a.removeEmpty(context.WithoutCancel(ctx), h, p))
	}
	return p, result, err
}

// emptyPatience bounds the wait for who is at work on the profile's login.
const emptyPatience = time.Minute

// removeEmpty removes a profile that was made for a login which has not come. If
// anything has come, be it from somebody else meanwhile, or if that can't be told,
// the profile stays: it may be the login's only copy.
func (a *app) removeEmpty(ctx context.Context, h *home, p hub.Profile) error {
	ctx, cancel := context.WithTimeout(ctx, emptyPatience)
	defer cancel()
	r, err := a.newRefresher(h, a.log())
	if err != nil {
		return err
	}
	defer r.Stop()
	hold, err := r.Hold(ctx, p.ID) // who commits a login holds it, too
	if err != nil {
		return err
	}
	defer hold.Release()
	removed, err := h.vault.RemoveEmpty(ctx, p.ID)
	if removed {
		err = os.RemoveAll(h.refreshDir(p.ID))
	}
	return err
}

func (a *app) showCapture(p hub.Profile, r login.Result) error {
	if a.json {
		return a.printJSON(map[string]any{
			"profile": p, "kind": r.Kind, "generation": r.Generation, "files": r.Files,
			"subscription": r.Subscription, "login_expires": r.LoginExpires, "warnings": append([]string{}, r.Warnings...),
		})
	}
	what := "The login is"
	if r.Kind == hub.KindSetupToken {
		what = "The setup token is"
	}
	fmt.Fprintf(a.stdout, "%s %s in the vault, as profile %q.\n", a.style(a.stdout, green, "✓"), what, p.Name)
	if r.Subscription != "" {
		fmt.Fprintf(a.stdout, "  plan   %s\n", printable(r.Subscription, 40))
	}
	if !r.LoginExpires.IsZero() {
		fmt.Fprintf(a.stdout, "  until  %s (%s)\n", r.LoginExpires.Local().Format("2006-01-02"), until(now(), r.LoginExpires))
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(a.stderr, "%s %s\n", a.style(a.stderr, yellow, "warning:"), w)
	}
	fmt.Fprintf(a.stdout, "\nNext: %s\n", a.style(a.stdout, bold, strings.Trim(a.forProfile("`claude-hub run \"explain this repository\"`", string(p.Name)), "`")))
	return nil
}

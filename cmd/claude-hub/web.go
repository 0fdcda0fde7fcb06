package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/web"
)

// defaultListen is where the page is if nothing is said.
const defaultListen = "127.0.0.1:3002"

// listening is what the settings and the environment say about the page.
type listening struct {
	address  string // empty: nowhere
	chosen   bool   // by the owner, rather than by default
	public   string
	insecure bool
}

func (a *app) listening(c config) (listening, error) {
	l := listening{address: defaultListen, public: cmp.Or(a.getenv("CLAUDE_HUB_PUBLIC_URL"), c.PublicURL), insecure: c.ListenInsecure}
	if c.Listen != nil {
		l.address, l.chosen = *c.Listen, true
	}
	if env := a.getenv("CLAUDE_HUB_LISTEN"); env != "" {
		l.address, l.chosen = env, true
	}
	if env := a.getenv("CLAUDE_HUB_LISTEN_INSECURE"); env != "" {
		insecure, err := strconv.ParseBool(env)
		if err != nil {
			return l, fmt.Errorf("%w: CLAUDE_HUB_LISTEN_INSECURE is neither true nor false", hub.ErrInvalid)
		}
		l.insecure = insecure
	}
	if l.address == "off" {
		l.address = ""
	}
	return l, nil
}

// openPage serves the operator's page for the daemon, or nothing where it's off.
// That the default address is taken keeps no login from being refreshed.
func (a *app) openPage(h *home, r *refresh.Refresher, log *slog.Logger) (*web.Page, error) {
	l, err := a.listening(h.config)
	if err != nil || l.address == "" {
		return nil, err
	}
	if err := leaveNoCore(); err != nil {
		return nil, err
	}
	p, err := web.New(web.Config{
		Hub: desk{a, h, r, log}, Listen: l.address, PublicURL: l.public, Insecure: l.insecure, Log: log, Ready: h.ready,
	})
	if errors.Is(err, unix.EADDRINUSE) && !l.chosen {
		log.Warn("the operator's page is off: its address is taken; `listen` in config.yaml can name another", "address", l.address)
		return nil, nil
	}
	return p, err
}

// desk is what stands behind the page: the vault, the refresher and the CLI's
// sign-in.
type desk struct {
	a         *app
	home      *home
	refresher *refresh.Refresher
	log       *slog.Logger
}

// ready returns nil where the hub serves: if some profiles can't be read, it does
// for the others.
func (h *home) ready(ctx context.Context) error {
	profiles, err := h.vault.Profiles(ctx)
	if len(profiles) > 0 {
		return nil
	}
	return err
}

// Profiles returns every profile with its health, but for those that can't be
// read, which are logged.
func (d desk) Profiles(ctx context.Context) ([]web.Profile, error) {
	all, err := d.home.standing(ctx, d.refresher)
	if err != nil && len(all) == 0 {
		return nil, err
	}
	if err != nil {
		d.log.Error("some profiles are not on the page", "err", err)
	}
	list := make([]web.Profile, 0, len(all))
	for _, of := range all {
		p, s := of.profile, of.status
		line := web.Profile{
			Name: p.Name, Account: d.home.email(ctx, p.ID, s.Account), Plan: s.Plan, Health: s.Health, Reason: s.Reason,
			SignedIn: s.Generation > 0, LoginExpires: s.LoginExpires, SpareInUse: s.ServedBySpare,
		}
		if s.Spare != nil {
			line.Spare = s.Spare.Expires
		}
		list = append(list, line)
	}
	return list, nil
}

// loginGrace is how much later than the page the CLI's sign-in would give up: it
// is the page that knows whose time is up.
const loginGrace = time.Minute

// SignIn carries out the CLI's own sign-in.
func (d desk) SignIn(ctx context.Context, req web.Request, ui web.UI) (web.Result, error) {
	_, r, err := d.a.signIn(ctx, d.home, string(req.Profile), req.In, req.Timeout+loginGrace, steps{ui})
	return web.Result{Plan: r.Subscription, LoginExpires: r.LoginExpires, Generation: r.Generation, Files: r.Files, Warnings: r.Warnings}, err
}

// steps tells the page what the sign-in tells the terminal line by line.
type steps struct{ web.UI }

// Progress hears of each step, most of which the page knows by itself.
func (s steps) Progress(step string) {
	switch step {
	case login.StepStarting, login.StepLink, login.StepCode, login.StepExchange, login.StepDone:
	case login.StepChecking, login.StepCapturing:
		s.Capturing()
	default:
		s.Note(step)
	}
}

// signIn carries out one sign-in with the owner at ui.
func (a *app) signIn(ctx context.Context, h *home, name, in string, timeout time.Duration, ui steps) (hub.Profile, login.Result, error) {
	l, release, err := a.newSignIn(ctx, h, cmp.Or(in, inAuto), timeout, ui.Progress)
	if err != nil {
		return hub.Profile{}, login.Result{}, err
	}
	defer release()
	return a.captured(ctx, h, name, func(p hub.Profile) (login.Result, error) { return l.SignIn(ctx, p, ui) })
}

// loginWeb signs in through the page: of the daemon, or, where there is none, of
// this process.
func (a *app) loginWeb(ctx context.Context, o loginOptions) error {
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
	req := api.SignInRequest{Profile: hub.ProfileName(*o.profile), Timeout: o.timeout, In: o.in}
	if _, err := hub.ParseProfileName(*o.profile); err != nil {
		return err
	}
	client, err := api.Dial(ctx, socketPath(h.dir))
	switch {
	case err == nil:
		defer client.Close()
		link, err := client.Operator(ctx, api.OperatorRequest{Profile: req.Profile})
		if err == nil {
			return a.followSignIn(ctx, h, link, o.quiet, func(each func(api.SignIn)) error { _, err := client.SignIn(ctx, req, each); return err })
		}
		if !errors.Is(err, hub.ErrNotFound) { // otherwise the daemon serves no page
			return err
		}
	case !errors.Is(err, hub.ErrNotFound):
		return err
	}
	return a.loginOwnPage(ctx, h, req, o.quiet)
}

// shownGrace is how long a page of this process waits for a browser to be shown
// the end.
const shownGrace = 5 * time.Second

// loginOwnPage serves the page on loopback for as long as one sign-in takes.
func (a *app) loginOwnPage(ctx context.Context, h *home, req api.SignInRequest, quiet bool) error {
	r, err := a.newRefresher(h, a.log())
	if err != nil {
		return err
	}
	defer r.Stop()
	p, err := web.New(web.Config{Hub: desk{a, h, r, a.log()}, Listen: "127.0.0.1:0", Log: a.log()})
	if err != nil {
		return err
	}
	defer p.Close()
	link, err := p.Link(req.Profile)
	if err != nil {
		return err
	}
	return a.followSignIn(ctx, h, link, quiet, func(each func(api.SignIn)) error {
		var last api.SignIn
		err := p.SignIn(ctx, req, func(s api.SignIn) { last = s; each(s) })
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shownGrace)
		defer cancel()
		p.AwaitShown(ctx, req.Profile)
		return cmp.Or(err, last.Err())
	})
}

// followSignIn shows the link and then each state of a sign-in, to its end.
func (a *app) followSignIn(ctx context.Context, h *home, link api.OperatorLink, quiet bool, follow func(each func(api.SignIn)) error) error {
	a.showLink(a.stderr, "Open this link in a browser; the sign-in goes on there:", link)
	say := func(words string) {
		if words != "" && !quiet {
			fmt.Fprintf(a.stderr, "%s %s\n", a.style(a.stderr, dim, "…"), words)
		}
	}
	var last api.SignIn
	err := follow(func(s api.SignIn) {
		if s.Note != last.Note {
			say(printable(s.Note, 600))
		}
		if s.State != last.State || s.Trouble != last.Trouble {
			say(stateWords(s))
		}
		last = s
	})
	if err != nil {
		return err
	}
	p, err := h.profile(ctx, string(last.Profile))
	if err != nil {
		return err
	}
	return a.showCapture(p, login.Result{
		Kind: hub.KindLogin, Generation: last.Generation, Files: last.Files, Subscription: last.Plan,
		LoginExpires: last.LoginExpires, Warnings: last.Warnings,
	})
}

// stateWords tells a state that is no end.
func stateWords(s api.SignIn) string {
	switch s.State {
	case api.SignInStarting:
		if s.Trouble != "" {
			return "the code was not taken: " + printable(s.Trouble, 300)
		}
		return "starting the claude CLI"
	case api.SignInLink:
		return "waiting for the code, until " + s.Expires.Local().Format("15:04")
	case api.SignInChecking:
		return "checking the code"
	case api.SignInCapturing:
		return "capturing the login"
	case api.SignInStopping:
		return "ending the claude CLI"
	}
	return ""
}

// showLink prints a link, on a terminal as one to click on and, where another
// device could open it, as a QR code.
func (a *app) showLink(w io.Writer, lead string, link api.OperatorLink) {
	fmt.Fprintf(w, "%s\n\n", lead)
	file, ok := w.(*os.File)
	if !ok || !isTerminalFile(file) {
		fmt.Fprintf(w, "%s\n\n", link.URL)
		return
	}
	fmt.Fprintf(w, "\x1b]8;;%s\x1b\\%s\x1b]8;;\x1b\\\n\n", link.URL, link.URL)
	columns, rows, err := term.GetSize(int(file.Fd()))
	drawn := login.QR(link.URL)
	line, _, _ := strings.Cut(drawn, "\n")
	if err == nil && !isOwnAddress(link.URL) && strings.Count(drawn, "\n") < rows && utf8.RuneCountInString(line) < columns {
		fmt.Fprintf(w, "Or scan it:\n\n%s\n", drawn)
	}
}

// isOwnAddress reports whether a link leads to whatever machine it's opened on.
func isOwnAddress(link string) bool {
	rest, _ := strings.CutPrefix(link, "http://")
	host, _, err := net.SplitHostPort(strings.SplitN(rest, "/", 2)[0])
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

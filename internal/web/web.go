// Package web is the operator's page: who is signed in, and sign-ins without a
// terminal. What it guarantees:
//
//  1. Without a session, nothing is answered but the health paths, the page's own
//     style, and the page that takes a one-time link; whatever else is asked for,
//     there or not, gets the same refusal. A link is good once, for ten minutes;
//     opening it takes a press of a button, so that a preview does not use it up.
//  2. Only this site can act: requests under a name that is not ours are refused
//     (DNS rebinding), requests from other origins as well (CSRF), the cookie is
//     HttpOnly and SameSite=Strict, no page runs a script that is not ours, and
//     none can be framed.
//  3. Of links and sessions only digests are kept, in memory. A pasted code goes to
//     the sign-in and nowhere else: no page, log or address holds it.
//  4. For a profile there is one sign-in at a time, whoever asks for it. It goes on
//     when the browser goes away, any operator can cancel it, and it ends with
//     the page.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// Hub is what the page stands in front of.
type Hub interface {
	// Profiles returns every profile with its health, for people.
	Profiles(ctx context.Context) ([]Profile, error)
	// SignIn carries out a sign-in with the owner at ui. It makes the profile if
	// there is none. When ctx ends before there is a login, the error is a
	// hub.ErrCancelled and nothing was kept.
	SignIn(ctx context.Context, req Request, ui UI) (Result, error)
}

// UI is the owner's side of a sign-in, as package login wants it.
type UI interface {
	ShowURL(url string)
	Code(ctx context.Context) (secret.Text, error)
	Trouble(message string)
	// Capturing says that the CLI has the login and that the hub takes it now.
	Capturing()
	// Note says something that the owner should know, such as where the CLI runs. A
	// later note replaces it.
	Note(text string)
}

// Request is one sign-in.
type Request struct {
	Profile hub.ProfileName
	In      string        // where the CLI runs; empty: the hub's choice
	Timeout time.Duration // zero: 10 minutes
}

// Result is what a sign-in has brought.
type Result struct {
	Plan         string
	LoginExpires time.Time // zero if not known
	Generation   hub.Generation
	Files        int
	Warnings     []string
}

// Profile is one line of the list of profiles.
type Profile struct {
	Name         hub.ProfileName
	Account      string     // an e-mail address where it is known
	Plan         string     // "" if not known
	Health       hub.Health // of the login
	Reason       string     // for a health that is not ok
	SignedIn     bool
	LoginExpires time.Time // zero if not known
	Spare        time.Time // when the spare ends; zero: there is none
	SpareInUse   bool
}

// Config is what a page needs.
type Config struct {
	Hub Hub // required
	// Listen is the address to listen on, host:port. Port 0 picks one. Required.
	Listen string
	// PublicURL is the page's address for browsers where a proxy stands in front.
	// Empty means http:// and the address that is listened on.
	PublicURL string
	// Insecure allows what is refused otherwise: to be reached from other machines
	// without TLS.
	Insecure bool
	// Ready says why the hub is not ready to work, if it is not. Nil means that it
	// is. What it says is not shown.
	Ready func(ctx context.Context) error
	// Timeout bounds a sign-in that names none. Zero means 10 minutes.
	Timeout time.Duration
	Now     func() time.Time // nil means time.Now
	Log     *slog.Logger     // nil discards
}

const (
	defaultTimeout = 10 * time.Minute
	maxTimeout     = time.Hour
)

// Page answers from [New] until [Page.Close].
type Page struct {
	cfg       Config
	exposure  exposure
	addr      string // that is listened on
	operators *operators
	readiness readiness
	desk      *desk
	http      *http.Server
	stopping  chan struct{} // closed when streams have to end
	stop      func()
	served    chan struct{} // closed when the accept loop has ended
	streams   chan struct{} // a place for each open stream
}

// New listens. What it can't listen on, it says.
func New(cfg Config) (*Page, error) { return open(cfg, requestTimeout) }

// requestTimeout is how long a request and its answer may take. A stream has a
// deadline for each event instead.
const requestTimeout = 30 * time.Second

func open(cfg Config, timeout time.Duration) (*Page, error) {
	p, err := newPage(cfg)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, hub.Hint(fmt.Errorf("listening for browsers: %w", err), "give `listen` another address in config.yaml, or off")
	}
	p.addr = listener.Addr().String()
	p.exposure.opened(listener.Addr())
	p.http = &http.Server{
		Handler:           p.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       timeout,
		WriteTimeout:      timeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelWarn),
	}
	go func() {
		defer close(p.served)
		if err := p.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			p.cfg.Log.Error("serving the page", "err", err)
		}
	}()
	return p, nil
}

// newPage is New without a listener.
func newPage(cfg Config) (*Page, error) {
	if cfg.Hub == nil {
		return nil, fmt.Errorf("%w: the page needs a hub", hub.ErrInvalid)
	}
	e, err := newExposure(cfg.Listen, cfg.PublicURL, cfg.Insecure)
	if err != nil {
		return nil, err
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
	p := &Page{
		cfg: cfg, exposure: e, operators: newOperators(cfg.Now), desk: newDesk(cfg.Hub, cfg.Now, cfg.Log),
		stopping: make(chan struct{}), served: make(chan struct{}), streams: make(chan struct{}, maxStreams),
	}
	p.stop = sync.OnceFunc(func() { close(p.stopping) })
	return p, nil
}

// closeGrace is how long requests may still take when the page is closed.
const closeGrace = 5 * time.Second

// Close cancels every sign-in, tells who looks on, and waits for the ends. It may
// be called twice. A nil Page, one that is off, has nothing to close.
func (p *Page) Close() error {
	if p == nil {
		return nil
	}
	p.desk.close()
	p.stop()
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	err := p.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = p.http.Close()
	}
	<-p.served
	return err
}

// URL is the page's address for browsers.
func (p *Page) URL() string { return p.exposure.link("") }

// Addr is the address that is listened on, host:port.
func (p *Page) Addr() string { return p.addr }

// Link makes a one-time link that leads to the profile's sign-in, or to the list
// of profiles if the name is empty.
func (p *Page) Link(profile hub.ProfileName) (api.OperatorLink, error) {
	next := "/"
	if profile != "" {
		next = "/signin/" + string(profile)
	}
	token, expires := p.operators.issue(next)
	return api.OperatorLink{URL: p.exposure.link("/operator/" + token), Expires: expires.UTC()}, nil
}

// SignIn starts a sign-in, or joins the one that is under way for the profile, and
// calls each with every state until it has ended. When ctx ends, a sign-in that
// this call has started is cancelled, and one that it has joined is left alone.
func (p *Page) SignIn(ctx context.Context, req api.SignInRequest, each func(api.SignIn)) error {
	id, started, err := p.start(ctx, Request{Profile: req.Profile, In: req.In, Timeout: req.Timeout})
	if err != nil {
		return err
	}
	step, done := 0, ctx.Done()
	for {
		state, changed := p.desk.state(req.Profile)
		if state.ID != id {
			return fmt.Errorf("%w: another sign-in has taken its place", hub.ErrConflict)
		}
		if state.Step > step {
			step = state.Step
			each(state)
		}
		if state.State.Ended() {
			return nil
		}
		select {
		case <-changed:
		case <-done:
			if !started {
				return context.Cause(ctx)
			}
			_ = p.desk.cancel(req.Profile, id) // it may have ended meanwhile, which the next round sees
			done = nil
		}
	}
}

func (p *Page) start(ctx context.Context, req Request) (id string, started bool, err error) {
	if req.Timeout == 0 {
		req.Timeout = p.cfg.Timeout
	}
	if req.Timeout < 0 || req.Timeout > maxTimeout {
		return "", false, fmt.Errorf("%w: a sign-in can't have %v", hub.ErrInvalid, req.Timeout)
	}
	if _, err := hub.ParseProfileName(string(req.Profile)); err != nil {
		return "", false, err
	}
	return p.desk.start(ctx, req)
}

// AwaitShown waits until somebody at a browser was shown how the profile's sign-in
// ended, if anybody is there, and as long as ctx lets it.
func (p *Page) AwaitShown(ctx context.Context, profile hub.ProfileName) {
	for p.operators.any() {
		seen, changed := p.desk.seen(profile)
		if seen {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

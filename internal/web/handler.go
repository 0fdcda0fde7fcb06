package web

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

//go:embed assets
var assets embed.FS

// maxBody bounds a form: the longest code, each byte of which may take three.
const maxBody = 16 << 10

const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// handler answers everything. The order is the security argument: health, then
// whether the name and the origin are ours, then who asks, then what for.
func (p *Page) handler() http.Handler {
	open := http.NewServeMux() // for everybody
	open.HandleFunc("GET /operator/{token}", p.invitation)
	open.HandleFunc("POST /operator/{token}", p.enter)
	open.HandleFunc("GET /assets/{file}", asset)
	open.HandleFunc("/", p.withSession(p.pages()))

	origins := http.NewCrossOriginProtection()
	origins.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.message(w, http.StatusForbidden, "Not from here", "Another site has sent this request. Nothing was done.")
	}))
	bounded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		open.ServeHTTP(w, r)
	})
	ours := p.exposure.onlyOwnNames(origins.Handler(bounded))

	all := http.NewServeMux()
	for _, path := range []string{"/healthz", "/health"} {
		all.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	}
	all.HandleFunc("GET /readyz", p.ready)
	all.Handle("/", ours)
	return p.withHeaders(all)
}

// pages are for operators only.
func (p *Page) pages() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.list)
	mux.HandleFunc("GET /signin", p.choose)
	mux.HandleFunc("GET /signin/{profile}", p.signIn)
	mux.HandleFunc("GET /signin/{profile}/events", p.events)
	mux.HandleFunc("POST /signin/{profile}/start", p.startSignIn)
	mux.HandleFunc("POST /signin/{profile}/code", p.takeCode)
	mux.HandleFunc("POST /signin/{profile}/cancel", p.cancelSignIn)
	mux.HandleFunc("POST /logout", p.logout)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		p.message(w, http.StatusNotFound, "Nothing here", "There is no such page.")
	})
	return mux
}

func (p *Page) withHeaders(next http.Handler) http.Handler {
	referrer := "no-referrer"
	if p.cfg.Insecure { // without TLS, browsers tell the origin of a form by this only
		referrer = "same-origin"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", referrer)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		if !p.cfg.Insecure { // browsers know it with TLS and on loopback only, and complain elsewhere
			h.Set("Cross-Origin-Opener-Policy", "same-origin")
		}
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

func (p *Page) ready(w http.ResponseWriter, r *http.Request) {
	if err := p.readiness.ask(r.Context(), p.cfg); err != nil {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "ok\n")
}

// readiness remembers an answer for a moment: anybody may ask, and to find it out
// costs something.
type readiness struct {
	mu    sync.Mutex // guards what follows, and lets one ask at a time
	asked time.Time
	err   error
}

func (d *readiness) ask(ctx context.Context, cfg Config) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cfg.Ready == nil || cfg.Now().Sub(d.asked) < time.Second {
		return d.err
	}
	// Not with the end of a caller who goes away: the answer is for others, too.
	d.err, d.asked = cfg.Ready(context.WithoutCancel(ctx)), cfg.Now()
	if d.err != nil {
		cfg.Log.Warn("not ready", "err", d.err)
	}
	return d.err
}

// asset serves the page's style, script and icon. They hold nothing.
func asset(w http.ResponseWriter, r *http.Request) {
	types := map[string]string{"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}
	name := r.PathValue("file")
	content, err := assets.ReadFile("assets/" + name)
	if err != nil || types[name] == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", types[name])
	w.Write(content) //nolint:errcheck // a client that is gone needs no style
}

type sessionKey struct{}

// cookieName keeps two hubs on one machine apart: cookies know no ports. With TLS,
// the prefix has the browser refuse a cookie that another host has planted.
func (p *Page) cookieName() string {
	if p.exposure.secure() {
		return "__Host-claude-hub"
	}
	return "claude-hub-" + p.exposure.public.Port()
}

func (p *Page) withSession(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var s *session
		c, err := r.Cookie(p.cookieName())
		if err == nil {
			s = p.operators.session(c.Value)
		}
		if s == nil {
			p.render(w, http.StatusUnauthorized, "stranger", nil)
			return
		}
		p.setCookie(w, c.Value, int(sessionIdle/time.Second)) // the browser's twelve hours begin anew, as ours
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), sessionKey{}, s)))
	}
}

// setCookie sets the one cookie that there is; the last call counts.
func (p *Page) setCookie(w http.ResponseWriter, value string, maxAge int) {
	w.Header().Del("Set-Cookie")
	http.SetCookie(w, &http.Cookie{
		Name: p.cookieName(), Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: p.exposure.secure(), SameSite: http.SameSiteStrictMode,
	})
}

// invitation shows the button that takes the link.
func (p *Page) invitation(w http.ResponseWriter, r *http.Request) {
	if p.admitted(w, r) {
		p.render(w, http.StatusOK, "invitation", nil)
	}
}

// enter takes the link and begins a session.
func (p *Page) enter(w http.ResponseWriter, r *http.Request) {
	if !p.admitted(w, r) {
		return
	}
	cookie, next, ok := p.operators.redeem(r.PathValue("token"))
	if !ok { // somebody was faster
		p.refuseLink(w)
		return
	}
	p.cfg.Log.Info("a browser was let in with an operator's link", "from", addressOf(r))
	p.setCookie(w, cookie, int(sessionIdle/time.Second))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// admitted reports whether the link would be taken, and answers if not.
func (p *Page) admitted(w http.ResponseWriter, r *http.Request) bool {
	from := addressOf(r)
	switch {
	case p.operators.admits(r.PathValue("token")): // first: nobody keeps the operator out by trying in vain
		return true
	case p.operators.slowed(from):
		w.Header().Set("Retry-After", strconv.Itoa(int(failureWindow/time.Second)))
		p.message(w, http.StatusTooManyRequests, "Too many wrong links", "Make another with claude-hub operator, on the machine of the hub.")
	default:
		p.operators.failed(from)
		p.cfg.Log.Warn("an operator's link was refused", "from", from)
		p.refuseLink(w)
	}
	return false
}

func (p *Page) refuseLink(w http.ResponseWriter) {
	p.message(w, http.StatusForbidden, "This link is no longer good", "A link works once, and for ten minutes. Make another with claude-hub operator, on the machine of the hub.")
}

func (p *Page) logout(w http.ResponseWriter, r *http.Request) {
	p.operators.end(r.Context().Value(sessionKey{}).(*session))
	p.setCookie(w, "", -1)
	p.message(w, http.StatusOK, "You are out", "This browser can no longer see or do anything here. A sign-in that is under way goes on.")
}

func (p *Page) list(w http.ResponseWriter, r *http.Request) { p.show(w, r, "", "") }

// choose leads from the form for a new profile to its page.
func (p *Page) choose(w http.ResponseWriter, r *http.Request) {
	name, err := hub.ParseProfileName(r.URL.Query().Get("profile"))
	if err != nil {
		p.refuse(w, err)
		return
	}
	http.Redirect(w, r, "/signin/"+string(name), http.StatusSeeOther)
}

func (p *Page) signIn(w http.ResponseWriter, r *http.Request) {
	if name, ok := p.named(w, r); ok {
		p.show(w, r, name, r.URL.Query().Get("late"))
	}
}

func (p *Page) startSignIn(w http.ResponseWriter, r *http.Request) {
	name, ok := p.named(w, r)
	if !ok {
		return
	}
	_, _, err := p.start(r.Context(), Request{Profile: name})
	p.back(w, r, name, err)
}

// takeCode hands over what was pasted, which is never written out again.
func (p *Page) takeCode(w http.ResponseWriter, r *http.Request) {
	if name, ok := p.named(w, r); ok && p.parsed(w, r) {
		p.back(w, r, name, p.desk.submit(name, r.PostForm.Get("id"), secret.New(r.PostForm.Get("code"))))
	}
}

func (p *Page) cancelSignIn(w http.ResponseWriter, r *http.Request) {
	if name, ok := p.named(w, r); ok && p.parsed(w, r) {
		p.back(w, r, name, p.desk.cancel(name, r.PostForm.Get("id")))
	}
}

// back leads to the page of the sign-in, whose state says all but what came too
// late.
func (p *Page) back(w http.ResponseWriter, r *http.Request, name hub.ProfileName, err error) {
	to := url.URL{Path: "/signin/" + string(name)}
	switch {
	case errors.Is(err, hub.ErrConflict):
		to.RawQuery = "late=1"
	case err != nil:
		p.refuse(w, err)
		return
	}
	http.Redirect(w, r, to.String(), http.StatusSeeOther)
}

func (p *Page) named(w http.ResponseWriter, r *http.Request) (hub.ProfileName, bool) {
	name, err := hub.ParseProfileName(r.PathValue("profile"))
	if err != nil {
		p.refuse(w, err)
	}
	return name, err == nil
}

func (p *Page) parsed(w http.ResponseWriter, r *http.Request) bool {
	if err := r.ParseForm(); err != nil { // not quoted: a code may be in it
		p.message(w, http.StatusBadRequest, "That was too much", "What the form has sent can't be read, or is far too long for a code.")
		return false
	}
	return true
}

func (p *Page) refuse(w http.ResponseWriter, err error) {
	wire, status := api.ErrorOf(err)
	p.message(w, status, "That does not work", sentence(wire.Message)+" "+sentence(wire.Hint))
}

func (p *Page) message(w http.ResponseWriter, status int, title, text string) {
	p.render(w, status, "message", map[string]string{"Title": title, "Text": text})
}

// render writes a page, whole or not at all.
func (p *Page) render(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		p.cfg.Log.Error("drawing the page", "page", name, "err", err)
		http.Error(w, "the page could not be drawn", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes()) //nolint:errcheck // a client that is gone needs no page
}

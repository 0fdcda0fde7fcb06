package web_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/web"
)

// Without a session, every path has the same answer, there or not.
func TestStrangersLearnNothing(t *testing.T) {
	s := newSite(t, nil)
	s.hub.profiles = []web.Profile{{Name: "canary", Account: "owner@example.com"}}
	b := newBrowser(s)
	refusal := b.get("/").body
	if strings.Contains(refusal, "canary") || strings.Contains(refusal, "example.com") {
		t.Errorf("the refusal tells: %s", refusal)
	}
	for _, path := range []string{"/", "/signin/default", "/signin/canary/events", "/signin", "/nowhere", "/api/v1/daemon", "/metrics"} {
		if a := b.get(path); a.status != http.StatusUnauthorized || a.body != refusal {
			t.Errorf("GET %s: %d", path, a.status)
		}
	}
	for _, path := range []string{"/signin/default/start", "/signin/default/code", "/signin/default/cancel", "/logout"} {
		if a := b.post(path, url.Values{"code": {"right#fake"}}); a.status != http.StatusUnauthorized {
			t.Errorf("POST %s: %d", path, a.status)
		}
	}
	wrong := func(r *http.Request) {
		r.Header.Set("Cookie", "claude-hub-"+r.URL.Port()+"=AAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	}
	if a := b.do(http.MethodGet, "/", nil, wrong); a.status != http.StatusUnauthorized {
		t.Errorf("a made-up cookie: %d", a.status)
	}
	if s.hub.starts() != 0 {
		t.Error("a stranger has started a sign-in")
	}
	for _, path := range []string{"/healthz", "/health", "/readyz"} {
		if a := b.get(path); a.status != http.StatusOK || a.body != "ok\n" {
			t.Errorf("GET %s: %d %q", path, a.status, a.body)
		}
	}
}

func TestReadiness(t *testing.T) {
	asked := 0
	s := newSite(t, func(c *web.Config) {
		c.Ready = func(context.Context) error {
			asked++
			return errors.New("the canary is not ready")
		}
		c.Now = func() time.Time { return time.Unix(1e9, 0) }
	})
	for range 10 {
		if a := newBrowser(s).get("/readyz"); a.status != http.StatusServiceUnavailable || strings.Contains(a.body, "canary") {
			t.Errorf("%d %q", a.status, a.body)
		}
	}
	if asked != 1 {
		t.Errorf("strangers had it found out %d times within a second", asked)
	}
}

func TestHeaders(t *testing.T) {
	s := newSite(t, nil)
	want := map[string]string{
		"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
			"form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
	}
	for _, b := range []*browser{newBrowser(s), s.operator()} {
		for _, path := range []string{"/", "/signin/default", "/assets/page.js", "/healthz", "/nowhere"} {
			a := b.get(path)
			for name, value := range want {
				if got := a.header.Get(name); got != value {
					t.Errorf("%s: %s is %q", path, name, got)
				}
			}
			if strings.Contains(a.body, "<script>") || strings.Contains(a.body, " style=") || strings.Contains(a.body, " onclick=") {
				t.Errorf("%s has something inline, which its own policy forbids", path)
			}
		}
	}
}

func TestCookie(t *testing.T) {
	for _, test := range []struct {
		public, name string
		secure       bool
	}{{"", "claude-hub-", false}, {"https://hub.example.com", "__Host-claude-hub", true}} {
		s := newSite(t, func(c *web.Config) { c.PublicURL = test.public })
		b := newBrowser(s)
		link, err := s.Link("default")
		if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(link.URL, s.URL())
		b.base = "http://" + s.Addr()
		a := b.post(path, nil)
		line := a.header.Get("Set-Cookie")
		if a.status != http.StatusSeeOther || a.header.Get("Location") != "/signin/default" {
			t.Errorf("the link leads to %d %q", a.status, a.header.Get("Location"))
		}
		for _, want := range []string{test.name, "; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=43200"} {
			if !strings.Contains(line, want) {
				t.Errorf("Set-Cookie: %s; want %s", line, want)
			}
		}
		if strings.Contains(line, "; Secure") != test.secure || strings.Contains(line, "Domain") {
			t.Errorf("Set-Cookie: %s", line)
		}
	}
}

// A link is good once; looking at it does not count.
func TestLinkIsGoodOnce(t *testing.T) {
	s := newSite(t, nil)
	link, err := s.Link("")
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimPrefix(link.URL, s.URL())
	if token := strings.TrimPrefix(path, "/operator/"); len(token) < 26 {
		t.Errorf("the link has %d characters of base32, which is less than 128 bits", len(token))
	}
	preview := newBrowser(s)
	for range 3 {
		if a := preview.get(path); a.status != http.StatusOK || !strings.Contains(a.body, `<form method="post">`) || a.header.Get("Set-Cookie") != "" {
			t.Fatalf("looking at the link: %d", a.status)
		}
	}
	first, second := newBrowser(s), newBrowser(s)
	if a := first.post(path, nil); a.status != http.StatusSeeOther {
		t.Fatalf("taking the link: %d", a.status)
	}
	for _, a := range []answer{second.post(path, nil), second.get(path)} {
		if a.status != http.StatusForbidden || a.header.Get("Set-Cookie") != "" {
			t.Errorf("taking it again: %d", a.status)
		}
	}
	if a := first.get("/"); a.status != http.StatusOK {
		t.Errorf("the first one: %d", a.status)
	}
	if strings.Contains(s.log.String(), strings.TrimPrefix(path, "/operator/")) {
		t.Error("the link is in the log")
	}
}

func TestLogoutEndsTheSession(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	stream, err := b.Get(s.URL() + "/signin/default/events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	cookie := b.Jar.Cookies(mustParse(s.URL()))
	if a := b.post("/logout", nil); a.status != http.StatusOK || !strings.Contains(a.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("%d %q", a.status, a.header.Get("Set-Cookie"))
	}
	if _, err := io.ReadAll(stream.Body); err != nil { // it ends
		t.Errorf("the open stream: %v", err)
	}
	b.Jar.SetCookies(mustParse(s.URL()), cookie)
	if a := b.get("/"); a.status != http.StatusUnauthorized {
		t.Errorf("the old cookie is answered with %d", a.status)
	}
	b.post("/signin/default/start", nil)
	if s.hub.starts() != 0 {
		t.Error("the old cookie has started a sign-in")
	}
}

func TestCrossOriginRequestsAreRefused(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	for name, change := range map[string]func(http.Header){
		"another site":                   func(h http.Header) { h.Set("Sec-Fetch-Site", "cross-site") },
		"another port":                   func(h http.Header) { h.Set("Sec-Fetch-Site", "same-site") },
		"another origin, an old browser": func(h http.Header) { h.Set("Origin", "https://evil.example") },
		"no origin, an old browser":      func(h http.Header) { h.Set("Origin", "null") },
	} {
		a := b.do(http.MethodPost, "/signin/default/start", nil, func(r *http.Request) { change(r.Header) })
		if a.status != http.StatusForbidden || s.hub.starts() != 0 {
			t.Errorf("%s: %d, %d sign-ins", name, a.status, s.hub.starts())
		}
	}
	if a := b.get("/signin/default/start"); a.status != http.StatusNotFound || s.hub.starts() != 0 {
		t.Errorf("by GET: %d", a.status)
	}
	if a := b.do(http.MethodPost, "/signin/default/start", nil, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") }); a.status != http.StatusSeeOther {
		t.Errorf("from our own page: %d", a.status)
	}
}

// A page of a foreign site, whose name was pointed at our address.
func TestForeignNamesAreRefused(t *testing.T) {
	s := newSite(t, func(c *web.Config) { c.PublicURL = "https://hub.example.com" })
	b := newBrowser(s)
	b.base = "http://" + s.Addr()
	link, err := s.Link("")
	if err != nil {
		t.Fatal(err)
	}
	cookie, _, _ := strings.Cut(b.post(strings.TrimPrefix(link.URL, s.URL()), nil).header.Get("Set-Cookie"), ";")
	_, port, _ := strings.Cut(s.Addr(), ":")
	for host, ok := range map[string]bool{
		"evil.example": false, "evil.example:" + port: false, "127.0.0.1.evil.example": false, "localhost.evil.example:" + port: false,
		"hub.example.com.evil.example": false, "xhub.example.com": false, "hub.example.com:8443": false, "192.168.0.1": false, "0.0.0.0:" + port: false, "127.0.0.1@evil.example": false,
		"hub.example.com": true, "HUB.example.com": true, "hub.example.com:443": true, "localhost": true, "127.0.0.1:" + port: true, "localhost:8080": true, "[::1]:" + port: true,
	} {
		a := b.do(http.MethodGet, "/", nil, func(r *http.Request) { r.Host = host; r.Header.Set("Cookie", cookie) })
		if ok != (a.status == http.StatusOK) || !ok && a.status != http.StatusMisdirectedRequest && a.status != http.StatusBadRequest {
			t.Errorf("Host: %s: %d", host, a.status)
		}
	}
}

// The browser drops a cookie by its own clock, which must begin anew with each use.
func TestUseKeepsTheCookie(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	if a := b.get("/"); a.status != http.StatusOK || !strings.Contains(a.header.Get("Set-Cookie"), "Max-Age=43200") {
		t.Errorf("%d, Set-Cookie: %q", a.status, a.header.Get("Set-Cookie"))
	}
}

func TestWrongLinksAreSlowedDown(t *testing.T) {
	s := newSite(t, nil)
	link, err := s.Link("")
	if err != nil {
		t.Fatal(err)
	}
	b := newBrowser(s)
	var last answer
	for i := range 11 {
		last = b.post(fmt.Sprintf("/operator/FAKE%d", i), nil)
	}
	if last.status != http.StatusTooManyRequests || last.header.Get("Retry-After") == "" {
		t.Errorf("the eleventh wrong link: %d", last.status)
	}
	path := strings.TrimPrefix(link.URL, s.URL())
	if a := b.post(path, nil); a.status != http.StatusSeeOther || a.header.Get("Set-Cookie") == "" {
		t.Errorf("a right one from the same address: %d; want it taken: a page in the operator's browser could try the wrong ones", a.status)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	b.post("/signin/default/start", nil)
	if a := b.post("/signin/default/code", url.Values{"code": {strings.Repeat("canary", web.MaxBody)}}); a.status != http.StatusBadRequest || strings.Contains(a.body, "canary") {
		t.Errorf("a body that is far too long: %d", a.status)
	}
}

func TestStreamsLinksAndSessionsAreBounded(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	for range web.MaxStreams {
		next, stop := b.follow("default")
		defer stop()
		next("none")
	}
	if a := b.get("/signin/default/events"); a.status != http.StatusServiceUnavailable {
		t.Errorf("one stream more: %d", a.status)
	}
	oldest, err := s.Link("")
	if err != nil {
		t.Fatal(err)
	}
	for range web.MaxLinks {
		if _, err := s.Link(""); err != nil {
			t.Fatal(err)
		}
	}
	if a := newBrowser(s).get(strings.TrimPrefix(oldest.URL, s.URL())); a.status != http.StatusForbidden {
		t.Errorf("the oldest of too many links: %d", a.status)
	}
	for range web.MaxSessions {
		s.operator()
	}
	if a := b.get("/"); a.status != http.StatusUnauthorized {
		t.Errorf("the session that was idle longest: %d", a.status)
	}
}

func TestNamesArePathsToNowhere(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	for _, name := range []string{"%2e%2e", "a%2fb", "A", "-rf", "%00", "x%0a", strings.Repeat("a", 300), "%3Cscript%3E"} {
		if a := b.post("/signin/"+name+"/start", nil); a.status == http.StatusSeeOther || strings.Contains(a.body, "<script>") {
			t.Errorf("%s: %d", name, a.status)
		}
	}
	if a := b.get("/signin?profile=staging"); a.header.Get("Location") != "/signin/staging" {
		t.Errorf("the form leads to %q", a.header.Get("Location"))
	}
	if a := b.get("/signin?profile=//evil.example"); a.status != http.StatusBadRequest {
		t.Errorf("the form with a site for a name: %d to %q", a.status, a.header.Get("Location"))
	}
	if s.hub.starts() != 0 {
		t.Error("a sign-in has started")
	}
}

func TestExposure(t *testing.T) {
	for _, test := range []struct {
		listen, public string
		insecure, ok   bool
	}{
		{"127.0.0.1:0", "", false, true},
		{"localhost:0", "", false, true},
		{"[::1]:0", "", false, true},
		{"127.0.0.1:0", "https://hub.example.com", false, true},
		{"127.0.0.1:0", "http://localhost:8080", false, true},
		{"0.0.0.0:0", "https://hub.example.com", false, true},
		{":0", "", true, true},
		{"127.0.0.1:0", "http://hub.example.com", true, true},
		{"0.0.0.0:0", "", false, false},
		{":0", "", false, false},
		{"[::]:0", "", false, false},
		{"0.0.0.0:0", "http://localhost:8080", false, false},
		{"hub.example.com:0", "", false, false},
		{"127.0.0.1:0", "http://hub.example.com", false, false},
		{"127.0.0.1", "", false, false},
		{"127.0.0.1:0", "https://owner:fake@hub.example.com", false, false},
		{"127.0.0.1:0", "https://hub.example.com/path", false, false},
		{"127.0.0.1:0", "ftp://hub.example.com", true, false},
		{"127.0.0.1:0", "hub.example.com", true, false},
	} {
		p, err := web.New(web.Config{Hub: &fakeHub{}, Listen: test.listen, PublicURL: test.public, Insecure: test.insecure})
		if err == nil {
			p.Close()
		}
		switch {
		case test.ok != (err == nil):
			t.Errorf("%+v: %v", test, err)
		case err != nil && (!errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" || strings.Contains(err.Error()+hub.HintOf(err), "fake")):
			t.Errorf("%+v: %v (%s)", test, err, hub.HintOf(err))
		}
	}
}

func TestTakenAddressIsAnError(t *testing.T) {
	s := newSite(t, nil)
	if _, err := web.New(web.Config{Hub: s.hub, Listen: s.Addr()}); err == nil || hub.HintOf(err) == "" {
		t.Errorf("error %v", err)
	}
}

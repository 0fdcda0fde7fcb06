package web_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patienceInTests = time.Minute // a bound for what hangs; nothing is measured against it

// fakeHub signs in whoever pastes "right#fake".
type fakeHub struct {
	mu       sync.Mutex // guards what follows
	started  int
	profiles []web.Profile
	judge    chan struct{} // if set, a code waits for it
	linger   chan struct{} // if set, the end of a cancelled sign-in waits for it
	hold     chan struct{} // if set, a capture waits for it
}

func (h *fakeHub) Profiles(context.Context) ([]web.Profile, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.profiles, nil
}

func (h *fakeHub) SignIn(ctx context.Context, req web.Request, ui web.UI) (web.Result, error) {
	h.mu.Lock()
	h.started++
	judge, hold, linger := h.judge, h.hold, h.linger
	h.mu.Unlock()
	for try := range 3 {
		ui.ShowURL(fmt.Sprintf("https://claude.example/authorize?state=fake&try=%d", try))
		code, err := ui.Code(ctx)
		if err == nil && judge != nil {
			<-judge
		}
		switch {
		case ctx.Err() != nil && linger != nil:
			<-linger
			fallthrough
		case ctx.Err() != nil: // not a hub.ErrCancelled: not all that a sign-in starts knows these
			return web.Result{}, fmt.Errorf("interrupted: %w", ctx.Err())
		case err != nil:
			return web.Result{}, err
		case code.Equal(secret.New("broken")):
			return web.Result{}, hub.Hint(errors.New("the disk <b>is</b> full"), "make room")
		case code.Equal(secret.New("right#fake")):
			ui.Capturing()
			ui.Note("in a <fake> place")
			if hold != nil {
				<-hold
			}
			return web.Result{Plan: "max", LoginExpires: time.Now().Add(30 * 24 * time.Hour), Generation: 7, Warnings: []string{"A fake warning."}}, nil
		}
		ui.Trouble("invalid input: that code was not accepted")
	}
	return web.Result{}, fmt.Errorf("%w: after 3 codes", hub.ErrRefused)
}

func (h *fakeHub) starts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.started
}

// site is a page that is served, and its hub.
type site struct {
	*web.Page
	t   *testing.T
	hub *fakeHub
	log *logged
}

// logged collects what the page logs.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newSite(t *testing.T, change func(*web.Config)) *site { return newSiteBy(t, web.New, change) }

func newSiteBy(t *testing.T, open func(web.Config) (*web.Page, error), change func(*web.Config)) *site {
	t.Helper()
	s := &site{t: t, hub: &fakeHub{}, log: &logged{}}
	cfg := web.Config{Hub: s.hub, Listen: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(s.log, nil))}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.Page, err = open(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// browser is a client with cookies that follows no redirects.
type browser struct {
	*http.Client
	t    *testing.T
	base string
}

func newBrowser(s *site) *browser {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	b := &browser{t: s.t, base: s.URL(), Client: &http.Client{
		Jar: jar, Timeout: patienceInTests, Transport: &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	s.t.Cleanup(b.CloseIdleConnections)
	return b
}

// operator is a browser that has opened a link.
func (s *site) operator() *browser {
	s.t.Helper()
	b := newBrowser(s)
	link, err := s.Link("")
	if err != nil {
		s.t.Fatal(err)
	}
	if r := b.post(strings.TrimPrefix(link.URL, s.URL()), nil); r.status != http.StatusSeeOther {
		s.t.Fatalf("the link was answered with %d", r.status)
	}
	return b
}

func mustParse(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (b *browser) get(path string) answer                { return b.do(http.MethodGet, path, nil, nil) }
func (b *browser) post(path string, f url.Values) answer { return b.do(http.MethodPost, path, f, nil) }

func (b *browser) do(method, path string, form url.Values, change func(*http.Request)) answer {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if change != nil {
		change(req)
	}
	resp, err := b.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

var idPattern = regexp.MustCompile(`name="id" value="([A-Z0-9]+)"`)

// idOn returns the sign-in's ID on a page.
func (b *browser) idOn(path string) string {
	b.t.Helper()
	m := idPattern.FindStringSubmatch(b.get(path).body)
	if m == nil {
		b.t.Fatalf("there is no sign-in on %s", path)
	}
	return m[1]
}

type event struct{ Mark, State, Headline, Panel, Profiles string }

// follow reads the stream of a profile's sign-in.
func (b *browser) follow(profile string) (next func(state api.SignInState) event, stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patienceInTests)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+"/signin/"+profile+"/events", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := b.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		b.t.Fatalf("the stream was answered with %s, %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	next = func(state api.SignInState) event {
		b.t.Helper()
		var last event
		for lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			if !ok {
				continue
			}
			if err := json.Unmarshal([]byte(data), &last); err != nil {
				b.t.Fatal(err)
			}
			if last.State == string(state) {
				return last
			}
		}
		b.t.Fatalf("the stream ended (%v) at %q before %q", lines.Err(), last.State, state)
		return last
	}
	return next, func() { cancel(); resp.Body.Close() }
}

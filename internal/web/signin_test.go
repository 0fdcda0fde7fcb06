package web_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/web"
)

func TestSignInOnThePage(t *testing.T) {
	s := newSite(t, nil)
	s.hub.judge, s.hub.hold = make(chan struct{}), make(chan struct{})
	b := s.operator()
	if a := b.get("/signin/default"); a.status != http.StatusOK || !strings.Contains(a.body, "There is no profile of this name yet") {
		t.Fatalf("%d %s", a.status, a.body)
	}
	next, stop := b.follow("default")
	defer stop()
	next(api.SignInNone)
	if a := b.post("/signin/default/start", nil); a.status != http.StatusSeeOther || a.header.Get("Location") != "/signin/default" {
		t.Fatalf("start: %d to %q", a.status, a.header.Get("Location"))
	}
	first := next(api.SignInLink)
	if !strings.Contains(first.Panel, `href="https://claude.example/authorize?state=fake&amp;try=0"`) || !strings.Contains(first.Panel, "<svg") {
		t.Errorf("the panel has neither link nor QR code: %s", first.Panel)
	}
	id := b.idOn("/signin/default")
	b.post("/signin/default/code", url.Values{"id": {id}, "code": {"wrong-fake-code#fake"}})
	next(api.SignInChecking)
	s.hub.judge <- struct{}{}
	again := next(api.SignInLink)
	if !strings.Contains(again.Panel, "That code was not accepted.") || !strings.Contains(again.Panel, "try=1") || again.Mark == first.Mark {
		t.Errorf("after a wrong code: %s", again.Panel)
	}
	b.post("/signin/default/code", url.Values{"id": {id}, "code": {"right#fake"}})
	next(api.SignInChecking)
	s.hub.judge <- struct{}{}
	for !strings.Contains(next(api.SignInCapturing).Panel, "In a &lt;fake&gt; place.") {
	}
	close(s.hub.hold)
	if done := next(api.SignInDone); !strings.Contains(done.Panel, "max") || !strings.Contains(done.Panel, "(in 29 days)") || !strings.Contains(done.Panel, "A fake warning.") {
		t.Errorf("at the end: %s", done.Panel)
	}
	everything := b.get("/signin/default").body + s.log.String()
	for _, canary := range []string{"wrong-fake-code", "right#fake"} {
		if strings.Contains(everything, canary) {
			t.Errorf("%q was written out", canary)
		}
	}
}

// A second operator sees the first one's sign-in, and may cancel it.
func TestOneSignInAtATime(t *testing.T) {
	s := newSite(t, nil)
	first, second := s.operator(), s.operator()
	next, stop := second.follow("default")
	defer stop()
	first.post("/signin/default/start", nil)
	next(api.SignInLink)
	second.post("/signin/default/start", nil)
	id := first.idOn("/signin/default")
	if other := second.idOn("/signin/default"); other != id || s.hub.starts() != 1 {
		t.Errorf("sign-ins %s and %s, %d of them", id, other, s.hub.starts())
	}
	second.post("/signin/default/cancel", url.Values{"id": {id}})
	next(api.SignInCancelled)
	if a := first.post("/signin/default/code", url.Values{"id": {id}, "code": {"right#fake"}}); a.header.Get("Location") != "/signin/default?late=1" {
		t.Errorf("a code for a cancelled sign-in leads to %q", a.header.Get("Location"))
	}
	if page := first.get("/signin/default?late=1").body; !strings.Contains(page, "too late") || !strings.Contains(page, "Cancelled") {
		t.Errorf("it does not say so: %s", page)
	}
	// The ID of the old one does nothing to a new one.
	second.post("/signin/default/start", nil)
	next(api.SignInLink)
	for _, what := range []string{"cancel", "code"} {
		if a := first.post("/signin/default/"+what, url.Values{"id": {id}, "code": {"right#fake"}}); a.header.Get("Location") != "/signin/default?late=1" {
			t.Errorf("a %s for the old one leads to %q", what, a.header.Get("Location"))
		}
	}
	if first.idOn("/signin/default") == id {
		t.Error("the new sign-in has the old one's ID")
	}
}

// Who starts while an earlier sign-in is being cancelled gets one of their own.
func TestStartWaitsForTheEndOfACancelledOne(t *testing.T) {
	s := newSite(t, nil)
	s.hub.linger = make(chan struct{})
	b := s.operator()
	next, stop := b.follow("default")
	defer stop()
	b.post("/signin/default/start", nil)
	next(api.SignInLink)
	id := b.idOn("/signin/default")
	b.post("/signin/default/cancel", url.Values{"id": {id}})
	next(api.SignInStopping)
	if a := b.post("/signin/default/code", url.Values{"id": {id}, "code": {"right#fake"}}); !strings.HasSuffix(a.header.Get("Location"), "late=1") {
		t.Errorf("a code while it is being cancelled leads to %q", a.header.Get("Location"))
	}
	started := make(chan struct{})
	go func() {
		defer close(started)
		b.post("/signin/default/start", nil)
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.SignIn(ctx, api.SignInRequest{Profile: "default"}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not want to wait gets %v", err)
	}
	close(s.hub.linger)
	<-started
	next(api.SignInLink)
	if s.hub.starts() != 2 || b.idOn("/signin/default") == id {
		t.Errorf("%d sign-ins", s.hub.starts())
	}
}

func TestSignInsOfTwoProfilesAreApart(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	for _, name := range []string{"one", "two"} {
		next, stop := b.follow(name)
		b.post("/signin/"+name+"/start", nil)
		next(api.SignInLink)
		stop()
	}
	if s.hub.starts() != 2 {
		t.Errorf("%d sign-ins, want 2", s.hub.starts())
	}
}

// The browser goes away; the sign-in does not.
func TestSignInOutlivesItsBrowser(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	next, stop := b.follow("default")
	b.post("/signin/default/start", nil)
	next(api.SignInLink)
	stop()
	b.post("/logout", nil)
	later := s.operator()
	next, stop = later.follow("default")
	defer stop()
	later.post("/signin/default/code", url.Values{"id": {later.idOn("/signin/default")}, "code": {"right#fake"}})
	next(api.SignInDone)
}

func TestFailureIsToldWithItsHint(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	next, stop := b.follow("default")
	defer stop()
	b.post("/signin/default/start", nil)
	next(api.SignInLink)
	b.post("/signin/default/code", url.Values{"id": {b.idOn("/signin/default")}, "code": {"broken"}})
	if end := next(api.SignInFailed); !strings.Contains(end.Panel, "The disk &lt;b&gt;is&lt;/b&gt; full. ") || !strings.Contains(end.Panel, "Make room.") {
		t.Errorf("the panel says %s", end.Panel)
	}
}

func TestSignInExpires(t *testing.T) {
	s := newSite(t, func(c *web.Config) { c.Timeout = 50 * time.Millisecond })
	b := s.operator()
	next, stop := b.follow("default")
	defer stop()
	b.post("/signin/default/start", nil)
	if end := next(api.SignInExpired); !strings.Contains(end.Panel, "No code came in time, within 50ms.") {
		t.Errorf("the panel says %s", end.Panel)
	}
}

// A stream outlives what a request may take.
func TestStreamsAreNotCutByTheServersDeadlines(t *testing.T) {
	hasty := func(c web.Config) (*web.Page, error) { return web.NewHasty(c, 200*time.Millisecond) }
	s := newSiteBy(t, hasty, func(c *web.Config) { c.Timeout = 600 * time.Millisecond })
	b := s.operator()
	next, stop := b.follow("default")
	defer stop()
	b.post("/signin/default/start", nil)
	next(api.SignInLink)
	next(api.SignInExpired)
}

// What the socket's callers get is the same sign-in.
func TestSignInForACommand(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	var last api.SignIn
	code := "wrong"
	err := s.SignIn(t.Context(), api.SignInRequest{Profile: "default"}, func(v api.SignIn) {
		last = v
		if v.State == api.SignInLink {
			if (code == "wrong") != (v.Trouble == "") || v.Trouble != "" && v.Trouble != "that code was not accepted" {
				t.Errorf("trouble %q", v.Trouble)
			}
			b.post("/signin/default/code", url.Values{"id": {v.ID}, "code": {code}})
			code = "right#fake"
		}
	})
	if err != nil || last.State != api.SignInDone || last.Generation != 7 || last.Err() != nil || last.Link != "" {
		t.Errorf("%v, last %+v", err, last)
	}
	if err := s.SignIn(t.Context(), api.SignInRequest{Profile: "../x"}, nil); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("a bad name: %v", err)
	}
	if err := s.SignIn(t.Context(), api.SignInRequest{Profile: "x", Timeout: 24 * time.Hour}, nil); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("a day: %v", err)
	}
}

// A command that goes away takes the sign-in that it has started with it, and no
// other.
func TestCommandCancelsItsOwnSignInOnly(t *testing.T) {
	s := newSite(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last api.SignIn
	err := s.SignIn(ctx, api.SignInRequest{Profile: "mine"}, func(v api.SignIn) {
		if last = v; v.State == api.SignInLink {
			cancel()
		}
	})
	if err != nil || last.State != api.SignInCancelled || !errors.Is(last.Err(), hub.ErrCancelled) {
		t.Errorf("%v, %+v", err, last)
	}
	b := s.operator()
	next, stop := b.follow("theirs")
	defer stop()
	b.post("/signin/theirs/start", nil)
	next(api.SignInLink)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	if err := s.SignIn(ctx, api.SignInRequest{Profile: "theirs"}, func(api.SignIn) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("joined: %v", err)
	}
	b.post("/signin/theirs/code", url.Values{"id": {b.idOn("/signin/theirs")}, "code": {"right#fake"}})
	next(api.SignInDone)
}

// Closing the page cancels what is under way, and says so to who looks on.
func TestCloseCancels(t *testing.T) {
	s := newSite(t, nil)
	b := s.operator()
	next, stop := b.follow("default")
	defer stop()
	b.post("/signin/default/start", nil)
	next(api.SignInLink)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if end := next(api.SignInCancelled); !strings.Contains(end.Panel, "The hub was stopped") {
		t.Errorf("the panel says %s", end.Panel)
	}
	if err := s.SignIn(t.Context(), api.SignInRequest{Profile: "default"}, nil); !errors.Is(err, hub.ErrCancelled) {
		t.Errorf("a sign-in after the close: %v", err)
	}
}

// Pressing cancel while the login is being taken comes too late.
func TestCancelAfterTheLoginIsTooLate(t *testing.T) {
	s := newSite(t, nil)
	s.hub.hold = make(chan struct{})
	b := s.operator()
	next, stop := b.follow("default")
	defer stop()
	b.post("/signin/default/start", nil)
	next(api.SignInLink)
	id := b.idOn("/signin/default")
	b.post("/signin/default/code", url.Values{"id": {id}, "code": {"right#fake"}})
	if v := next(api.SignInCapturing); strings.Contains(v.Panel, "/cancel") {
		t.Error("there is a button to cancel")
	}
	b.post("/signin/default/cancel", url.Values{"id": {id}})
	if page := b.get("/signin/default").body; !strings.Contains(page, "Taking the login") {
		t.Errorf("it says that it is being cancelled: %s", page)
	}
	close(s.hub.hold)
	next(api.SignInDone)
}

func TestAwaitShown(t *testing.T) {
	s := newSite(t, nil)
	s.AwaitShown(t.Context(), "default") // nobody is there
	b := s.operator()
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		s.AwaitShown(t.Context(), "default")
	}()
	err := s.SignIn(t.Context(), api.SignInRequest{Profile: "default"}, func(v api.SignIn) {
		if v.State == api.SignInLink {
			b.post("/signin/default/code", url.Values{"id": {v.ID}, "code": {"right#fake"}})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-shown:
		t.Error("it was shown to nobody")
	default:
	}
	b.get("/signin/default")
	<-shown
}

func TestSessionsAndLinksRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := web.NewOperators(time.Now)
		token, _ := o.Issue("/")
		time.Sleep(10*time.Minute - time.Second)
		if !o.Admits(token) {
			t.Error("a link is gone before its ten minutes")
		}
		time.Sleep(time.Second)
		if o.Admits(token) {
			t.Error("a link is good after its ten minutes")
		}
		token, _ = o.Issue("/")
		cookie, _, _ := o.Redeem(token)
		for range 3 {
			time.Sleep(12*time.Hour - time.Second)
			if !o.Session(cookie) {
				t.Fatal("a session is gone although it was used")
			}
		}
		time.Sleep(12 * time.Hour)
		if o.Session(cookie) {
			t.Error("a session is there after twelve hours without use")
		}
	})
}

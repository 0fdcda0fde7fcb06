package gateway_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/lease"
	"github.com/claude-hub/claude-hub/internal/secret"
)

func TestLimitsAreAnsweredSoThatTheCLIStops(t *testing.T) {
	for name, c := range map[string]struct {
		limits hub.Limits
		good   int
		words  string
	}{
		"requests": {hub.Limits{Requests: 2}, 2, "2 requests"},
		"tokens":   {hub.Limits{Tokens: 20}, 2, "tokens"},   // 12 a request
		"cost":     {hub.Limits{Cost: 96}, 1, "list price"}, // 7*3 + 5*15
		"models":   {hub.Limits{Models: []string{"claude-haiku-*", "claude-opus-4-1"}}, 0, `"claude-sonnet-4-5"`},
	} {
		u := startUpstream(t, nil)
		b := start(t, u, func(_ *gateway.Config, r *gateway.Request) {
			c.limits.Lifetime = time.Minute
			r.Limits = c.limits
		})
		for i := range c.good + 2 {
			res, text := b.post(t, smallBody)
			if i < c.good {
				if res.StatusCode != 200 || b.Refusal() != nil {
					t.Errorf("%s: request %d: %d %s, refusal %+v", name, i, res.StatusCode, text, b.Refusal())
				}
				continue
			}
			kind, message := errorOf(t, res, text)
			if res.StatusCode != 402 || kind != "billing_error" || !strings.Contains(message, c.words) || res.Header.Get("X-Should-Retry") != "false" {
				t.Errorf("%s: request %d: %d %s %q %v", name, i, res.StatusCode, kind, message, res.Header)
			}
			if r := b.Refusal(); r == nil || r.Kind != gateway.RefusedLimit || !strings.Contains(r.Reason, c.words) {
				t.Errorf("%s: refusal %+v", name, r)
			}
			if res, _ := b.do(t, b.request(t, "POST", "/v1/messages/count_tokens", smallBody)); res.StatusCode != 402 {
				t.Errorf("%s: counting tokens: %d", name, res.StatusCode)
			}
		}
		if u.count() != c.good || b.Usage().Requests != c.good {
			t.Errorf("%s: %d upstream requests, usage %+v; want %d", name, u.count(), b.Usage(), c.good)
		}
	}
}

func TestCountingTokensIsFree(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u, func(_ *gateway.Config, r *gateway.Request) { r.Limits.Requests = 1 })
	for range 3 {
		if res, _ := b.do(t, b.request(t, "POST", "/v1/messages/count_tokens?beta=true", smallBody)); res.StatusCode != 200 {
			t.Errorf("%d", res.StatusCode)
		}
	}
	if got := b.Usage(); got.Requests != 0 || got.Tokens() != 0 || u.count() != 3 {
		t.Errorf("usage %+v after %d requests", got, u.count())
	}
}

func TestRequestsOverTheParallelLimitWait(t *testing.T) {
	var now atomic.Int32
	arrived, release := make(chan int32, 12), make(chan struct{})
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		arrived <- now.Add(1)
		<-release // so that all that are let through meet
		now.Add(-1)
		io.WriteString(w, "{}")
	})
	b := start(t, u, func(_ *gateway.Config, r *gateway.Request) { r.Limits.Parallel = 2 })
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			res, err := b.client.Do(b.request(t, "POST", "/v1/messages", smallBody))
			if err != nil || res.StatusCode != 200 {
				t.Errorf("%v, %v", res, err)
				return
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		})
	}
	<-arrived
	<-arrived
	select { // nothing says that the others wait; without the limit they would be here in a moment
	case <-arrived:
		t.Error("a third request while two are under way")
	case <-time.After(300 * time.Millisecond):
	}
	close(release)
	all.Wait()
	close(arrived)
	for n := range arrived {
		if n > 2 {
			t.Errorf("%d at once", n)
		}
	}
	if u.count() != 12 {
		t.Errorf("%d in all", u.count())
	}
}

func TestLeaseThatRunsOutTakesItsStreamsAlong(t *testing.T) {
	left := make(chan struct{})
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, startEvent)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(left)
	})
	b := start(t, u, func(_ *gateway.Config, r *gateway.Request) { r.Limits.Lifetime = 300 * time.Millisecond })
	res, err := b.client.Do(b.request(t, "POST", "/v1/messages", smallBody))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("the stream came to a regular end")
	}
	res.Body.Close()
	<-left
	res, text := b.post(t, smallBody)
	if _, message := errorOf(t, res, text); res.StatusCode != 402 || !strings.Contains(message, "expired") {
		t.Errorf("after its end: %d %s", res.StatusCode, text)
	}
	if r := b.Refusal(); r == nil || r.Kind != gateway.RefusedLimit {
		t.Errorf("refusal %+v", r)
	}
}

func TestNothingIsAcceptedOnceCloseHasBegun(t *testing.T) {
	left := make(chan struct{})
	begun := make(chan struct{})
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(left)
	})
	book := lease.NewBook(nil)
	b := start(t, u, func(c *gateway.Config, _ *gateway.Request) { c.Book = book })
	failed := make(chan error, 1)
	go func() {
		res, err := b.client.Do(b.request(t, "POST", "/v1/messages", smallBody))
		if err == nil {
			if _, err = io.ReadAll(res.Body); err == nil && res.StatusCode == 402 {
				err = lease.ErrRevoked // the answer went out before the cut
			}
			res.Body.Close()
		}
		failed <- err
	}()
	<-begun
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("the open request came to a regular end")
	}
	<-left
	if _, err := book.Check(b.Token().Reveal()); !errors.Is(err, lease.ErrRevoked) {
		t.Errorf("the lease: %v; want it revoked", err)
	}
	if _, err := b.client.Do(b.request(t, "POST", "/v1/messages", smallBody)); err == nil {
		t.Error("a request was answered after Close")
	}
	if err := b.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func TestCloseOfTheGatewayClosesItsEndpoints(t *testing.T) {
	b := start(t, startUpstream(t, nil))
	if err := b.gateway.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := b.client.Do(b.request(t, "POST", "/v1/messages", smallBody)); err == nil {
		t.Error("a request was answered after Close")
	}
	if _, err := b.gateway.Open(t.Context(), gateway.Request{Run: "r", Profile: "p", Limits: hub.Limits{Lifetime: time.Minute}}); err == nil {
		t.Error("an endpoint was opened after Close")
	}
}

func TestOpenNeedsALifetime(t *testing.T) {
	b := start(t, startUpstream(t, nil))
	if _, err := b.gateway.Open(t.Context(), gateway.Request{Run: "r", Profile: "p"}); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("%v; want ErrInvalid", err)
	}
}

func planLimit(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Anthropic-Ratelimit-Unified-Status", "rejected")
	h.Set("Anthropic-Ratelimit-Unified-Representative-Claim", "five_hour")
	h.Set("Anthropic-Ratelimit-Unified-5h-Status", "rejected")
	h.Set("Anthropic-Ratelimit-Unified-5h-Reset", "4000000000")
	h.Set("Retry-After", "60")
	w.WriteHeader(429)
	io.WriteString(w, `{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your account's rate limit."}}`)
}

func TestPlanLimitPassesAsItIsAndSaysUntilWhen(t *testing.T) {
	var full atomic.Bool
	full.Store(true)
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if full.Load() {
			planLimit(w, r)
		} else {
			io.WriteString(w, "{}")
		}
	})
	b := start(t, u)
	res, text := b.post(t, smallBody)
	if res.StatusCode != 429 || !strings.Contains(text, "your account's rate limit") || res.Header.Get("Anthropic-Ratelimit-Unified-5h-Reset") != "4000000000" || res.Header.Get("Retry-After") != "60" {
		t.Errorf("%d %s %v", res.StatusCode, text, res.Header)
	}
	if r := b.Refusal(); r == nil || r.Kind != gateway.RefusedParked || r.Until.Unix() != 4000000000 || r.Reason == "" {
		t.Errorf("refusal %+v", r)
	}
	if got := b.Usage().Tokens(); got != 0 {
		t.Errorf("%d tokens charged for a refused request", got)
	}
	full.Store(false)
	b.post(t, smallBody)
	if r := b.Refusal(); r != nil {
		t.Errorf("refusal after a good request: %+v", r)
	}
}

func TestRateLimitThatIsNotThePlansIsNoReasonToPark(t *testing.T) {
	b := start(t, startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(429)
	}))
	if res, _ := b.post(t, smallBody); res.StatusCode != 429 || b.Refusal() != nil {
		t.Errorf("%d, refusal %+v", res.StatusCode, b.Refusal())
	}
}

// source is a source of tokens whose generations tests control.
type source struct {
	mu        sync.Mutex
	current   hub.Generation
	refreshes int // calls that named the current generation as stale
	err       error
	calls     int
}

func (s *source) AccessToken(_ context.Context, _ hub.ProfileID, stale hub.Generation) (secret.Text, hub.Generation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.err != nil {
		return secret.Text{}, 0, s.err
	}
	if stale >= s.current {
		s.refreshes++
		s.current++
	}
	return secret.New(accessToken[:len(accessToken)-1] + string('0'+rune(s.current))), s.current, nil
}

// dead answers 401 to all access tokens but that of one generation.
func dead(good byte, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a[len(a)-1] == good {
			answer(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(401)
		io.WriteString(w, `{"type":"error","error":{"type":"authentication_error","message":"OAuth token has expired."}}`)
	}
}

func TestRevokedTokenUnder200RequestsIsRefreshedOnceAndNoClientSeesIt(t *testing.T) {
	events := startEvent + textEvent + endEvents
	u := startUpstream(t, dead('2', func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, events)
	}))
	s := &source{current: 1}
	b := start(t, u, func(c *gateway.Config, _ *gateway.Request) { c.Tokens = s })
	body := `{"model":"claude-sonnet-4-5","x":"` + strings.Repeat("y", 50<<10) + `"}`
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			res, err := b.client.Do(b.request(t, "POST", "/v1/messages", body))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if text, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(text) != events || err != nil {
				t.Errorf("%d %q, %v", res.StatusCode, text, err)
			}
		})
	}
	all.Wait()
	if s.refreshes != 1 {
		t.Errorf("%d refreshes; want 1", s.refreshes)
	}
	if got := finalUsage(t, b.Endpoint); got.Requests != 200 || got.InputTokens != 200_000 {
		t.Errorf("usage %+v; want each request once", got)
	}
	for _, got := range u.bodies {
		if got != body {
			t.Fatal("a body arrived changed")
		}
	}
}

func TestRevokedInTheWordsOf403IsTriedAgainToo(t *testing.T) {
	const words = `{"type":"error","error":{"type":"permission_error","message":"OAuth token has been revoked. Please obtain a new token."}}`
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.Header.Get("Authorization"), "2") {
			w.WriteHeader(403)
			io.WriteString(w, words)
			return
		}
		io.WriteString(w, "{}")
	})
	b := start(t, u, func(c *gateway.Config, _ *gateway.Request) { c.Tokens = &source{current: 1} })
	if res, text := b.post(t, smallBody); res.StatusCode != 200 || u.count() != 2 {
		t.Errorf("%d %s after %d requests", res.StatusCode, text, u.count())
	}
}

func TestOther403sPassAsTheyAre(t *testing.T) {
	const words = `{"type":"error","error":{"type":"permission_error","message":"no"}}`
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Reason", "because")
		w.WriteHeader(403)
		io.WriteString(w, words)
	})
	b := start(t, u)
	if res, text := b.post(t, smallBody); res.StatusCode != 403 || text != words || u.count() != 1 || res.Header.Get("X-Reason") != "because" {
		t.Errorf("%d %q after %d requests", res.StatusCode, text, u.count())
	}
}

func TestLoginThatIsOverIsSaidSoThatTheCLIStops(t *testing.T) {
	for name, c := range map[string]struct {
		tokens gateway.TokenSource
		good   byte
		asked  int
	}{
		"the source says so":              {&source{err: hub.ErrLoginRequired}, '1', 0},
		"no newer token":                  {tokens{}, 'x', 1},
		"the newer one is refused too":    {&source{current: 1}, '9', 2},
		"the source gives the same again": {stuck{}, 'x', 1},
	} {
		u := startUpstream(t, dead(c.good, func(http.ResponseWriter, *http.Request) {}))
		b := start(t, u, func(cfg *gateway.Config, _ *gateway.Request) { cfg.Tokens = c.tokens })
		res, text := b.post(t, smallBody)
		kind, message := errorOf(t, res, text)
		if res.StatusCode != 403 || kind != "permission_error" || !strings.Contains(message, "claude-hub login") || res.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s: %d %s %q", name, res.StatusCode, kind, message)
		}
		if r := b.Refusal(); r == nil || r.Kind != gateway.RefusedLoginRequired {
			t.Errorf("%s: refusal %+v", name, r)
		}
		if u.count() != c.asked {
			t.Errorf("%s: the upstream was asked %d times; want %d", name, u.count(), c.asked)
		}
	}
}

// hasty has a newer generation whenever it is asked.
type hasty struct{ generation atomic.Uint64 }

func (h *hasty) AccessToken(context.Context, hub.ProfileID, hub.Generation) (secret.Text, hub.Generation, error) {
	return secret.New(accessToken), hub.Generation(h.generation.Add(1)), nil
}

func TestTokenThatIsRenewedTwiceMeanwhileIsNoLostLogin(t *testing.T) {
	u := startUpstream(t, dead('x', func(http.ResponseWriter, *http.Request) {}))
	b := start(t, u, func(cfg *gateway.Config, _ *gateway.Request) { cfg.Tokens = &hasty{} })
	res, text := b.post(t, smallBody)
	if kind, _ := errorOf(t, res, text); res.StatusCode != 503 || b.Refusal() != nil {
		t.Errorf("%d %s, refusal %+v; want an error that may be tried again", res.StatusCode, kind, b.Refusal())
	}
	if u.count() != 2 {
		t.Errorf("the upstream was asked %d times; want 2", u.count())
	}
}

// stuck gives the same generation whatever is stale.
type stuck struct{}

func (stuck) AccessToken(context.Context, hub.ProfileID, hub.Generation) (secret.Text, hub.Generation, error) {
	return secret.New(accessToken), 1, nil
}

func TestTroubleWithTheTokenMayBeTriedAgain(t *testing.T) {
	s := &source{err: errors.New("the token endpoint is overloaded, sk-ant-ort01-fake")}
	b := start(t, startUpstream(t, nil), func(c *gateway.Config, _ *gateway.Request) { c.Tokens = s })
	res, text := b.post(t, smallBody)
	if kind, _ := errorOf(t, res, text); res.StatusCode != 503 || kind != "api_error" || b.Refusal() != nil || strings.Contains(text, "fake") {
		t.Errorf("%d %s, refusal %+v", res.StatusCode, text, b.Refusal())
	}
}

// odd gives a token that would end the header.
type odd struct{}

func (odd) AccessToken(context.Context, hub.ProfileID, hub.Generation) (secret.Text, hub.Generation, error) {
	return secret.New("sk-ant-oat01-fake\r\nX-Injected: 1"), 1, nil
}

func TestTokenCannotAddToTheHeader(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u, func(c *gateway.Config, _ *gateway.Request) { c.Tokens = odd{} })
	if res, text := b.post(t, smallBody); res.StatusCode != 503 || u.count() != 0 || strings.Contains(text+b.log.String(), "fake\r") {
		t.Errorf("%d %s after %d requests", res.StatusCode, text, u.count())
	}
}

func TestUpstreamThatIsNotThereIsSaid(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	u.Close()
	res, text := b.post(t, smallBody)
	if kind, _ := errorOf(t, res, text); res.StatusCode != 502 || kind != "api_error" || b.Usage().Tokens() != 0 {
		t.Errorf("%d %s, usage %+v", res.StatusCode, text, b.Usage())
	}
}

func TestRequestUnderWayCountsByItsSize(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-release
		w.WriteHeader(529)
	})
	b := start(t, u, func(_ *gateway.Config, r *gateway.Request) { r.Limits.Tokens = 1000 })
	body := `{"model":"claude-sonnet-4-5","x":"` + strings.Repeat("y", 8000) + `"}`
	over := make(chan int, 1)
	go func() {
		res, _ := b.post(t, body)
		over <- res.StatusCode
	}()
	<-begun
	if got := b.Usage().InputTokens; got < 1000 || got > 4000 {
		t.Errorf("%d tokens counted for 8 KB under way", got)
	}
	if res, _ := b.post(t, smallBody); res.StatusCode != 402 {
		t.Errorf("a request beside it: %d; want 402", res.StatusCode)
	}
	close(release)
	if status := <-over; status != 529 || b.Usage().Tokens() != 0 {
		t.Errorf("%d, and %d tokens charged for it", status, b.Usage().Tokens())
	}
}

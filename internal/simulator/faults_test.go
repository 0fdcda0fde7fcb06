package simulator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/simulator"
)

// A fault after the fact commits the rotation and spoils only its answer; one
// before the fact commits nothing.
func TestFaultsOfTheTokenEndpoint(t *testing.T) {
	type outcome string
	const (
		noAnswer  outcome = "no answer"
		cutBody   outcome = "cut body"
		badJSON   outcome = "bad JSON"
		refused   outcome = "refused"
		a429      outcome = "429"
		a500      outcome = "500"
		granted   outcome = "granted"
		noRefresh outcome = "granted without a refresh token"
	)
	classify := func(g grant, err error) outcome {
		var syntax *json.SyntaxError
		switch {
		case errors.As(err, &syntax):
			return badJSON
		case errors.Is(err, io.ErrUnexpectedEOF):
			return cutBody
		case err != nil:
			return noAnswer
		case g.Error == "invalid_grant":
			return refused
		case g.Status == 429:
			return a429
		case g.Status >= 500:
			return a500
		case g.RefreshToken == "":
			return noRefresh
		}
		return granted
	}
	for _, test := range []struct {
		fault     simulator.Fault
		want      outcome
		committed bool
	}{
		{simulator.Fault{Kind: simulator.FaultSlowStart, Delay: time.Millisecond}, granted, true},
		{simulator.Fault{Kind: simulator.FaultDrop}, noAnswer, false},
		{simulator.Fault{Kind: simulator.FaultHang}, noAnswer, false},
		{simulator.Fault{Kind: simulator.FaultRateLimit, RetryAfter: 3 * time.Second}, a429, false},
		{simulator.Fault{Kind: simulator.FaultServerError}, a500, false},
		{simulator.Fault{Kind: simulator.FaultBadGateway}, a500, false},
		{simulator.Fault{Kind: simulator.FaultEarlyAnswer}, a500, false},
		{simulator.Fault{Kind: simulator.FaultStatus, Status: 503}, a500, false},
		{simulator.Fault{Kind: simulator.FaultInvalidGrant}, refused, false},
		{simulator.Fault{Kind: simulator.FaultOmitRefreshToken}, noRefresh, false},
		{simulator.Fault{Kind: simulator.FaultSlow, Delay: time.Millisecond}, granted, true},
		{simulator.Fault{Kind: simulator.FaultSlowBytes}, granted, true},
		{simulator.Fault{Kind: simulator.FaultLostReply}, noAnswer, true},
		{simulator.Fault{Kind: simulator.FaultLostHang}, noAnswer, true},
		{simulator.Fault{Kind: simulator.FaultHalfReply}, cutBody, true},
		{simulator.Fault{Kind: simulator.FaultBrokenJSON}, badJSON, true},
		{simulator.Fault{Kind: simulator.FaultErrorAfterCommit}, a500, true},
	} {
		t.Run(string(test.fault.Kind), func(t *testing.T) {
			s, _ := start(t, simulator.Config{})
			c := client(t, s)
			c.Timeout = 300 * time.Millisecond // for those that never answer
			if test.want != noAnswer {
				c.Timeout = time.Minute
			}
			l := s.SignIn(simulator.SignIn{})
			test.fault.Endpoint, test.fault.Times = simulator.EndpointToken, 1
			s.Inject(test.fault)
			g, err := tryToken(c, map[string]any{"grant_type": "refresh_token", "refresh_token": l.RefreshToken})
			if got := classify(g, err); got != test.want {
				t.Errorf("the client saw %q (%+v, %v); want %q", got, g, err, test.want)
			}
			if rotated := s.Counters().Rotations == 1; rotated != test.committed {
				t.Errorf("rotated: %t; want %t", rotated, test.committed)
			}
			if n := s.Counters(); n.Faults != 1 || n.TokenRequests != 1 {
				t.Errorf("counters: %+v", n)
			}
			c.Timeout = time.Minute
			again := refresh(t, c, l.RefreshToken) // the fault is over
			if again.Error == "invalid_grant" != test.committed {
				t.Errorf("the same refresh token again: %+v", again)
			}
		})
	}
}

func TestWrongExpiryIsALie(t *testing.T) {
	s, _ := start(t, simulator.Config{AccessTTL: time.Hour})
	c := client(t, s)
	s.Inject(simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultWrongExpiry, Delay: -2 * time.Hour, Times: 1})
	if g := refresh(t, c, s.SignIn(simulator.SignIn{}).RefreshToken); g.ExpiresIn != -3600 || !s.Live(g.AccessToken) {
		t.Errorf("refresh: %+v", g)
	}
}

func TestFaultsThatRefuseMessages(t *testing.T) {
	for _, test := range []struct {
		fault simulator.Fault
		want  int
		kind  string
	}{
		{simulator.Fault{Kind: simulator.FaultUnauthorized}, 401, "authentication_error"},
		{simulator.Fault{Kind: simulator.FaultRevoked}, 403, "permission_error"},
		{simulator.Fault{Kind: simulator.FaultPlanLimit, RetryAfter: 90 * time.Second}, 429, "rate_limit_error"},
		{simulator.Fault{Kind: simulator.FaultRateLimit, RetryAfter: 90 * time.Second}, 429, "rate_limit_error"},
		{simulator.Fault{Kind: simulator.FaultOverloaded}, 529, "overloaded_error"},
		{simulator.Fault{Kind: simulator.FaultServerError}, 500, "api_error"},
		{simulator.Fault{Kind: simulator.FaultErrorAfterCommit}, 500, "api_error"},
		{simulator.Fault{Kind: simulator.FaultStatus, Status: 418, Type: "teapot", Message: "m"}, 418, "teapot"},
	} {
		t.Run(string(test.fault.Kind), func(t *testing.T) {
			s, _ := start(t, simulator.Config{})
			c, token := client(t, s), s.SetupToken()
			test.fault.Skip, test.fault.Times = 1, 2
			s.Inject(test.fault)
			for i, struck := range []bool{false, true, true, false} {
				resp, b := say(t, c, token, "hi")
				if !struck {
					if _, _, whole := events(t, b); !whole {
						t.Errorf("request %d was struck", i)
					}
					continue
				}
				checkError(t, "struck", resp.StatusCode, b, test.want, test.kind)
				if got := resp.Header.Get("Retry-After"); test.want == 429 && got != "90" {
					t.Errorf("Retry-After: %q", got)
				}
				limited := resp.Header.Get("Anthropic-Ratelimit-Unified-5h-Status") == "rejected"
				if limited != (test.fault.Kind == simulator.FaultPlanLimit) {
					t.Errorf("window headers: %v", resp.Header)
				}
			}
		})
	}
}

func TestFaultsOfAStream(t *testing.T) {
	for _, test := range []struct {
		fault simulator.Fault
		whole bool
		holds string
	}{
		{simulator.Fault{Kind: simulator.FaultCutStream, After: 4}, false, `"text":"one"`},
		{simulator.Fault{Kind: simulator.FaultStreamError, After: 4}, false, `"overloaded_error"`},
		{simulator.Fault{Kind: simulator.FaultPingStall, After: 4, Delay: 20 * time.Millisecond, Every: 5 * time.Millisecond}, true, strings.Repeat("event: ping\ndata: {\"type\":\"ping\"}\n\n", 4)},
		{simulator.Fault{Kind: simulator.FaultSilentStall, After: 4, Delay: time.Millisecond}, true, `"text":"two"`},
		{simulator.Fault{Kind: simulator.FaultSlowBytes, Delay: time.Millisecond}, true, `"text":"two"`},
		{simulator.Fault{Kind: simulator.FaultHalfReply}, false, "event: message_start\ndata: {"},
		{simulator.Fault{Kind: simulator.FaultLostReply}, false, ""},
		{simulator.Fault{Kind: simulator.FaultEarlyAnswer}, true, "Hello"},
	} {
		t.Run(string(test.fault.Kind), func(t *testing.T) {
			s, _ := start(t, simulator.Config{})
			c, token := client(t, s), s.SetupToken()
			test.fault.Endpoint = simulator.EndpointMessages
			s.Inject(test.fault)
			resp, b, err := ask(c, "POST", messagesURL, token, request("simulate: say \"one\"\nsimulate: say \"two\""))
			_, _, whole := events(t, b)
			if whole != test.whole || (err == nil) != test.whole || !bytes.Contains(b, []byte(test.holds)) {
				t.Errorf("whole: %t, error: %v, stream:\n%s", whole, err, b)
			}
			if err == nil && resp.StatusCode != 200 {
				t.Errorf("status %d", resp.StatusCode)
			}
			if answered := s.Counters().Answered == 1; answered != test.whole {
				t.Errorf("counted as answered: %t", answered)
			}
			s.ClearFaults()
			if _, b := say(t, c, token, "hi"); !bytes.Contains(b, []byte("message_stop")) {
				t.Errorf("after ClearFaults: %s", b)
			}
		})
	}
}

// The answer begins while the client still holds back its request's body.
func TestEarlyAnswerComesBeforeTheBody(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	s.Inject(simulator.Fault{Endpoint: simulator.EndpointMessages, Kind: simulator.FaultEarlyAnswer})
	c := client(t, s)
	body, hold := io.Pipe()
	// A platform that waits for the body gets an error instead of it, in the end.
	giveUp := time.AfterFunc(20*time.Second, func() { hold.CloseWithError(errors.New("the answer did not come first")) })
	defer giveUp.Stop()
	req, err := http.NewRequestWithContext(t.Context(), "POST", messagesURL, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.SetupToken())
	req.Header.Set("Anthropic-Beta", "oauth-2025-04-20")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, len("event: message_start"))
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "event: message_start" {
		t.Fatalf("the answer's start: %q %v", first, err)
	}
	io.WriteString(hold, "{}")
	hold.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || !bytes.Contains(rest, []byte("message_stop")) {
		t.Errorf("the rest: %s %v", rest, err)
	}
}

func TestFaultsStrikeWhereTheyAreTold(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c, token := client(t, s), s.SignIn(simulator.SignIn{}).AccessToken
	s.Inject(simulator.Fault{Endpoint: simulator.EndpointProfile, Kind: simulator.FaultServerError})
	if resp, _ := say(t, c, token, "hi"); resp.StatusCode != 200 || profile(t, c, token) != 500 {
		t.Error("the fault is not at the profile endpoint alone")
	}
	s.ClearFaults()
	s.Inject(simulator.Fault{Kind: simulator.FaultServerError})
	if resp, _ := say(t, c, token, "hi"); resp.StatusCode != 500 || profile(t, c, token) != 500 {
		t.Error("the fault is not everywhere")
	}
}

func TestProbabilityFollowsTheSeed(t *testing.T) {
	pattern := func(seed uint64) string {
		s, _ := start(t, simulator.Config{Seed: seed})
		c := client(t, s)
		s.Inject(simulator.Fault{Endpoint: simulator.EndpointHello, Kind: simulator.FaultServerError, Probability: 0.5})
		var b strings.Builder
		for range 32 {
			resp, err := c.Head("https://api.anthropic.com/api/hello")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			b.WriteByte("ox"[resp.StatusCode/500])
		}
		return b.String()
	}
	first := pattern(1)
	if first != pattern(1) || first == pattern(2) || !strings.Contains(first, "o") || !strings.Contains(first, "x") {
		t.Errorf("patterns do not follow the seed: %s", first)
	}
}

func TestInjectPanicsOnNonsense(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	for _, f := range []simulator.Fault{
		{Kind: "nonsense"}, {}, {Kind: simulator.FaultHang, Endpoint: "nowhere"}, {Kind: simulator.FaultHang, Times: -1},
		{Kind: simulator.FaultHang, Probability: 1.5}, {Kind: simulator.FaultStatus, Status: 99},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("accepted %+v", f)
				}
			}()
			s.Inject(f)
		}()
	}
}

func TestCloseEndsHangsAndStreams(t *testing.T) {
	s, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, s)
	token := s.SetupToken()
	s.Inject(simulator.Fault{Endpoint: simulator.EndpointHello, Kind: simulator.FaultHang})
	ended := make(chan error, 2)
	go func() {
		resp, err := c.Head("https://api.anthropic.com/api/hello")
		if err == nil {
			resp.Body.Close()
		}
		ended <- err
	}()
	req, _ := http.NewRequestWithContext(context.Background(), "POST", s.Direct().JoinPath("v1/messages").String(), nil)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Anthropic-Beta", "oauth-2025-04-20")
	req.Header.Set(simulator.HeaderScript, "stream 100000 1ms")
	plain := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(plain.CloseIdleConnections)
	resp, err := plain.Do(req) // returns with the stream's header
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	go func() {
		_, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		ended <- err
	}()
	for s.Counters().Hellos == 0 {
		time.Sleep(time.Millisecond) // the request has no other sign of its arrival
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s.Close() != nil {
		t.Error("the second Close fails")
	}
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a request ended well although the platform was closed")
		}
	}
}

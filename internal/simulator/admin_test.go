package simulator_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/simulator"
)

func TestAdminEndpoint(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	plain := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(plain.CloseIdleConnections)
	proxied := client(t, s)
	for base, c := range map[string]*http.Client{s.AdminURL(): plain, "https://admin.simulator.invalid": proxied} {
		do := func(method, path string, body any, want string) {
			t.Helper()
			_, b, err := ask(c, method, base+path, "", body)
			if err != nil || !strings.Contains(string(b), want) {
				t.Errorf("%s %s: %s %v; want %s", method, path, b, err, want)
			}
		}
		do("POST", "/faults", map[string]any{"endpoint": "hello", "kind": "status", "status": 418, "times": 3, "delay": "1.5s"}, `"delay":"1.5s"`)
		if resp, err := proxied.Head("https://api.anthropic.com/api/hello"); err != nil || resp.StatusCode != 418 {
			t.Errorf("the fault does not strike: %v %v", resp, err)
		}
		do("GET", "/faults", nil, `"times":2`)
		do("DELETE", "/faults", nil, `{"faults":[]}`)
		do("POST", "/faults", map[string]any{"kind": "nonsense"}, "invalid_request_error")
		do("POST", "/faults", map[string]any{"kind": "hang", "tims": 1}, "unknown field")
		do("PUT", "/clock", map[string]any{"skew": "1h", "access_ttl": "2s"}, `{"skew":"1h0m0s","access_ttl":"2s"}`)
		do("PUT", "/clock", map[string]any{"skew": "0s"}, `"access_ttl":"2s"`)
		do("PUT", "/windows", map[string]any{"five_hour": map[string]any{"utilization": 1}}, `"utilization":1`)
		do("GET", "/windows", nil, `"five_hour"`)
		do("POST", "/sign-in", map[string]any{"email": "x@example.com"}, `"claudeAiOauth"`)
		do("POST", "/setup-token", nil, `"sk-ant-oat01-fake`)
		do("POST", "/approve", map[string]any{"url": authorizeURL(strings.Repeat("v", 43), nil)}, `#fake-state"`)
		do("POST", "/approve", map[string]any{"url": "https://claude.ai/"}, "invalid_request_error")
		do("GET", "/counters", nil, `"authorize_pages"`)

		l := s.SignIn(simulator.SignIn{AccessTTL: time.Hour})
		do("POST", "/expire", nil, "{")
		if s.Live(l.AccessToken) {
			t.Error("/expire left a token alive")
		}
		do("POST", "/revoke", map[string]any{"token": l.RefreshToken}, `"revoked":true`)
		do("POST", "/revoke", map[string]any{"token": l.RefreshToken}, `"revoked":false`)
	}
}

func TestCredentialsAreAsTheCLIWritesThem(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	l := s.SignIn(simulator.SignIn{})
	var f credFile
	if err := json.Unmarshal(l.Credentials, &f); err != nil {
		t.Fatal(err)
	}
	o := f.OAuth
	if o.AccessToken != l.AccessToken || o.RefreshToken != l.RefreshToken || o.ExpiresAt != l.ExpiresAt.UnixMilli() ||
		o.RefreshTokenExpiresAt != l.LoginExpiresAt.UnixMilli() || len(o.Scopes) != 2 || o.SubscriptionType != "max" {
		t.Errorf("credentials: %s", l.Credentials)
	}
	if d := l.LoginExpiresAt.Sub(l.ExpiresAt).Round(time.Second); d != 30*24*time.Hour-8*time.Hour {
		t.Errorf("lifetimes differ by %v", d)
	}
}

func TestClockSkewShowsInDates(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	s.SetClockSkew(-time.Hour)
	resp, err := c.Head("https://api.anthropic.com/api/hello")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if off := time.Until(date); err != nil || off > -59*time.Minute || off < -61*time.Minute {
		t.Errorf("Date is off by %v (%v); want an hour behind", off, err)
	}
}

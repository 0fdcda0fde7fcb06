package refresh_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	w.spare()
	r := w.refresher()
	s := w.status(r)
	if s.Health != hub.HealthOK || !s.SignedIn || s.Generation != 1 || s.Plan != "max" || *s.LoginDaysLeft != 29 ||
		s.AccessExpires.IsZero() || s.LoginExpires.IsZero() || !s.LastRefresh.IsZero() || s.Spare == nil || s.ServedBySpare || s.Refreshing || s.Interrupted {
		t.Errorf("status of a fresh sign-in = %+v", s)
	}
	w.failAt("answer.before", "hold")
	asker := w.refresher()
	go asker.AccessToken(t.Context(), w.profile.ID, 1) // asked again below
	w.holding()
	asker.Stop() // so that nobody starts the next helper; this one goes on
	if s := w.status(r); !s.Refreshing || s.Interrupted {
		t.Errorf("status during a refresh = %+v", s)
	}
	w.killHelper()
	w.eventually("the refresh is seen as interrupted", func() bool { s := w.status(r); return s.Interrupted && !s.Refreshing })
	w.release()
	w.token(r, 1)
	b, err := json.Marshal(w.status(r))
	if err != nil || strings.Contains(string(b), "sk-ant-") {
		t.Errorf("the status as JSON: %s, %v; want no token in it", b, err)
	}
	if s := w.status(r); s.LastRefresh.IsZero() || time.Since(s.LastRefresh) > time.Minute || s.NextTry.After(s.AccessExpires) {
		t.Errorf("status after a refresh = %+v", s)
	}
}

// Check refreshes what needs it, and with a probe finds out what only the platform
// knows.
func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher()
	client := w.sim.Client()
	defer client.CloseIdleConnections()
	probe := refresh.NewProbe(client)
	s, err := r.Check(t.Context(), w.profile.ID, probe)
	if err != nil || s.AccessAccepted == nil || !*s.AccessAccepted || s.Generation != 1 {
		t.Errorf("Check = %+v, %v", s, err)
	}
	w.sim.RevokeAccess(w.login.AccessToken)
	if s, err := r.Check(t.Context(), w.profile.ID, nil); err != nil || s.Generation != 1 || s.AccessAccepted != nil {
		t.Errorf("Check without asking = %+v, %v", s, err)
	}
	if s, err := r.Check(t.Context(), w.profile.ID, probe); err != nil || s.Generation != 2 || !*s.AccessAccepted {
		t.Errorf("Check of a token that was revoked = %+v, %v; want it refreshed", s, err)
	}
	w.sim.RevokeLogin(w.login.RefreshToken)
	if _, err := r.Check(t.Context(), w.profile.ID, probe); !errors.Is(err, hub.ErrLoginRequired) {
		t.Errorf("Check of a login that was revoked = %v; want ErrLoginRequired", err)
	}
	w.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointProfile, Kind: simulator.FaultServerError})
	w.signIn(simulator.SignIn{})
	if s, err := r.Check(t.Context(), w.profile.ID, probe); err == nil || errors.Is(err, hub.ErrLoginRequired) || s.Health != hub.HealthOK {
		t.Errorf("Check while the platform is in trouble = %+v, %v", s, err)
	}
}

// A probe answers yes, no, or that it can't tell; it sends its token to the
// platform alone.
func TestProbe(t *testing.T) {
	t.Parallel()
	var status int
	var seen http.Header
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header
		if status == http.StatusFound {
			http.Redirect(w, r, "https://evil.example/", status)
			return
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	client := server.Client()
	client.Transport = rewrite{server.URL, client.Transport}
	probe := refresh.NewProbe(client)
	for code, want := range map[int]string{200: "true <nil>", 401: "false <nil>", 403: "?", 429: "?", 500: "?", 302: "?"} {
		status = code
		accepted, err := probe(t.Context(), secret.New("sk-ant-oat01-fake"))
		if (want == "?") != (err != nil) || accepted != (code == 200) {
			t.Errorf("%d: %v, %v; want %s", code, accepted, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "fake") {
			t.Errorf("the error holds the token: %v", err)
		}
	}
	if seen.Get("Authorization") != "Bearer sk-ant-oat01-fake" || seen.Get("User-Agent") != "claude-hub" {
		t.Errorf("the platform saw %v", seen)
	}
}

// rewrite leads the platform's API host to a test server, and refuses the rest.
type rewrite struct {
	to   string
	next http.RoundTripper
}

func (r rewrite) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != "api.anthropic.com" || req.URL.Scheme != "https" {
		return nil, errors.New("a request to " + req.URL.Host)
	}
	req = req.Clone(req.Context())
	req.URL.Host = strings.TrimPrefix(r.to, "https://")
	return r.next.RoundTrip(req)
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	nowhere := filepath.Join(t.TempDir(), "mistyped")
	for name, cfg := range map[string]refresh.Config{
		"no vault":     {Dir: w.dir, Command: []string{"x"}},
		"no command":   {Dir: w.dir, Vault: w.vault},
		"no directory": {Vault: w.vault, Command: []string{"x"}},
		"mistyped":     {Dir: nowhere, Vault: w.vault, Command: []string{"x"}},
	} {
		if _, err := refresh.New(cfg); err == nil {
			t.Errorf("%s: New accepts it", name)
		}
	}
	for name, cfg := range map[string]refresh.HelperConfig{
		"no vault": {Dir: w.dir, Agent: "x"}, "no agent": {Dir: w.dir, Vault: w.vault}, "mistyped": {Dir: nowhere, Vault: w.vault, Agent: "x"},
	} {
		if err := refresh.HelperMain(t.Context(), cfg); err == nil {
			t.Errorf("%s: HelperMain accepts it", name)
		}
	}
	if _, err := os.Stat(nowhere); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a mistyped directory was made: %v", err)
	}
}

// BenchmarkAccessToken is what every request of the gateway pays.
func BenchmarkAccessToken(b *testing.B) {
	w := newWorld(b, simulator.Config{}, "")
	r := w.refresher()
	for b.Loop() {
		if _, _, err := r.AccessToken(context.Background(), w.profile.ID, 0); err != nil {
			b.Fatal(err)
		}
	}
}

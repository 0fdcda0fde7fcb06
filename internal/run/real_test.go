package run_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/door"
	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// Here everything is real but the platform: the CLI, bubblewrap, the gateway,
// the door.

// realGateway joins package gateway to the runner, as the program does.
type realGateway struct{ *gateway.Gateway }

func (g realGateway) Open(ctx context.Context, req run.GatewayRequest) (run.Endpoint, error) {
	e, err := g.Gateway.Open(ctx, gateway.Request{Run: req.Run, Profile: req.Profile, Limits: req.Limits, Socket: req.Socket})
	if err != nil {
		return nil, err
	}
	return realEndpoint{e}, nil
}

type realEndpoint struct{ *gateway.Endpoint }

func (e realEndpoint) Refusal() *run.Refusal {
	r := e.Endpoint.Refusal()
	if r == nil {
		return nil
	}
	verdict := map[gateway.RefusalKind]hub.Verdict{
		gateway.RefusedLimit: hub.VerdictRefused, gateway.RefusedParked: hub.VerdictParked, gateway.RefusedLoginRequired: hub.VerdictLoginRequired,
	}[r.Kind]
	return &run.Refusal{Verdict: verdict, Reason: r.Reason, Until: r.Until}
}

// logins is a profile whose credential a test replaces; it is both the gateway's
// token source and the platform of runs with a copy.
type logins struct {
	sim *simulator.Simulator

	mu      sync.Mutex
	list    []simulator.Login // the last is the current one
	changed chan struct{}
}

func newLogins(sim *simulator.Simulator) *logins {
	return &logins{sim: sim, list: []simulator.Login{sim.SignIn(simulator.SignIn{})}, changed: make(chan struct{})}
}

func (l *logins) current() (simulator.Login, hub.Generation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list[len(l.list)-1], hub.Generation(len(l.list))
}

// replace makes a new login current, and the old access token dead.
func (l *logins) replace(next simulator.Login) {
	old, _ := l.current()
	l.mu.Lock()
	l.list = append(l.list, next)
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	l.sim.RevokeAccess(old.AccessToken)
}

func (l *logins) AccessToken(_ context.Context, _ hub.ProfileID, stale hub.Generation) (secret.Text, hub.Generation, error) {
	login, generation := l.current()
	if stale >= generation {
		return secret.Text{}, 0, hub.ErrLoginRequired
	}
	return secret.New(login.AccessToken), generation, nil
}

func (l *logins) Credential(context.Context, hub.ProfileID) ([]byte, hub.Generation, error) {
	login, generation := l.current()
	return login.Credentials, generation, nil
}

func (l *logins) Changed(ctx context.Context, _ hub.ProfileID, after hub.Generation) error {
	l.mu.Lock()
	changed, newer := l.changed, hub.Generation(len(l.list)) > after
	l.mu.Unlock()
	if newer {
		return nil
	}
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *logins) Snapshot(context.Context, hub.ProfileID) (io.ReadCloser, error) {
	return nil, hub.ErrNotFound
}

func (l *logins) Egress(_ context.Context, socket string) (io.Closer, error) {
	proxy, err := url.Parse(l.sim.ProxyURL())
	if err != nil {
		return nil, err
	}
	d, err := door.New(door.Config{Allow: []string{"api.anthropic.com:443"}, Upstream: proxy})
	if err != nil {
		return nil, err
	}
	return d, d.StartUnix(socket)
}

// real is a hub with real parts on a platform that is not.
func real(t testing.TB) (*fixture, *simulator.Simulator, *logins) {
	t.Helper()
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	l := newLogins(sim)
	client := sim.Client()
	t.Cleanup(client.CloseIdleConnections)
	g, err := gateway.New(gateway.Config{Tokens: l, Transport: client.Transport})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	driver, err := bubblewrap.New(bubblewrap.Config{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(c *run.Config) {
		c.Agent, c.Driver, c.Gateway, c.Platform, c.Logins = hubtest.Claude(t), driver, realGateway{g}, l, l
		c.Environ = []string{"NODE_EXTRA_CA_CERTS=" + sim.CAFile(), "SSL_CERT_FILE=" + sim.CAFile()}
	})
	return f, sim, l
}

func TestRealRunWorksInTheWorkspaceWithoutTheToken(t *testing.T) {
	f, sim, l := real(t)
	login, _ := l.current()
	r, lines := f.run(t, f.request(strings.Join([]string{
		`simulate: write made.txt "by the job"`,
		`simulate: bash "git --version; id -u; pwd; cat ~/.claude/.credentials.json; cat /proc/*/environ | tr '\\0' '\\n'; grep -rsl oat01 / --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr"`,
		`simulate: say "finished"`,
	}, "\n")))
	if r.Verdict != hub.VerdictDone || r.Result != "finished" || r.AgentSession == "" || r.Usage.Requests < 3 || r.Usage.Tokens() == 0 {
		t.Errorf("%+v", r)
	}
	if b, err := os.ReadFile(filepath.Join(f.workspace, "made.txt")); err != nil || strings.TrimSpace(string(b)) != "by the job" {
		t.Errorf("the workspace has %q, %v", b, err)
	}
	all := strings.Join(lines, "\n")
	if !strings.Contains(all, "git version") || !strings.Contains(all, f.workspace) {
		t.Errorf("the job saw no git or another workspace:\n%s", all)
	}
	for _, token := range []string{login.AccessToken, login.RefreshToken, "sk-ant-"} {
		if strings.Contains(all, token) {
			t.Errorf("%s is in the stream", token)
		}
	}
	if c := sim.Counters(); c.Answered < 3 || c.Unauthorized != 0 {
		t.Errorf("the platform saw %+v", c)
	}
}

func TestRealRunSurvivesARotation(t *testing.T) {
	f, sim, l := real(t)
	next := sim.SignIn(simulator.SignIn{})
	req := f.request("simulate: bash \"true\"\nsimulate: say \"went on\"")
	r, err := f.Run(t.Context(), req, func(line []byte) {
		if e, err := agent.ParseEvent(line); err == nil && e.Init != nil {
			l.replace(next)
		}
	})
	if err != nil || r.Verdict != hub.VerdictDone || r.Result != "went on" {
		t.Errorf("%s (%q) %q, %v", r.Verdict, r.Reason, r.Result, err)
	}
}

func TestRealRunIsStoppedByALimit(t *testing.T) {
	f, _, _ := real(t)
	req := f.request("simulate: bash \"true\"\nsimulate: bash \"true\"\nsimulate: say \"too far\"")
	req.Limits.Requests = 1
	if r, _ := f.run(t, req); r.Verdict != hub.VerdictRefused || r.Reason == "" || r.ExitCode != 1 {
		t.Errorf("%s (%q), exit %d; want refused", r.Verdict, r.Reason, r.ExitCode)
	}
}

func TestRealRunIsParkedWhenTheWindowIsUsedUp(t *testing.T) {
	f, sim, _ := real(t)
	sim.Inject(simulator.Fault{Endpoint: simulator.EndpointMessages, Kind: simulator.FaultPlanLimit})
	if r, _ := f.run(t, f.request("hello")); r.Verdict != hub.VerdictParked || r.Until.IsZero() {
		t.Errorf("%s (%q) until %v; want parked", r.Verdict, r.Reason, r.Until)
	}
}

func TestRealRunNeedsALogin(t *testing.T) {
	f, sim, l := real(t)
	login, _ := l.current()
	sim.RevokeLogin(login.RefreshToken)
	if r, _ := f.run(t, f.request("hello")); r.Verdict != hub.VerdictLoginRequired {
		t.Errorf("%s (%q); want login-required", r.Verdict, r.Reason)
	}
}

func TestRealRunIsCancelledAndResumed(t *testing.T) {
	f, _, _ := real(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := f.Run(ctx, f.request(`simulate: bash "sleep 1000"`), func(line []byte) {
		if bytes.Contains(line, []byte(`"tool_use"`)) {
			cancel()
		}
	})
	if err != nil || r.Verdict != hub.VerdictCancelled || r.ExitCode != 143 || r.AgentSession == "" {
		t.Errorf("%s (%q), exit %d, %v; want cancelled with 143", r.Verdict, r.Reason, r.ExitCode, err)
	}
	f.checkAfter(t, r)
	req := f.request(`simulate: say "went on"`)
	req.Resume = r.ID
	again, lines := f.run(t, req)
	if again.Verdict != hub.VerdictDone || again.Result != "went on" || again.AgentSession != r.AgentSession {
		t.Errorf("%s (%q) %q in session %s; want to go on with %s\n%s", again.Verdict, again.Reason, again.Result, again.AgentSession, r.AgentSession, lines)
	}
	req.Dir = t.TempDir()
	if _, err := f.Run(t.Context(), req, nil); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("resumed in another directory: %v; want ErrInvalid", err)
	}
}

func TestRealRunTakesAPromptOfTwoMegabytes(t *testing.T) {
	f, _, _ := real(t)
	prompt := "simulate: say \"read it all\"\n"
	prompt += strings.Repeat("All work and no play. ", run.MaxPrompt/22)
	if r, _ := f.run(t, f.request(prompt[:run.MaxPrompt])); r.Verdict != hub.VerdictDone || r.Result != "read it all" {
		t.Errorf("%s (%q) %q", r.Verdict, r.Reason, r.Result)
	}
}

func TestRealCopyTalksToThePlatformAndFollowsARotation(t *testing.T) {
	f, sim, l := real(t)
	next := sim.SignIn(simulator.SignIn{})
	first, _ := l.current()
	tail := next.AccessToken[len(next.AccessToken)-12:]
	req := f.request(fmt.Sprintf("simulate: bash \"until grep -q %s ~/.claude/.credentials.json; do sleep 0.05; done; cat ~/.claude/.credentials.json\"\nsimulate: say \"went on\"", tail))
	req.Delivery = hub.DeliveryCopy
	var seen bytes.Buffer
	r, err := f.Run(t.Context(), req, func(line []byte) {
		seen.Write(line)
		if bytes.Contains(line, []byte(`"tool_use"`)) {
			l.replace(next)
		}
	})
	if err != nil || r.Verdict != hub.VerdictDone || r.Result != "went on" || r.Usage.Tokens() == 0 {
		t.Errorf("%s (%q) %q, %+v, %v\n%s", r.Verdict, r.Reason, r.Result, r.Usage, err, &seen)
	}
	f.checkAfter(t, r)
	// The CLI looks at the file's time before each request, so that there need not
	// even be a 401.
	if c := sim.Counters(); c.TokenRequests != 0 || c.Answered != 2 {
		t.Errorf("the platform saw %+v; want two answers and no refresh by the job", c)
	}
	if strings.Contains(seen.String(), first.RefreshToken) || strings.Contains(seen.String(), "refreshToken") {
		t.Error("a refresh token was in the sandbox")
	}
}

func (l *logins) Allow(_ context.Context, req run.Request) (run.Request, error) { return req, nil }

func (l *logins) Login(context.Context, hub.ProfileID) (bool, string, error) {
	login, generation := l.current()
	return l.sim.Live(login.AccessToken), fmt.Sprint(generation), nil
}

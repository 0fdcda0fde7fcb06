package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// owner is a source of tokens that signs in anew at the simulator when one is
// stale.
type owner struct {
	sim *simulator.Simulator

	mu         sync.Mutex
	token      string
	generation hub.Generation
	over       bool
}

func (o *owner) AccessToken(_ context.Context, _ hub.ProfileID, stale hub.Generation) (secret.Text, hub.Generation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return secret.Text{}, 0, hub.ErrLoginRequired
	}
	if stale >= o.generation {
		o.token = o.sim.SignIn(simulator.SignIn{}).AccessToken
		o.generation++
	}
	return secret.New(o.token), o.generation, nil
}

// real is the pinned CLI behind an endpoint, in front of the simulator.
type real struct {
	*gateway.Endpoint
	sim   *simulator.Simulator
	owner *owner
	log   *logBuffer
	env   []string
	home  string
}

func startReal(t *testing.T, limits hub.Limits, change ...func(*gateway.Request)) *real {
	t.Helper()
	claude := hubtest.Claude(t)
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	r := &real{sim: sim, owner: &owner{sim: sim}, log: &logBuffer{}, home: t.TempDir()}
	g, err := gateway.New(gateway.Config{Upstream: sim.Direct(), Tokens: r.owner, Log: slog.New(slog.NewTextHandler(r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	limits.Lifetime = time.Minute
	req := gateway.Request{Run: "r-cli", Profile: "p-cli", Limits: limits}
	for _, c := range change {
		c(&req)
	}
	if r.Endpoint, err = g.Open(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	r.env = []string{
		"PATH=" + filepath.Dir(claude) + ":" + os.Getenv("PATH"), "HOME=" + r.home, "CLAUDE_CONFIG_DIR=" + filepath.Join(r.home, "config"),
		"ANTHROPIC_BASE_URL=" + r.URL(), "CLAUDE_CODE_OAUTH_TOKEN=" + r.Token().Reveal(), "LANG=C.UTF-8",
	}
	return r
}

// result is what `claude -p --output-format json` says.
type result struct {
	Result  string
	IsError bool    `json:"is_error"`
	Status  int     `json:"api_error_status"`
	Cost    float64 `json:"total_cost_usd"`
	Turns   int     `json:"num_turns"`
	Usage   struct {
		Input      int64 `json:"input_tokens"`
		CacheWrite int64 `json:"cache_creation_input_tokens"`
		CacheRead  int64 `json:"cache_read_input_tokens"`
		Output     int64 `json:"output_tokens"`
	}
}

func (r *real) run(t *testing.T, prompt string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, hubtest.Claude(t), append([]string{"-p", "--output-format", "json", "--model", "claude-sonnet-4-5"}, args...)...)
	cmd.Env, cmd.Dir, cmd.Stdin = r.env, r.home, strings.NewReader(prompt)
	var errText bytes.Buffer
	cmd.Stderr = &errText
	out, runErr := cmd.Output()
	var res result
	if err := json.Unmarshal(out, &res); err != nil {
		t.Fatalf("claude -p: %v: %s%s", runErr, out, errText.Bytes())
	}
	if (runErr != nil) != res.IsError {
		t.Errorf("claude -p: %v, is_error %v", runErr, res.IsError)
	}
	return res
}

func TestCLIRunsWithThePlaceholderAlone(t *testing.T) {
	r := startReal(t, hub.Limits{Models: []string{"claude-sonnet-4-5*"}})
	got := r.run(t, "simulate: say \"I start.\"\nsimulate: write hello.txt \"hello\\n\"\nsimulate: bash \"cat hello.txt; env\"\nsimulate: report\n", "--permission-mode", "acceptEdits", "--allowedTools", "Bash")
	if got.IsError || !strings.HasPrefix(got.Result, "hello") {
		t.Fatalf("%+v", got)
	}
	if strings.Contains(got.Result, r.owner.token) {
		t.Error("the access token is in the CLI's environment")
	}
	if n := r.sim.Counters(); n.Unauthorized != 0 || n.Others != 0 || n.BadRequests != 0 || n.Answered != 3 {
		t.Errorf("the platform saw %+v", n)
	}
	if r.log.String() != "" {
		t.Errorf("something was refused: %s", r.log.String())
	}
}

func TestMeteringAgreesWithTheCLI(t *testing.T) {
	for _, model := range []string{"claude-sonnet-4-5", "claude-opus-5-5", "claude-haiku-5-5"} {
		r := startReal(t, hub.Limits{})
		got := r.run(t, "simulate: usage input=1200 output=340 cache_read=56000 cache_write=7800\nsimulate: bash \"true\"\nsimulate: usage input=170000 output=99 cache_read=3 cache_write=0\nsimulate: say \"x\"\n", "--model", model, "--allowedTools", "Bash")
		ours := finalUsage(t, r.Endpoint)
		u := got.Usage
		if got.IsError || ours.InputTokens != u.Input || ours.OutputTokens != u.Output || ours.CacheReadTokens != u.CacheRead || ours.CacheWriteTokens != u.CacheWrite || ours.InputTokens != 171_200 {
			t.Errorf("%s: ours %+v, the CLI's %+v: %s", model, ours, u, got.Result)
		}
		if math.Abs(ours.Cost.USD()-got.Cost) > 3e-6 || len(ours.Models) != 1 || ours.Models[0] != model {
			t.Errorf("%s: ours $%.6f by %v, the CLI's $%.6f", model, ours.Cost.USD(), ours.Models, got.Cost)
		}
	}
}

func TestCLIRunsOverTheUnixSocket(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	r := startReal(t, hub.Limits{}, func(q *gateway.Request) { q.Socket = socket })
	r.env = append(r.env, "ANTHROPIC_UNIX_SOCKET="+socket)
	if got := r.run(t, "simulate: say \"through\""); got.IsError || got.Result != "through" || r.Usage().Requests == 0 {
		t.Errorf("%+v, usage %+v", got, r.Usage())
	}
}

func TestCLIShowsTheReasonAndStops(t *testing.T) {
	twice := "simulate: bash \"true\"\nsimulate: bash \"true\"\nsimulate: say \"x\"\n"
	for name, c := range map[string]struct {
		limits   hub.Limits
		prompt   string
		arrange  func(*real)
		status   int
		words    []string
		kind     gateway.RefusalKind
		messages int // that the platform saw
	}{
		"requests": {hub.Limits{Requests: 1}, twice, nil, 402, []string{"API Error: 402", "claude-hub: ", "all of its 1 requests"}, gateway.RefusedLimit, 1},
		"tokens":   {hub.Limits{Tokens: 1}, twice, nil, 402, []string{"claude-hub: ", "tokens of its 1"}, gateway.RefusedLimit, 1},
		"model":    {hub.Limits{Models: []string{"claude-haiku-*"}}, "hi", nil, 402, []string{"may not use the model", "claude-haiku-*"}, gateway.RefusedLimit, 0},
		"login": {hub.Limits{}, "hi", func(r *real) { r.owner.over = true }, 403,
			[]string{"Failed to authenticate", "the owner must run `claude-hub login`"}, gateway.RefusedLoginRequired, 0},
		"plan": {hub.Limits{}, "hi", func(r *real) {
			r.sim.SetWindows(simulator.Windows{FiveHour: simulator.Window{Utilization: 1}})
		}, 429, []string{"hit your 5-hour limit"}, gateway.RefusedParked, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := startReal(t, c.limits)
			if c.arrange != nil {
				c.arrange(r)
			}
			got := r.run(t, c.prompt, "--allowedTools", "Bash")
			if !got.IsError || got.Status != c.status {
				t.Errorf("%+v", got)
			}
			for _, w := range c.words {
				if !strings.Contains(got.Result, w) {
					t.Errorf("%q lacks %q", got.Result, w)
				}
			}
			if ref := r.Refusal(); ref == nil || ref.Kind != c.kind || ref.Kind == gateway.RefusedParked && !ref.Until.After(time.Now()) {
				t.Errorf("refusal %+v", ref)
			}
			if n := r.sim.Counters().Messages; n != c.messages {
				t.Errorf("the platform saw %d requests; want %d", n, c.messages)
			}
		})
	}
}

func TestCLINoticesNothingOfATokenThatDies(t *testing.T) {
	for name, kill := range map[string]func(*real){
		"expired": func(r *real) { r.sim.ExpireAccess() },
		"revoked": func(r *real) {
			r.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointMessages, Kind: simulator.FaultRevoked, Times: 1})
		},
	} {
		r := startReal(t, hub.Limits{})
		if _, _, err := r.owner.AccessToken(t.Context(), "p-cli", 0); err != nil {
			t.Fatal(err)
		}
		kill(r)
		got := r.run(t, "simulate: say \"through\"")
		if got.IsError || got.Result != "through" || r.owner.generation != 2 || r.Usage().Requests != 1 {
			t.Errorf("%s: %+v, generation %d, usage %+v", name, got, r.owner.generation, r.Usage())
		}
	}
}

func TestCLIGoesOnAfterFaultsOfThePlatform(t *testing.T) {
	for _, f := range []simulator.Fault{
		{Kind: simulator.FaultCutStream, After: 3, Times: 1},
		{Kind: simulator.FaultEarlyAnswer, Times: 1},
		{Kind: simulator.FaultPingStall, After: 2, Delay: time.Second, Every: 50 * time.Millisecond, Times: 1},
	} {
		f.Endpoint = simulator.EndpointMessages
		r := startReal(t, hub.Limits{})
		r.sim.Inject(f)
		if got := r.run(t, "hi"); got.IsError || got.Result == "" || r.sim.Counters().Faults != 1 {
			t.Errorf("%s: %+v, %+v", f.Kind, got, r.sim.Counters())
		}
	}
}

func TestPlatformIsReachedByItsNameThroughTheEnvironmentsProxy(t *testing.T) {
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	for _, v := range []string{"NO_PROXY", "no_proxy", "https_proxy", "SSL_CERT_FILE"} {
		t.Setenv(v, "")
	}
	t.Setenv("HTTPS_PROXY", sim.ProxyURL())
	t.Setenv("NODE_EXTRA_CA_CERTS", sim.CAFile())
	g, err := gateway.New(gateway.Config{Tokens: &owner{sim: sim}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	b := &bench{gateway: g, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	if b.Endpoint, err = g.Open(t.Context(), gateway.Request{Run: "r-tls", Profile: "p", Limits: hub.Limits{Lifetime: time.Minute}}); err != nil {
		t.Fatal(err)
	}
	body := `{"model":"claude-sonnet-4-5","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"` + strings.Repeat("hi ", 50_000) + `"}]}`
	for range 3 {
		r := b.request(t, "POST", "/v1/messages?beta=true", body)
		r.Header.Set("Anthropic-Version", "2023-06-01")
		r.Header.Set("Anthropic-Beta", "oauth-2025-04-20")
		if res, text := b.do(t, r); res.StatusCode != 200 || !strings.HasSuffix(text, "data: {\"type\":\"message_stop\"}\n\n") {
			t.Fatalf("%d %s", res.StatusCode, text)
		}
	}
	if n := sim.Counters(); n.Answered != 3 || n.Connects != 1 {
		t.Errorf("%d answered over %d connections; want 3 over 1", n.Answered, n.Connects)
	}
	if got := finalUsage(t, b.Endpoint); got.Requests != 3 || got.OutputTokens == 0 {
		t.Errorf("usage %+v", got)
	}
}

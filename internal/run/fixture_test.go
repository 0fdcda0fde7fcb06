package run_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/store"
)

const leaseToken = "sk-ant-oat01-lease-fake0123456789abcdefghijklmnopqrstuvwxyz"

// fakeGateway opens endpoints that answer nothing.
type fakeGateway struct {
	refuse  error        // of Open
	refusal *run.Refusal // of the endpoints

	mu   sync.Mutex
	last run.GatewayRequest
	open int // endpoints that are open
}

func (g *fakeGateway) Open(_ context.Context, req run.GatewayRequest) (run.Endpoint, error) {
	if g.refuse != nil {
		return nil, g.refuse
	}
	l, err := net.Listen("unix", req.Socket)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = req
	g.open++
	return &fakeEndpoint{g: g, l: l}, nil
}

type fakeEndpoint struct {
	g    *fakeGateway
	l    net.Listener
	once sync.Once
}

func (e *fakeEndpoint) Token() secret.Text    { return secret.New(leaseToken) }
func (e *fakeEndpoint) Usage() hub.Usage      { return hub.Usage{Requests: 2, InputTokens: 10, Cost: 42} }
func (e *fakeEndpoint) Refusal() *run.Refusal { return e.g.refusal }
func (e *fakeEndpoint) Close() error {
	e.once.Do(func() {
		e.l.Close()
		e.g.mu.Lock()
		defer e.g.mu.Unlock()
		e.g.open--
	})
	return nil
}

// fixture is a hub directory with a runner on it.
type fixture struct {
	*run.Runner
	dir       string // the hub's
	workspace string
	store     *store.Store
	driver    *processDriver
	gateway   *fakeGateway
	ahead     atomic.Int64 // by how much its clock is, a time.Duration
}

// impatient is for tests of what does not end when it is asked to.
func impatient(c *run.Config) { c.Grace = 200 * time.Millisecond }

func newFixture(t testing.TB, change ...func(*run.Config)) *fixture {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hub")
	f := &fixture{dir: dir, workspace: t.TempDir(), driver: &processDriver{}, gateway: &fakeGateway{}}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.store, err = store.Create(t.Context(), filepath.Join(dir, "hub.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.store.Close() })
	cfg := run.Config{
		Dir: dir, Agent: os.Args[0], Store: f.store, Driver: f.driver, Gateway: f.gateway,
		Home: filepath.Join(t.TempDir(), "owner"), Grace: 30 * time.Second,
		Now: func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) },
	}
	for _, c := range change {
		c(&cfg)
	}
	if f.Runner, err = run.New(cfg); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) request(prompt string) run.Request {
	return run.Request{Profile: hub.Profile{ID: "p-1", Name: "default"}, Dir: f.workspace, Prompt: prompt}
}

// run runs the request, and checks what must hold after every run.
func (f *fixture) run(t *testing.T, req run.Request) (hub.Run, []string) {
	t.Helper()
	var lines []string
	r, err := f.Run(t.Context(), req, func(line []byte) { lines = append(lines, string(line)) })
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	f.checkAfter(t, r)
	return r, lines
}

func (f *fixture) checkAfter(t *testing.T, r hub.Run) {
	t.Helper()
	if f.driver.running() {
		t.Error("a sandbox is left")
	}
	if f.gateway.open != 0 {
		t.Errorf("%d leases are left", f.gateway.open)
	}
	stored, err := f.store.Run(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	r.Started, r.Ended = r.Started.Truncate(time.Microsecond), r.Ended.Truncate(time.Microsecond)
	if diff := cmp.Diff(r, stored); diff != "" {
		t.Errorf("what Run returned is not what is stored (-returned +stored):\n%s", diff)
	}
	if r.Verdict == "" || r.Ended.IsZero() {
		t.Errorf("the run has ended without a verdict: %+v", r)
	}
	entries, _ := os.ReadDir(filepath.Join(f.dir, "runs", string(r.ID)))
	var names []string
	for _, e := range entries {
		if e.Name() != "session" { // only the real CLI leaves one
			names = append(names, e.Name())
		}
		if info, _ := e.Info(); info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v; want it private", e.Name(), info.Mode())
		}
	}
	if diff := cmp.Diff([]string{"events.jsonl", "lock"}, names); diff != "" {
		t.Errorf("what is left in the run's directory (-want +got):\n%s", diff)
	}
}

// log returns the entries of a run's event log, each of which must be JSON.
func (f *fixture) log(t *testing.T, id hub.RunID) []string {
	t.Helper()
	var b bytes.Buffer
	if err := f.Log(id, &b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("in the log, and not JSON: %.200q", l)
		}
	}
	return lines
}

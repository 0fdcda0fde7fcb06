package run_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/store"
)

var errDisk = errors.New("no space left on the fake device")

// faultyStore fails at one call, before or after it has had its effect.
type faultyStore struct {
	*store.Store
	call  string
	after bool
}

func (s faultyStore) CreateRun(ctx context.Context, r hub.Run) error {
	return s.fail("create", func() error { return s.Store.CreateRun(ctx, r) })
}

func (s faultyStore) UpdateRun(ctx context.Context, r hub.Run) error {
	return s.fail("update", func() error { return s.Store.UpdateRun(ctx, r) })
}

func (s faultyStore) fail(call string, do func() error) error {
	if s.call != call {
		return do()
	}
	if s.after {
		if err := do(); err != nil {
			return err
		}
	}
	return errDisk
}

// Whatever fails, nothing is spent without a row, and in the end every row has a
// verdict.
func TestTheStoreFails(t *testing.T) {
	for _, c := range []struct {
		call       string
		after      bool
		spent      bool
		verdict    hub.Verdict // in the end; "" for no row
		reconciled int
	}{
		{"create", false, false, "", 0},
		{"create", true, false, hub.VerdictFailed, 1},
		{"update", false, true, hub.VerdictFailed, 1},
		{"update", true, true, hub.VerdictDone, 0},
	} {
		f := newFixture(t)
		r, err := run.New(run.Config{
			Dir: f.dir, Agent: os.Args[0], Store: faultyStore{f.store, c.call, c.after}, Driver: f.driver, Gateway: f.gateway, Home: t.TempDir(),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Run(t.Context(), f.request("succeed"), nil); !errors.Is(err, errDisk) {
			t.Errorf("%+v: Run: %v; want the store's error", c, err)
		}
		if spent := f.gateway.last.Run != ""; spent != c.spent {
			t.Errorf("%+v: a lease was opened: %v", c, spent)
		}
		if f.driver.running() || f.gateway.open != 0 {
			t.Errorf("%+v: a sandbox or a lease is left", c)
		}
		if n, err := f.Reconcile(t.Context()); n != c.reconciled || err != nil {
			t.Errorf("%+v: Reconcile = %d, %v; want %d", c, n, err, c.reconciled)
		}
		runs, err := f.store.Runs(t.Context(), store.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		var verdict hub.Verdict
		for _, r := range runs {
			verdict = r.Verdict
		}
		if verdict != c.verdict {
			t.Errorf("%+v: the verdict is %q", c, verdict)
		}
		homes, _ := filepath.Glob(filepath.Join(f.dir, "runs", "*", "home"))
		if len(homes) != 0 {
			t.Errorf("%+v: left %v", c, homes)
		}
	}
}

// panicGateway panics where the runner does not expect it.
type panicGateway struct{ *fakeGateway }

type panicEndpoint struct{ run.Endpoint }

func (g panicGateway) Open(ctx context.Context, req run.GatewayRequest) (run.Endpoint, error) {
	e, err := g.fakeGateway.Open(ctx, req)
	return panicEndpoint{e}, err
}

func (panicEndpoint) Refusal() *run.Refusal { panic("bug") }

// panicDriver's sandboxes panic when they are interrupted.
type panicDriver struct{ *processDriver }

type panicBox struct{ sandbox.Sandbox }

func (d panicDriver) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	box, err := d.processDriver.Start(ctx, spec)
	return panicBox{box}, err
}

func (panicBox) Interrupt() error { panic("bug") }

func TestAPanicLeavesNothing(t *testing.T) {
	for name, change := range map[string]func(*run.Config, *fakeGateway, *processDriver){
		"after the sandbox":  func(c *run.Config, g *fakeGateway, _ *processDriver) { c.Gateway = panicGateway{g} },
		"beside the sandbox": func(c *run.Config, _ *fakeGateway, d *processDriver) { c.Driver = panicDriver{d} },
	} {
		f := newFixture(t)
		cfg := run.Config{Dir: f.dir, Agent: os.Args[0], Store: f.store, Driver: f.driver, Gateway: f.gateway, Home: t.TempDir()}
		change(&cfg, f.gateway, f.driver)
		r, err := run.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if recover() != "bug" {
					t.Errorf("%s: the panic was swallowed", name)
				}
			}()
			ctx, cancel := context.WithCancel(t.Context())
			r.Run(ctx, f.request("linger"), func(line []byte) {
				if bytes.Contains(line, []byte("hanging")) {
					if name == "after the sandbox" {
						f.driver.killAll()
					} else {
						cancel()
					}
				}
			})
			cancel()
		}()
		if n, err := f.Reconcile(t.Context()); n != 1 || err != nil {
			t.Errorf("%s: Reconcile = %d, %v; want 1", name, n, err)
		}
		runs, err := f.store.Runs(t.Context(), store.Filter{})
		if err != nil || len(runs) != 1 {
			t.Fatalf("%s: %v, %v", name, runs, err)
		}
		f.checkAfter(t, runs[0])
	}
}

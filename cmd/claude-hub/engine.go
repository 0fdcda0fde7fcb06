package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/server"
	"github.com/claude-hub/claude-hub/internal/store"
)

// engine carries out runs and leases: this process, or the daemon if there is
// one.
type engine interface {
	server.Engine
	Close() error
}

// openEngine returns the daemon where one listens, and this process itself
// otherwise.
func (a *app) openEngine(ctx context.Context) (engine, error) {
	h, err := a.openHome()
	if err != nil {
		return nil, err
	}
	client, err := api.Dial(ctx, socketPath(h.dir))
	if err == nil {
		return remote{client}, nil
	}
	return a.newEngine(ctx, h, a.log())
}

// remote is the daemon, asked over its socket.
type remote struct{ *api.Client }

func (r remote) Lease(ctx context.Context, req api.LeaseRequest) (server.Lease, error) {
	return r.Client.Lease(ctx, req)
}

func (r remote) Close() error {
	r.Client.Close()
	return nil
}

// local carries out runs and leases in this process.
type local struct {
	home      *home
	refresher *refresh.Refresher
	gateway   *gateway.Gateway
	store     *store.Store
	runner    *run.Runner // nil if there is no claude CLI: leases work without
	noAgent   error       // why runner is nil
}

func (a *app) newEngine(ctx context.Context, h *home, log *slog.Logger) (*local, error) {
	refresher, err := a.newRefresher(h, log)
	if err != nil {
		return nil, err
	}
	gw, err := gateway.New(gateway.Config{Tokens: refresher, Log: log})
	if err != nil {
		return nil, err
	}
	runs, err := store.Open(ctx, storePath(h.dir))
	if err != nil {
		return nil, errors.Join(err, gw.Close())
	}
	e := &local{home: h, refresher: refresher, gateway: gw, store: runs}
	if e.runner, err = a.newRunner(ctx, e, log); err != nil {
		e.noAgent = err
	}
	return e, nil
}

func (a *app) newRefresher(h *home, log *slog.Logger) (*refresh.Refresher, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	return refresh.New(refresh.Config{
		Vault: h.vault, Dir: h.dir, Command: []string{self, refreshHelper}, Environ: a.environ, Log: log,
	})
}

func (a *app) newRunner(ctx context.Context, e *local, log *slog.Logger) (*run.Runner, error) {
	path, err := e.home.agentPath()
	if err != nil {
		return nil, err
	}
	if err := checkAgent(ctx, e.home.dir, path); err != nil {
		return nil, err
	}
	driver, err := bubblewrap.New(bubblewrap.Config{Log: log})
	if err != nil {
		return nil, err
	}
	runner, err := run.New(run.Config{
		Dir: e.home.dir, Agent: path, Store: e.store, Driver: driver, Gateway: leasing{e.gateway},
		Platform: platform{e.home.vault, e.refresher}, Environ: a.environ, Home: a.getenv("HOME"), Log: log,
	})
	if err != nil {
		return nil, err
	}
	_, err = runner.Reconcile(ctx)
	return runner, err
}

// Close ends every lease and waits for what is under way.
func (e *local) Close() error { return errors.Join(e.gateway.Close(), e.store.Close()) }

// Run carries out one run.
func (e *local) Run(ctx context.Context, req api.RunRequest, event func([]byte)) (hub.Run, error) {
	if e.runner == nil {
		return hub.Run{}, e.noAgent
	}
	profile, err := e.home.profile(ctx, string(req.Profile))
	if err != nil {
		return hub.Run{}, err
	}
	return e.runner.Run(ctx, run.Request{
		Profile: profile, Dir: req.Dir, Prompt: req.Prompt, Model: req.Model, Timeout: req.Timeout,
		Limits: req.Limits, Delivery: req.Delivery, AllowedTools: req.AllowedTools,
	}, event)
}

// Lease opens a gateway on loopback with a lease of its own.
func (e *local) Lease(ctx context.Context, req api.LeaseRequest) (server.Lease, error) {
	profile, err := e.home.profile(ctx, string(req.Profile))
	if err != nil {
		return nil, err
	}
	// Better an error now than one in the middle of the command's work.
	if _, _, err := e.refresher.AccessToken(ctx, profile.ID, 0); err != nil {
		return nil, err
	}
	return e.gateway.Open(ctx, gateway.Request{Run: hub.NewRunID(now()), Profile: profile.ID, Limits: req.Limits})
}

// Cancel tells a run of any process to end.
func (e *local) Cancel(ctx context.Context, id hub.RunID) error {
	return e.runner.Cancel(ctx, id)
}

// leasing is the gateway as a run sees it.
type leasing struct{ gateway *gateway.Gateway }

func (l leasing) Open(ctx context.Context, req run.GatewayRequest) (run.Endpoint, error) {
	e, err := l.gateway.Open(ctx, gateway.Request{Run: req.Run, Profile: req.Profile, Limits: req.Limits, Socket: req.Socket})
	if err != nil {
		return nil, err
	}
	return leased{e}, nil
}

type leased struct{ *gateway.Endpoint }

var verdicts = map[gateway.RefusalKind]hub.Verdict{
	gateway.RefusedLimit:         hub.VerdictRefused,
	gateway.RefusedParked:        hub.VerdictParked,
	gateway.RefusedLoginRequired: hub.VerdictLoginRequired,
}

func (l leased) Refusal() *run.Refusal {
	r := l.Endpoint.Refusal()
	if r == nil {
		return nil
	}
	return &run.Refusal{Verdict: verdicts[r.Kind], Reason: r.Reason, Until: r.Until}
}

// runBook is what the commands that look at runs need, without a refresher or a
// gateway.
type runBook struct {
	dir   string
	store *store.Store
}

func (a *app) openRuns(ctx context.Context) (*runBook, error) {
	h, err := a.openHome()
	if err != nil {
		return nil, err
	}
	s, err := store.Open(ctx, storePath(h.dir))
	if err != nil {
		return nil, err
	}
	return &runBook{dir: h.dir, store: s}, nil
}

func (b *runBook) Close() error { return b.store.Close() }

func (b *runBook) list(ctx context.Context, profile string, limit int, running bool) ([]hub.Run, error) {
	f := store.Filter{Limit: limit, Running: running}
	if profile != "" {
		name, err := hub.ParseProfileName(profile)
		if err != nil {
			return nil, err
		}
		f.Profile = name
	}
	return b.store.Runs(ctx, f)
}

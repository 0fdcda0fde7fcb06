package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/sandbox"
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
	if !errors.Is(err, hub.ErrNotFound) {
		return nil, err
	}
	refresher, err := a.newRefresher(h, a.log())
	if err != nil {
		return nil, err
	}
	e, err := a.newEngine(ctx, h, refresher, a.log())
	if err != nil {
		return nil, err
	}
	a.sweepLeft(ctx, h, a.log())
	return e, nil
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
	runner    *run.Runner
	noAgent   error // why the runner can't run, if it can't: leases work without a CLI

	// stopping, in a daemon, ends when it stops: its runs are parked then. Nil in a
	// command, whose runs are never parked.
	stopping context.Context
	wake     func() // has a person told of what is new; nil where nobody is
}

func (a *app) newEngine(ctx context.Context, h *home, refresher *refresh.Refresher, log *slog.Logger) (*local, error) {
	gw, err := gateway.New(gateway.Config{Tokens: refresher, Log: log})
	if err != nil {
		return nil, err
	}
	runs, err := store.Open(ctx, storePath(h.dir))
	if err != nil {
		return nil, errors.Join(err, gw.Close())
	}
	e := &local{home: h, refresher: refresher, gateway: gw, store: runs}
	cfg := run.Config{
		Dir: h.dir, Store: runs, Gateway: leasing{gw}, Platform: platform{h.vault, refresher},
		Environ: a.environ, Home: a.getenv("HOME"), Logins: logins{h.vault, refresher}, Log: log,
		Limits: sandbox.Limits{CPUs: h.config.CPUs},
	}
	if cfg.Agent, cfg.Driver, e.noAgent = a.sandboxParts(ctx, h, log); e.noAgent != nil {
		cfg.Agent, cfg.Driver = "", nil
	}
	if e.runner, err = run.New(cfg); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	closeInterrupted(ctx, e.runner, log)
	return e, nil
}

// sandboxParts returns the CLI, checked, and what to confine it with.
func (a *app) sandboxParts(ctx context.Context, h *home, log *slog.Logger) (string, sandbox.Driver, error) {
	path, err := h.agentPath()
	if err != nil {
		return "", nil, err
	}
	if err := checkAgent(ctx, h.dir, path); err != nil {
		return "", nil, err
	}
	c, err := a.chooseDriver(ctx, h, h.agentState(ctx).Version, false, log)
	if err == nil {
		err = c.err
	}
	if err != nil {
		return "", nil, err
	}
	for _, why := range c.missed {
		log.Info("a sandbox that was not taken", "why", why)
	}
	return path, c.driver, nil
}

func (a *app) newRefresher(h *home, log *slog.Logger) (*refresh.Refresher, error) {
	// This program as it runs, also when its file has been replaced since.
	return refresh.New(refresh.Config{
		Vault: h.vault, Dir: h.dir, Command: []string{"/proc/self/exe", refreshHelper}, Environ: a.environ, Log: log,
	})
}

// Close ends every lease and waits for what is under way.
func (e *local) Close() error { return errors.Join(e.gateway.Close(), e.store.Close()) }

// Run carries out one run.
func (e *local) Run(ctx context.Context, req api.RunRequest, event func([]byte)) (hub.Run, error) {
	if e.noAgent != nil {
		return hub.Run{}, e.noAgent
	}
	profile, err := e.home.signedIn(ctx, string(req.Profile))
	if err != nil {
		return hub.Run{}, err
	}
	status, err := e.refresher.Status(ctx, profile.ID)
	if err != nil {
		return hub.Run{}, err
	}
	asked, err := profile.Allow(hub.Demand{Delivery: req.Delivery, Model: req.Model, Limits: req.Limits, Timeout: req.Timeout})
	if err != nil {
		return hub.Run{}, err
	}
	ctx, done := e.untilStopping(ctx)
	defer done()
	return e.parked(e.runner.Run(ctx, run.Request{
		Park:    e.stopping != nil && !req.NoPark,
		Profile: profile, Dir: req.Dir, Prompt: req.Prompt, Model: asked.Model, Resume: req.Resume, Timeout: asked.Timeout,
		Limits: asked.Limits, Delivery: asked.Delivery, AllowedTools: req.AllowedTools,
		Plan: run.Plan{Subscription: status.Plan, RateLimitTier: status.RateLimitTier},
	}, event))
}

// defaultLifetime is that of a lease for which nobody says another.
const defaultLifetime = 24 * time.Hour

// Lease opens a gateway on loopback with a lease of its own.
func (e *local) Lease(ctx context.Context, req api.LeaseRequest) (server.Lease, error) {
	profile, err := e.home.signedIn(ctx, string(req.Profile))
	if err != nil {
		return nil, err
	}
	asked, err := profile.Allow(hub.Demand{Delivery: hub.DeliveryGateway, Limits: req.Limits, Timeout: req.Limits.Lifetime})
	if err != nil {
		return nil, err
	}
	asked.Limits.Lifetime = cmp.Or(asked.Timeout, defaultLifetime)
	// Better an error now than one in the middle of the command's work.
	if _, _, err := e.refresher.AccessToken(ctx, profile.ID, 0); err != nil {
		return nil, err
	}
	return e.gateway.Open(ctx, gateway.Request{
		Run: hub.NewRunID(now()), Profile: profile.ID, Limits: asked.Limits,
		Remote: true, // the holder is no sandbox: it has a network of its own
	})
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
	home   *home
	store  *store.Store
	runner *run.Runner
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
	r, err := run.New(run.Config{Dir: h.dir, Store: s})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	closeInterrupted(ctx, r, a.log())
	a.sweepLeft(ctx, h, a.log())
	return &runBook{h, s, r}, nil
}

// closeInterrupted takes care of runs whose process has died. One that can't be
// closed is told, and keeps nobody from working.
func closeInterrupted(ctx context.Context, r *run.Runner, log *slog.Logger) {
	if _, err := r.Reconcile(ctx); err != nil {
		log.Warn("what a killed run has left could not be removed", "err", err)
	}
}

func (b *runBook) Close() error { return b.store.Close() }

// list returns a profile's runs, also those under an earlier name of it; of a name
// that no profile has (any more), those that were under it.
func (b *runBook) list(ctx context.Context, profile string, limit int, running bool) ([]hub.Run, error) {
	f := store.Filter{Limit: limit, Running: running}
	if profile != "" {
		name, err := hub.ParseProfileName(profile)
		if err != nil {
			return nil, err
		}
		switch p, err := b.home.vault.Profile(ctx, name); {
		case err == nil:
			f.Of = p
		case errors.Is(err, hub.ErrNotFound):
			f.Profile = name
		default:
			return nil, err
		}
	}
	return b.store.Runs(ctx, f)
}

// logs calls event with each line of a run's log, and with those to come if
// follow is set.
func (b *runBook) logs(ctx context.Context, id hub.RunID, follow bool, event func([]byte)) error {
	r, w := io.Pipe()
	go func() {
		if follow {
			w.CloseWithError(b.runner.Follow(ctx, id, w))
		} else {
			w.CloseWithError(b.runner.Log(id, w))
		}
	}()
	defer r.Close() // ends the writer, whatever ends the reader
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), agent.MaxLine+1)
	for lines.Scan() {
		event(lines.Bytes())
	}
	return lines.Err()
}

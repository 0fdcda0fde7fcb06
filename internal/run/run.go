// Package run takes one run of the CLI from its request to its verdict.
//
// Guarantees:
//
//  1. The run is in the store before anything is spent, and gets exactly one
//     verdict; if this process dies first, [Runner.Reconcile] in any other one
//     gives it, or parks the run.
//  2. However the run ends (by itself, a limit, a cancel, a panic of the caller's
//     sink), its sandbox is gone, its lease revoked and its private home removed
//     when [Runner.Run] returns.
//  3. No token is in the store, the event log or what the sink is given.
//  4. A run that may be parked ([Request.Park]) survives the want of a login, a
//     used-up window and the end of its process: it has no verdict until a
//     [Resumer] has gone on with it, in the CLI's session where there is one. What
//     it did after the session was last saved may be done twice. The number of
//     attempts, of deaths of the process and of days is bounded.
//  5. What the CLI prints is bounded before it is kept, and garbage is an entry
//     in the log, not an error.
//
// Any number of processes may run at once on one hub directory: a run is alive
// as long as the kernel holds the lock on its directory, and is cancelled and
// followed through files there.
package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/store"
)

// Store keeps the records of runs. UpdateRun of a run that has its verdict is
// [hub.ErrConflict].
type Store interface {
	CreateRun(ctx context.Context, r hub.Run) error
	UpdateRun(ctx context.Context, r hub.Run) error
	Run(ctx context.Context, id hub.RunID) (hub.Run, error)
	Runs(ctx context.Context, f store.Filter) ([]hub.Run, error)
}

// Gateway gives runs their way to the platform.
type Gateway interface {
	// Open leases the profile to the run and serves that lease, alone, on a unix
	// socket that it makes. Its error may be, or wrap, a [*RefusedError].
	Open(ctx context.Context, req GatewayRequest) (Endpoint, error)
}

// GatewayRequest is what a run asks of the gateway.
type GatewayRequest struct {
	Run     hub.RunID
	Profile hub.ProfileID
	Limits  hub.Limits // Lifetime is always set
	Socket  string     // path of the socket to make; only this process can use it
}

// Endpoint is one run's lease, being served. Close revokes the lease and returns
// when no request is under way any more; it may be called twice, and the other
// methods also after it.
type Endpoint interface {
	Token() secret.Text
	Usage() hub.Usage
	Refusal() *Refusal // why the last request was refused; nil if it was not
	Close() error
}

// Refusal is the hub's own "no" to a run.
type Refusal struct {
	Verdict hub.Verdict // refused, parked or login-required
	Reason  string
	Until   time.Time // when parked
}

// RefusedError is a refusal as an error.
type RefusedError struct{ Refusal }

func (r *RefusedError) Error() string { return string(r.Verdict) + ": " + r.Reason }

// Config configures a [Runner]. Fields are required unless their comment says
// what zero means.
type Config struct {
	Dir   string // the hub's directory
	Store Store

	// Agent is the path of the claude CLI on this host. Without it, a driver or a
	// gateway, [Runner.Run] refuses, and everything else works.
	Agent   string
	Driver  sandbox.Driver
	Gateway Gateway

	// Logins is asked what parked runs wait for. Nil: they only wait for time to pass.
	Logins Logins

	// Platform serves [hub.DeliveryCopy]. Nil: such runs are refused.
	Platform Platform

	// Limits bounds each sandbox; its Time is not used, see [Request.Timeout].
	// Zero fields are the defaults of [DefaultLimits].
	Limits sandbox.Limits

	// Environ is the hub's environment: language and time zone are passed on,
	// and the files of extra certificate authorities. Nil is none.
	Environ []string

	// Home is the owner's home directory, which is refused as a workspace. "" is
	// that of the current user.
	Home string

	// Grace is how long an interrupted CLI may take to save its session. 0 is 5 s.
	Grace time.Duration

	// MaxLog bounds the event log of one run, in bytes. 0 is 256 MiB. What comes
	// after that is passed on, but not kept.
	MaxLog int64

	Log *slog.Logger     // nil discards
	Now func() time.Time // nil is time.Now
}

// DefaultLimits are generous: they stop what has gone wild, not what is big.
func DefaultLimits() sandbox.Limits {
	return sandbox.Limits{
		Memory:    4 << 30,
		Processes: 1024,
		Output:    512 << 20,
		FileSize:  8 << 30,
		MinFree:   256 << 20,
		Temp:      1 << 30,
	}
}

// Runner runs the CLI. It is safe for concurrent use and needs no closing.
type Runner struct {
	cfg Config
}

// New returns a runner on an existing hub directory.
func New(cfg Config) (*Runner, error) {
	if cfg.Store == nil {
		return nil, errors.New("run: a store is required")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the hub directory: %w", err)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, hub.Hint(fmt.Errorf("%w: hub directory %s", hub.ErrNotFound, dir), "make it with `claude-hub init`")
	}
	cfg.Dir = dir
	if cfg.Agent != "" {
		if cfg.Agent, err = filepath.Abs(cfg.Agent); err != nil {
			return nil, fmt.Errorf("finding the claude CLI: %w", err)
		}
	}
	if cfg.Home == "" {
		cfg.Home, _ = os.UserHomeDir() // a user without a home has none to protect
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Grace = cmp.Or(cfg.Grace, 5*time.Second)
	cfg.MaxLog = max(cmp.Or(cfg.MaxLog, 256<<20), 2*logReserve)
	cfg.Limits = withDefaults(cfg.Limits)
	return &Runner{cfg: cfg}, nil
}

func withDefaults(l sandbox.Limits) sandbox.Limits {
	d := DefaultLimits()
	return sandbox.Limits{
		Memory:    cmp.Or(l.Memory, d.Memory),
		CPUs:      l.CPUs,
		Processes: cmp.Or(l.Processes, d.Processes),
		Output:    cmp.Or(l.Output, d.Output),
		FileSize:  cmp.Or(l.FileSize, d.FileSize),
		MinFree:   cmp.Or(l.MinFree, d.MinFree),
		Temp:      cmp.Or(l.Temp, d.Temp),
	}
}

// Run runs the CLI once and returns the run with its verdict. Each event of the
// CLI's stream goes to sink, if there is one, as one line of JSON without its
// newline: in order, by one goroutine at a time, without tokens, never after Run
// has returned. A sink that blocks holds up the CLI, but neither the end of ctx
// nor the timeout. The end of ctx cancels the run.
//
// The error is nil whenever the run has a verdict in the store, whatever it is,
// or is parked, see [Request.Park].
// A request that is refused (hub.ErrInvalid and its like) leaves no run behind.
func (r *Runner) Run(ctx context.Context, req Request, sink func(line []byte)) (hub.Run, error) {
	asked := req
	req, err := r.check(req)
	if err != nil {
		return hub.Run{}, err
	}
	if err := ctx.Err(); err != nil {
		return hub.Run{}, fmt.Errorf("%w: %w", hub.ErrCancelled, err)
	}
	if err := r.findSession(ctx, &req); err != nil {
		return hub.Run{}, err
	}
	started := r.cfg.Now().UTC()
	record := hub.Run{
		ID: hub.NewRunID(started), Profile: req.Profile.Name, ProfileID: req.Profile.ID, Dir: req.Dir, Prompt: excerpt(req.Prompt, maxPrompt),
		Model: req.Model, Delivery: req.Delivery, Started: started,
		Attempts: 1,
	}
	// The lock is held before the row can be seen: a row without a verdict whose
	// lock is free belongs to nobody.
	dir, err := createDirectory(r.cfg.Dir, record.ID)
	if err != nil {
		return hub.Run{}, fmt.Errorf("making the run's directory: %w", err)
	}
	defer dir.close()
	asked.Dir = req.Dir
	mark := ""
	if req.Park {
		mark = r.markOf(ctx, req.Profile.ID)
		err = dir.keep(kept{Request: asked, Mark: mark})
	}
	if err == nil {
		err = r.cfg.Store.CreateRun(ctx, record)
	}
	if err != nil {
		os.RemoveAll(dir.path)
		return hub.Run{}, err
	}
	x := &execution{Runner: r, asked: asked, req: req, mark: mark, record: record, dir: dir, log: r.cfg.Log.With("run", record.ID)}
	return x.run(ctx, sink)
}

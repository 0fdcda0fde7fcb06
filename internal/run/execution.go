package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// Why a run is ended from outside, as causes of its context.
var (
	errTimedOut     = errors.New("the time is up")
	errCancelled    = errors.New("cancelled by the owner")
	errSinkPanicked = errors.New("the receiver of the run's events panicked")
)

// killPatience bounds the wait for a sandbox that was killed.
const killPatience = 15 * time.Second

// execution is one run under way. Its fields belong to the goroutine of Run.
type execution struct {
	*Runner
	asked     Request // as it came, and as it is kept
	req       Request // as it is carried out
	mark      string  // of the login when the attempt began
	record    hub.Run
	began     time.Time   // the attempt
	used      hub.Usage   // in the attempt
	cancelled atomic.Bool // somebody has cancelled it, also if it is too late for the CLI
	dir       *directory
	log       *slog.Logger
	events    *recorder
	stderr    tail
}

// run takes the run from its row in the store to its verdict. ctx is the owner's.
func (x *execution) run(ctx context.Context, f func([]byte)) (hub.Run, error) {
	closing := context.WithoutCancel(ctx) // for what must be done whatever happens
	x.began = x.cfg.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(x.req.Timeout, func() { cancel(errTimedOut) })
	defer timer.Stop()
	x.dir.listen(func() {
		x.cancelled.Store(true)
		cancel(errCancelled)
	})
	s := newSink(ctx, f, cancel)
	x.events = newRecorder(x.dir.events, s.send, x.cfg.MaxLog)
	defer func() { // all of it done already, unless this is a panic
		cancel(nil) // so that nobody waits for the sink
		_ = x.events.close()
		s.close(0)
	}()
	first := Note{Subtype: NoteStarted, Run: x.record.ID}
	if x.record.Attempts > 1 {
		first.Subtype, first.Text = NoteResumed, "it goes on"
	}
	x.events.note(first)
	e := x.execute(ctx)
	x.settle(closing, e)
	if err := keepSession(x.dir, x.record.AgentSession); err != nil {
		x.log.Warn("a run's session was not kept", "err", err)
	}
	if err := x.dir.clean(); err != nil {
		x.log.Error("a run's private files could not be removed", "dir", x.dir.path, "err", err)
	}
	err := x.cfg.Store.UpdateRun(closing, x.record)
	if p := x.record.Parked; p != nil {
		x.events.note(Note{Subtype: NoteParked, Run: x.record.ID, Text: p.Reason})
	} else {
		x.events.note(Note{Subtype: NoteVerdict, Run: x.record.ID, Verdict: x.record.Verdict, Text: x.record.Reason})
		if gone := x.dir.settled(); gone != nil {
			x.log.Warn("the request of a run that has ended could not be removed", "err", gone)
		}
	}
	if lost := x.events.close(); lost != nil {
		x.log.Warn("a run's event log is incomplete", "err", lost)
	}
	x.dir.closeControl() // from here on the run has ended for all who follow it
	if x.record.Parked != nil && x.cancelled.Load() {
		x.record, err = x.finish(closing, x.dir, x.record, hub.VerdictCancelled, errCancelled.Error())
	}
	if value := s.close(x.cfg.Grace); value != nil {
		panic(value)
	}
	return x.record, err
}

// execute runs the CLI. When it returns, also by a panic, the sandbox is gone
// and the lease revoked.
func (x *execution) execute(ctx context.Context) (e ending) {
	e.exit.Code = -1
	way, err := x.open(ctx)
	if err != nil {
		e.err, e.cause = err, context.Cause(ctx)
		return e
	}
	defer way.release()
	if err := x.checkPlace(context.WithoutCancel(ctx)); err != nil { // a cancel has its own way
		e.err, e.cause = err, context.Cause(ctx)
		return e
	}
	spec, err := x.spec(way)
	if err != nil {
		e.err = err
		return e
	}
	// The sandbox is ended by us, in our order, and not by the context.
	box, err := x.cfg.Driver.Start(context.WithoutCancel(ctx), spec)
	if err != nil {
		e.err = fmt.Errorf("starting the sandbox: %w", err)
		return e
	}
	noted := x.noteSpent(way.usage)
	defer noted()
	x.watch(ctx, box, way, &e)
	if err := way.close(); err != nil { // before usage is read: nothing is under way any more
		x.log.Warn("a run's way to the platform was not closed cleanly", "err", err)
	}
	e.refusal = way.refusal()
	e.usage = way.usage()
	return e
}

// watch returns when the sandbox has ended, by itself or because ctx has.
func (x *execution) watch(ctx context.Context, box sandbox.Sandbox, way *way, e *ending) {
	exited := make(chan struct{})
	var exit sandbox.Exit
	var err error
	go func() {
		defer close(exited)
		exit, err = box.Wait()
	}()
	defer func() { // of no effect, unless this is a panic
		box.Kill()
		within(exited, killPatience)
	}()
	select {
	case <-exited:
	case <-ctx.Done():
		e.cause = context.Cause(ctx)
		x.stop(box, way, exited)
	}
	select {
	case <-exited:
		e.exit, e.err = exit, err
	default:
		e.err = errors.New("the sandbox was killed and has not ended")
		x.log.Error("a sandbox was killed and has not ended", "driver", x.cfg.Driver.Name())
	}
}

// stop ends the sandbox: first so that the CLI saves its session, then by force.
// Nothing is spent from its first moment on.
func (x *execution) stop(box sandbox.Sandbox, way *way, exited <-chan struct{}) {
	go way.release() // whoever closes it next waits for this one
	if err := box.Interrupt(); err != nil {
		x.log.Warn("a sandbox was not interrupted", "err", err)
	} else if within(exited, x.cfg.Grace) {
		return
	}
	if err := box.Kill(); err != nil {
		x.log.Error("a sandbox was not killed", "err", err)
	}
	within(exited, killPatience)
}

// within reports whether done was closed before the time was over.
func within(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// spec describes the sandbox: the workspace, the CLI, and the way out.
func (x *execution) spec(w *way) (sandbox.Spec, error) {
	mounts, command, err := agentMounts(x.cfg.Agent)
	if err != nil {
		return sandbox.Spec{}, err
	}
	inside := sandbox.Inside(x.req.Dir)
	if contains(inside, optDir) || contains(optDir, inside) {
		inside = sandbox.Workspace
	}
	call := x.req.invocation()
	limits := x.cfg.Limits
	limits.Time = x.req.Timeout + 2*x.cfg.Grace + time.Minute // should we hang ourselves
	return sandbox.Spec{
		Name:    string(x.record.ID),
		Args:    append([]string{command}, call.Args()...),
		Env:     x.environ(w),
		Dir:     inside,
		Mounts:  append(append(mounts, w.mounts...), sandbox.Mount{Source: x.req.Dir, Target: inside, Writable: true}),
		Home:    x.dir.in(homeDir),
		Sockets: []sandbox.Socket{{Host: w.socket, Port: insidePort}},
		Limits:  limits,
		Stdin:   call.Stdin(),
		Stdout:  x.events,
		Stderr:  &x.stderr,
	}, nil
}

// settle writes what the ending means into the record.
func (x *execution) settle(ctx context.Context, e ending) {
	x.record.AgentSession = cmp.Or(x.events.finish(&e), x.record.AgentSession)
	e.stderr = x.stderr.String()
	if x.req.Delivery == hub.DeliveryCopy {
		e.usage = reported(e.result)
		e.refusal = x.platformRefusal(ctx, e.result)
	}
	x.used = e.usage
	x.record.ExitCode, x.record.Usage = e.exit.Code, sum(x.record.Usage, e.usage)
	if x.record.Parked = x.park(e); x.record.Parked == nil {
		x.record.Ended = x.cfg.Now().UTC()
		x.record.Verdict, x.record.Reason, x.record.Until = e.verdict()
	}
	if e.result != nil {
		x.record.Result = excerpt(e.result.Text, maxResult)
	}
	if x.record.Verdict != hub.VerdictDone && e.stderr != "" {
		x.events.note(Note{Subtype: NoteStderr, Text: e.stderr})
	}
}

// way is how a run's CLI reaches the platform.
type way struct {
	baseURL string // of the API, inside; "" is the platform's own
	env     map[string]string
	mounts  []sandbox.Mount
	socket  string // on the host
	usage   func() hub.Usage
	refusal func() *Refusal
	close   func() error // ends it; may be called at any time and often, and waits for the end
}

// release closes the way where its error was or will be told by another call.
func (w *way) release() { _ = w.close() }

// open makes the way that the request asks for, and the private home.
func (x *execution) open(ctx context.Context) (*way, error) {
	if err := os.MkdirAll(x.dir.in(configDir), 0o700); err != nil {
		return nil, fmt.Errorf("making the private home: %w", err)
	}
	open := x.openGateway
	if x.req.Delivery == hub.DeliveryCopy {
		open = x.openCopy
	}
	w, err := open(ctx)
	if err != nil {
		return nil, err
	}
	if err := x.restoreSession(); err != nil {
		w.release()
		return nil, err
	}
	return w, nil
}

// openGateway leases the profile and leaves the placeholder in the home.
func (x *execution) openGateway(ctx context.Context) (*way, error) {
	socket, err := x.dir.socket(gatewaySock)
	if err != nil {
		return nil, fmt.Errorf("making the gateway's socket: %w", err)
	}
	endpoint, err := x.cfg.Gateway.Open(ctx, GatewayRequest{
		Run: x.record.ID, Profile: x.req.Profile.ID, Limits: x.req.Limits, Socket: socket,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the gateway: %w", err)
	}
	like := agent.Credentials{Scopes: x.req.Plan.Scopes, Subscription: x.req.Plan.Subscription, RateLimitTier: x.req.Plan.RateLimitTier}
	// Past the run's end, so that the CLI never sees its login expire.
	until := x.began.Add(x.req.Timeout + 24*time.Hour)
	if err := x.writeHome(agent.Placeholder(endpoint.Token(), like, until)); err != nil {
		endpoint.Close()
		return nil, err
	}
	return &way{
		baseURL: insideURL,
		socket:  x.dir.in(gatewaySock),
		usage:   endpoint.Usage,
		refusal: endpoint.Refusal,
		close:   sync.OnceValue(endpoint.Close),
	}, nil
}

// Package supervise is what every driver does with a sandbox once its shim can
// speak: give it the order, carry its input and output, keep its limits, and
// notice its end. It guarantees for each [Process]:
//
//  1. Wait returns after the last process of the sandbox has ended, and after
//     all output has been written; a job can't hold it up by passing on its output.
//  2. The first reason for an end is the one that Exit names.
//  3. What the driver holds for the sandbox is released exactly once.
package supervise

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
)

// Config is one sandbox that is about to start.
type Config struct {
	Spec  sandbox.Spec
	Pipes *Pipes // owned by the process from now on
	// Grace is how long a command that was interrupted has until it is killed.
	Grace time.Duration
	// Interval is the time between two looks at disk, memory and processes.
	Interval time.Duration
	Log      *slog.Logger

	// Abort ends a sandbox whose PID 1 is not known yet. It is called any number
	// of times.
	Abort func()
	// Aborted is closed when such a sandbox is gone.
	Aborted <-chan struct{}
	// Autopsy reports whether memory was what ended a sandbox that ended badly, where
	// nothing else has told; it may take its time. Nil knows of nothing.
	Autopsy func() bool
	// Release gives back what the driver holds, after the last process.
	Release func()
}

// Process is one sandbox, and a sandbox.Sandbox once [Process.Supervise] was
// called.
type Process struct {
	cfg    Config
	spec   sandbox.Spec
	status *bufio.Reader
	killed func() bool // whether the kernel has killed for memory; nil if nobody knows
	procs  *os.File    // the shim's directory in /proc, when its processes are counted
	output atomic.Int64

	outputMu sync.Mutex // for a writer that takes both streams

	done chan struct{} // everything is gone; exit and err are set
	exit sandbox.Exit
	err  error

	mu     sync.Mutex
	init   int            // pidfd of PID 1 inside; -1 before and after
	reason sandbox.Reason // the first that was given
	timers []*time.Timer  // graces that run
	closed bool           // no more timers, no more control
}

// New returns a process that has not been spoken to.
func New(cfg Config) *Process {
	return &Process{cfg: cfg, spec: cfg.Spec, init: -1, done: make(chan struct{})}
}

// Adopt takes hold of the sandbox's PID 1 by its number on the host.
func (p *Process) Adopt(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("taking hold of the sandbox: %w", err)
	}
	p.mu.Lock()
	p.init = fd
	p.mu.Unlock()
	return nil
}

// Bound says that the kernel bounds memory and processes; killed reports whether
// it has killed for memory, and is asked every Interval and at the end.
func (p *Process) Bound(killed func() bool) { p.killed = killed }

// Count has memory and processes counted in the directory procs of PID 1 in
// /proc, instead of bounded by the kernel. It belongs to the process from now on.
func (p *Process) Count(procs *os.File) { p.procs = procs }

// Order returns what the shim is to do for spec. What depends on the driver, its
// sockets and its filter, is left out.
func Order(spec sandbox.Spec) boot.Order {
	order := boot.Order{Args: spec.Args, Env: spec.Env, Dir: spec.Dir, FileSize: spec.Limits.FileSize}
	window := spec.Window()
	order.Rows, order.Cols = window.Rows, window.Cols
	if order.Dir == "" {
		order.Dir = sandbox.Home
	}
	for _, s := range spec.Sockets {
		order.Forwards = append(order.Forwards, boot.Forward{Port: s.Port})
	}
	return order
}

// Command gives the shim its order and returns once the command runs. An error
// of a command that could not be started is a hub.ErrNotFound or says what the
// shim said; with another one, said is false: the shim has said nothing.
func (p *Process) Command(order boot.Order, deadline time.Time) (said bool, err error) {
	p.cfg.Pipes.Control.SetWriteDeadline(deadline)
	if err := shim.WriteOrder(p.cfg.Pipes.Control, order); err != nil {
		return false, err
	}
	p.cfg.Pipes.Control.SetWriteDeadline(time.Time{})
	p.cfg.Pipes.Status.SetReadDeadline(deadline)
	p.status = bufio.NewReaderSize(io.LimitReader(p.cfg.Pipes.Status, 1<<16), 4096)
	status, err := p.nextStatus()
	if err != nil {
		return false, err
	}
	p.cfg.Pipes.Status.SetReadDeadline(time.Time{})
	if status.Failed != nil {
		return true, startError(p.spec, status.Failed)
	}
	if !status.Started {
		return true, fmt.Errorf("the sandbox's shim began with %q", status)
	}
	return true, nil
}

// startError is why the shim could not start the command.
func startError(spec sandbox.Spec, f *boot.Failure) error {
	if f.Errno == unix.ENOENT || f.Errno == unix.ENOTDIR || f.Errno == unix.EACCES {
		return hub.Hint(fmt.Errorf("%w: in the sandbox: %s", hub.ErrNotFound, f.What),
			fmt.Sprintf("the command %q and the directory %q must lie in /usr or in one of the sandbox's mounts", spec.Args[0], spec.Dir))
	}
	return fmt.Errorf("in the sandbox: %s", f.What)
}

// nextStatus reads one line of the shim's.
func (p *Process) nextStatus() (boot.Status, error) {
	line, err := p.status.ReadSlice('\n')
	if err != nil {
		return boot.Status{}, err
	}
	return shim.ParseStatus(string(line))
}

// Wait returns how it ended, when all of it has.
func (p *Process) Wait() (sandbox.Exit, error) {
	<-p.done
	return p.exit, p.err
}

// Interrupt asks the shim to pass on a SIGTERM.
func (p *Process) Interrupt() error { return p.tell(boot.Interrupt) }

// Resize asks the shim to give the terminal another size.
func (p *Process) Resize(rows, cols uint16) error {
	if !p.spec.Terminal {
		return fmt.Errorf("%w: a sandbox without a terminal has no size", hub.ErrInvalid)
	}
	return p.tell(shim.ResizeMessage(rows, cols)...)
}

// tell sends a message to the shim.
func (p *Process) tell(message ...byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.cfg.Pipes.Control.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := p.cfg.Pipes.Control.Write(message)
	if errors.Is(err, syscall.EPIPE) { // the shim has ended
		return nil
	}
	return err
}

// Kill ends it now.
func (p *Process) Kill() error {
	p.End(sandbox.ReasonKilled)
	return nil
}

// End ends PID 1 inside, and the kernel all others with it.
func (p *Process) End(why sandbox.Reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.becauseLocked(why)
	if p.init >= 0 {
		unix.PidfdSendSignal(p.init, unix.SIGKILL, nil, 0)
	} else if !p.closed {
		p.cfg.Abort()
	}
}

func (p *Process) becauseLocked(why sandbox.Reason) {
	if p.reason == sandbox.ReasonNone && !p.closed {
		p.reason = why
	}
}

// expire interrupts the command and kills it after the grace.
func (p *Process) expire(why sandbox.Reason) {
	p.mu.Lock()
	p.becauseLocked(why)
	if !p.closed {
		p.timers = append(p.timers, time.AfterFunc(p.cfg.Grace, func() { p.End(why) }))
	}
	p.mu.Unlock()
	if err := p.Interrupt(); err != nil {
		p.cfg.Log.Warn("a sandbox cannot be interrupted and will be killed", "error", err)
	}
}

// Supervise sets the goroutines going that carry the output, keep the limits and
// notice the end. When ctx ends, the command is interrupted.
func (p *Process) Supervise(ctx context.Context) {
	stopContext := context.AfterFunc(ctx, func() { p.expire(sandbox.ReasonKilled) })
	if limit := p.spec.Limits.Time; limit > 0 {
		p.mu.Lock()
		p.timers = append(p.timers, time.AfterFunc(limit, func() { p.expire(sandbox.ReasonTime) }))
		p.mu.Unlock()
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(p.cfg.Pipes.Stdout, p.writer(p.spec.Stdout)) })
	pumps.Go(func() { p.pump(p.cfg.Pipes.Stderr, p.writer(p.spec.Stderr)) })
	if p.spec.Stdin != nil {
		go p.feed()
	}
	watch := p.watch()
	go func() {
		last, err := p.nextStatus()
		p.awaitEnd()
		p.cutOff()
		pumps.Wait()
		watch.stop()
		stopContext()
		p.finish(last, err)
		close(p.done)
	}()
}

// awaitEnd returns when no process of the sandbox is left. The kernel lets PID 1
// end after all others.
func (p *Process) awaitEnd() {
	p.mu.Lock()
	fd := p.init
	p.mu.Unlock()
	if fd < 0 {
		<-p.cfg.Aborted
		return
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Abandon ends a sandbox whose start has failed, and returns when it is gone.
func (p *Process) Abandon() {
	p.End(sandbox.ReasonKilled)
	p.awaitEnd()
	p.release()
}

// outOfMemory reports whether memory was what ended a sandbox, or a part of it.
func (p *Process) outOfMemory(failed bool) bool {
	if p.killed != nil && p.killed() {
		return true
	}
	p.mu.Lock()
	known := p.reason != sandbox.ReasonNone
	p.mu.Unlock()
	return failed && !known && p.cfg.Autopsy != nil && p.cfg.Autopsy()
}

// finish decides how the sandbox ended, once it has.
func (p *Process) finish(last boot.Status, err error) {
	if p.outOfMemory(last.Exited == nil || last.Exited.Code != 0) {
		p.mu.Lock()
		p.becauseLocked(sandbox.ReasonMemory)
		p.mu.Unlock()
	}
	p.release()
	p.exit.Reason = p.reason
	switch {
	case last.Exited != nil && last.Exited.Signal != 0:
		p.exit.Code, p.exit.Signal = -1, unix.SignalName(last.Exited.Signal)
		if last.Exited.Signal == unix.SIGXFSZ && p.reason == sandbox.ReasonNone {
			p.exit.Reason = sandbox.ReasonDisk
		}
	case last.Exited != nil:
		p.exit.Code = last.Exited.Code
	case p.reason != sandbox.ReasonNone:
		p.exit.Code, p.exit.Signal = -1, "SIGKILL"
	default:
		p.exit.Code, p.exit.Signal = -1, "SIGKILL"
		p.err = errors.Join(errors.New("the sandbox was ended by somebody else"), err)
	}
}

// release gives back what the sandbox held. After it, nothing sets a reason.
func (p *Process) release() {
	p.mu.Lock()
	p.closed = true
	for _, t := range p.timers {
		t.Stop()
	}
	if p.init >= 0 {
		unix.Close(p.init)
		p.init = -1
	}
	p.mu.Unlock()
	p.cfg.Pipes.Close()
	p.procs.Close()
	p.cfg.Release()
}

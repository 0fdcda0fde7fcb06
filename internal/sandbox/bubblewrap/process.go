package bubblewrap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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

// process is one sandbox. Start owns it until supervise is called.
type process struct {
	driver *Driver
	spec   sandbox.Spec
	pipes  *pipes
	bwrap  *os.Process
	status *bufio.Reader
	group  *group   // nil where there is none
	procs  *os.File // the shim's directory in /proc, when the driver counts
	output atomic.Int64

	outputMu sync.Mutex // for a writer that takes both streams

	ended chan struct{} // bubblewrap has ended
	done  chan struct{} // everything is gone; exit and err are set
	exit  sandbox.Exit
	err   error

	mu     sync.Mutex
	init   int            // pidfd of PID 1 inside; -1 before and after
	reason sandbox.Reason // the first that was given
	timers []*time.Timer  // graces that run
	closed bool           // no more timers, no more control
}

func newProcess(d *Driver, spec sandbox.Spec) *process {
	return &process{driver: d, spec: spec, init: -1, ended: make(chan struct{}), done: make(chan struct{})}
}

func (p *process) setInit(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.init = fd
}

// Wait returns how it ended, when all of it has.
func (p *process) Wait() (sandbox.Exit, error) {
	<-p.done
	return p.exit, p.err
}

// Interrupt asks the shim to pass on a SIGTERM.
func (p *process) Interrupt() error { return p.tell(boot.Interrupt) }

// Resize asks the shim to give the terminal another size.
func (p *process) Resize(rows, cols uint16) error {
	if !p.spec.Terminal {
		return fmt.Errorf("%w: a sandbox without a terminal has no size", hub.ErrInvalid)
	}
	return p.tell(shim.ResizeMessage(rows, cols)...)
}

// tell sends a message to the shim.
func (p *process) tell(message ...byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.pipes.control.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := p.pipes.control.Write(message)
	if errors.Is(err, syscall.EPIPE) { // the shim has ended
		return nil
	}
	return err
}

// Kill ends it now.
func (p *process) Kill() error {
	p.kill(sandbox.ReasonKilled)
	return nil
}

// kill ends PID 1 inside, and the kernel all others with it. Before PID 1 is
// known, there is only bubblewrap, which has a PID 1 that dies with it.
func (p *process) kill(why sandbox.Reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.becauseLocked(why)
	if p.init >= 0 {
		unix.PidfdSendSignal(p.init, unix.SIGKILL, nil, 0)
	} else if !p.closed && p.bwrap != nil {
		p.bwrap.Kill()
	}
}

func (p *process) becauseLocked(why sandbox.Reason) {
	if p.reason == sandbox.ReasonNone && !p.closed {
		p.reason = why
	}
}

// expire interrupts the command and kills it after the grace.
func (p *process) expire(why sandbox.Reason) {
	p.mu.Lock()
	p.becauseLocked(why)
	if !p.closed {
		p.timers = append(p.timers, time.AfterFunc(p.driver.grace, func() { p.kill(why) }))
	}
	p.mu.Unlock()
	if err := p.Interrupt(); err != nil {
		p.driver.log.Warn("a sandbox cannot be interrupted and will be killed", "error", err)
	}
}

// supervise sets the goroutines going that carry the output, keep the limits and
// notice the end.
func (p *process) supervise(ctx context.Context) {
	stopContext := context.AfterFunc(ctx, func() { p.expire(sandbox.ReasonKilled) })
	if limit := p.spec.Limits.Time; limit > 0 {
		p.mu.Lock()
		p.timers = append(p.timers, time.AfterFunc(limit, func() { p.expire(sandbox.ReasonTime) }))
		p.mu.Unlock()
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(p.pipes.stdout, p.writer(p.spec.Stdout)) })
	pumps.Go(func() { p.pump(p.pipes.stderr, p.writer(p.spec.Stderr)) })
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
// end after all others. Bubblewrap's own end, outside, says nothing new, and says
// it too early if somebody kills bubblewrap.
func (p *process) awaitEnd() {
	p.mu.Lock()
	fd := p.init
	p.mu.Unlock()
	if fd < 0 {
		<-p.ended
		return
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// abandon waits for the end of a sandbox whose start has failed.
func (p *process) abandon() {
	p.awaitEnd()
	p.release()
}

// finish decides how the sandbox ended, once it has.
func (p *process) finish(last boot.Status, err error) {
	if p.group != nil && p.group.outOfMemory() {
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
func (p *process) release() {
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
	p.pipes.close()
	p.procs.Close()
	p.group.remove()
}

// nextStatus reads one line of the shim's.
func (p *process) nextStatus() (boot.Status, error) {
	line, err := p.status.ReadSlice('\n')
	if err != nil {
		return boot.Status{}, err
	}
	return shim.ParseStatus(string(line))
}

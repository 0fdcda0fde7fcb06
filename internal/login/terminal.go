package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// program is a process of the CLI's, or a shell, on a terminal of its own. All
// that it starts ends with it, and with us. Its methods may be called by any
// goroutine, also after its end.
type program interface {
	// exited is closed when the processes are gone and all that they showed has
	// been written.
	exited() <-chan struct{}
	// failure says how it ended; nil if it exited with 0. Ask after exited.
	failure() error
	// enter types keys. It is an error after the end.
	enter(keys []byte) error
	// resize gives the terminal a new size.
	resize(size sandbox.Size)
	// end makes sure that it is gone, kindly at first.
	end()
}

// hostProgram is a process on this machine, the leader of a session and of a
// process group of its own: a Ctrl-C in the owner's terminal reaches us, and we
// decide what it means for the CLI. If we die, the kernel hangs up its terminal
// and it ends.
type hostProgram struct {
	cmd    *exec.Cmd
	master *os.File
	gone   chan struct{} // see exited
	err    error         // of Wait; read it after gone
}

const (
	endGrace   = 3 * time.Second // between SIGTERM and SIGKILL
	drainGrace = 2 * time.Second // for the last output of a process that is gone
)

// startProgram runs cmd on a terminal of the given size and copies all that it
// prints to output, until it is gone. end must be called.
func startProgram(cmd *exec.Cmd, size sandbox.Size, output io.Writer) (*hostProgram, error) {
	opened, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: size.Rows, Cols: size.Cols})
	if err != nil {
		return nil, hub.Hint(fmt.Errorf("starting the claude CLI: %w", err), "fetch the tested one with `claude-hub agent install`")
	}
	master, err := nonblocking(opened)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	p := &hostProgram{cmd: cmd, master: master, gone: make(chan struct{})}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		// Ends with EIO when the last process has closed the terminal.
		_, _ = io.Copy(output, master)
	}()
	go p.wait(drained)
	return p, nil
}

// nonblocking moves a terminal into the runtime's poller: package pty hands it
// out in blocking mode, in which Close does not end a Read.
func nonblocking(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// wait reaps the process. Its group is killed while the dead leader still keeps
// the group's number from being given to somebody else.
func (p *hostProgram) wait(drained <-chan struct{}) {
	var err error
	for {
		if err = unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.signal(syscall.SIGKILL)
	p.err = p.cmd.Wait()
	select {
	case <-drained:
	case <-time.After(drainGrace): // a process that left the group holds the terminal
	}
	p.master.Close()
	<-drained
	close(p.gone)
}

func (p *hostProgram) exited() <-chan struct{} { return p.gone }
func (p *hostProgram) failure() error          { return p.err }

// signal sends sig to the whole group.
func (p *hostProgram) signal(sig syscall.Signal) { syscall.Kill(-p.cmd.Process.Pid, sig) }

func (p *hostProgram) end() {
	if hasEnded(p) {
		return
	}
	p.signal(syscall.SIGTERM)
	kill := time.AfterFunc(endGrace, func() { p.signal(syscall.SIGKILL) })
	defer kill.Stop()
	<-p.gone
}

func hasEnded(p program) bool {
	select {
	case <-p.exited():
		return true
	default:
		return false
	}
}

func (p *hostProgram) enter(keys []byte) error {
	_, err := p.master.Write(keys)
	return err
}

// resize leaves it to the kernel to tell the process.
func (p *hostProgram) resize(size sandbox.Size) {
	onFile(p.master, func(fd int) { // one that is closed needs no size
		_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
}

// maxTail bounds what is kept of a program's last words.
const maxTail = 4 << 10

// transcript is what a sign-in printed: what it means, and its end.
type transcript struct {
	changed chan struct{} // holds one value if there is news

	mu     sync.Mutex // guards what follows
	signIn agent.SignIn
	last   []byte
}

func newTranscript() *transcript { return &transcript{changed: make(chan struct{}, 1)} }

// Write takes what the program printed. Both parts are bounded: a CLI that
// prints garbage for ever costs no more memory than one that hangs.
func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	_, _ = t.signIn.Write(b) // it never fails
	t.last = append(t.last, b...)
	if extra := len(t.last) - maxTail; extra > 0 {
		t.last = append(t.last[:0], t.last[extra:]...)
	}
	t.mu.Unlock()
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (t *transcript) link() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	link, _ := t.signIn.Link()
	return link
}

func (t *transcript) prompts() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.signIn.Prompts()
}

func (t *transcript) failure() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.signIn.Failure()
}

func (t *transcript) tail() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.last...)
}

// await waits until found holds of the transcript. It reports false if the
// program is gone before, and ctx's cause if that ends first.
func (t *transcript) await(ctx context.Context, p program, found func() bool) (bool, error) {
	for !found() {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-p.exited():
			return found(), nil
		case <-t.changed:
		}
	}
	return true, nil
}

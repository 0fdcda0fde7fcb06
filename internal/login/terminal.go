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
)

// program is a CLI process on a terminal of its own, the leader of a session and
// a process group of its own: a Ctrl-C in the owner's terminal reaches us, and
// we decide what it means for the CLI. If we die, the kernel hangs up its
// terminal and it ends.
type program struct {
	cmd    *exec.Cmd
	master *os.File
	exited chan struct{} // closed when the process is gone and its output is read
	err    error         // of Wait; read it after exited
}

const (
	endGrace   = 3 * time.Second // between SIGTERM and SIGKILL
	drainGrace = 2 * time.Second // for the last output of a process that is gone
)

// startProgram runs cmd on a terminal of the given size and copies all that it
// prints to output, until it is gone. end must be called.
func startProgram(cmd *exec.Cmd, size *pty.Winsize, output io.Writer) (*program, error) {
	opened, err := pty.StartWithSize(cmd, size)
	if err != nil {
		return nil, hub.Hint(fmt.Errorf("starting the claude CLI: %w", err), "fetch the tested one with `claude-hub agent install`")
	}
	master, err := nonblocking(opened)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	p := &program{cmd: cmd, master: master, exited: make(chan struct{})}
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
func (p *program) wait(drained <-chan struct{}) {
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
	close(p.exited)
}

// signal sends sig to the whole group.
func (p *program) signal(sig syscall.Signal) { syscall.Kill(-p.cmd.Process.Pid, sig) }

// end makes sure that the process and its group are gone, kindly at first.
func (p *program) end() {
	select {
	case <-p.exited:
		return
	default:
	}
	p.signal(syscall.SIGTERM)
	kill := time.AfterFunc(endGrace, func() { p.signal(syscall.SIGKILL) })
	defer kill.Stop()
	<-p.exited
}

// enter types text and the Enter key.
func (p *program) enter(text string) error {
	_, err := p.master.WriteString(text + "\r")
	return err
}

// resize gives the terminal a new size; the kernel tells the process. A process
// that is gone needs none.
func (p *program) resize(size *pty.Winsize) {
	onFile(p.master, func(fd int) {
		_ = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols, Xpixel: size.X, Ypixel: size.Y})
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
func (t *transcript) await(ctx context.Context, p *program, found func() bool) (bool, error) {
	for !found() {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-p.exited:
			return found(), nil
		case <-t.changed:
		}
	}
	return true, nil
}

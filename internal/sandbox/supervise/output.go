package supervise

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// writer returns where output goes. Both streams may go to one writer, which
// then must see one Write at a time.
func (p *Process) writer(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	if p.spec.Stdout != nil && p.spec.Stdout == p.spec.Stderr {
		return &lockedWriter{mu: &p.outputMu, w: w}
	}
	return w
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// pump carries output until its end, or until cutOff. What goes beyond the limit
// ends the sandbox and is thrown away, and so does a writer that fails.
func (p *Process) pump(from *os.File, to io.Writer) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		to = p.deliver(buf[:n], to)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.drain(from, to, buf)
			return
		}
		if err != nil {
			return
		}
	}
}

// deliver writes one part of the output, and returns what the next part is to be
// written to.
func (p *Process) deliver(part []byte, to io.Writer) io.Writer {
	limit := p.spec.Limits.Output
	if total := p.output.Add(int64(len(part))); limit > 0 && total > limit {
		part = part[:max(0, int64(len(part))-(total-limit))]
		p.End(sandbox.ReasonOutput)
	}
	if len(part) == 0 || to == nil {
		return to
	}
	if _, err := to.Write(part); err != nil {
		p.End(sandbox.ReasonKilled)
		return nil
	}
	return to
}

// maxPipe is more than a pipe of an ordinary user can hold.
const maxPipe = 1 << 20

// drain delivers what a pipe holds when all of its sandbox's processes are gone.
// Its end need not come: a job can have passed its output on to a process that
// lives on, through a socket in a shared workspace.
func (p *Process) drain(from *os.File, to io.Writer, buf []byte) {
	conn, err := from.SyscallConn()
	if err != nil {
		return
	}
	for total := 0; total < maxPipe; {
		n := 0
		if err := conn.Control(func(fd uintptr) { n, err = unix.Read(int(fd), buf) }); n <= 0 || err != nil {
			return
		}
		to = p.deliver(buf[:n], to)
		total += n
	}
}

// cutOff ends the pumps once they have delivered what is there.
func (p *Process) cutOff() {
	for _, f := range []*os.File{p.cfg.Pipes.Stdout, p.cfg.Pipes.Stderr} {
		if err := f.SetReadDeadline(time.Now()); err != nil {
			p.cfg.Log.Warn("a sandbox's output can't be cut off", "error", err)
		}
	}
}

// feed carries the input. It ends with the input or, at the next Read's return,
// with the sandbox.
func (p *Process) feed() {
	_, _ = io.Copy(p.cfg.Pipes.Stdin, p.spec.Stdin) // a job need not read its input
	p.cfg.Pipes.Stdin.Close()
}

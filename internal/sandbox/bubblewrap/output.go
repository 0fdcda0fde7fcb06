package bubblewrap

import (
	"io"
	"os"
	"sync"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// writer returns where output goes. Both streams may go to one writer, which
// then must see one Write at a time.
func (p *process) writer(w io.Writer) io.Writer {
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

// pump carries output until its end. What goes beyond the limit ends the sandbox
// and is thrown away, and so does a writer that fails.
func (p *process) pump(from *os.File, to io.Writer) {
	buf := make([]byte, 32<<10)
	limit := p.spec.Limits.Output
	for {
		n, err := from.Read(buf)
		part := buf[:n]
		if total := p.output.Add(int64(n)); limit > 0 && total > limit {
			part = part[:max(0, int64(n)-(total-limit))]
			p.kill(sandbox.ReasonOutput)
		}
		if len(part) > 0 && to != nil {
			if _, werr := to.Write(part); werr != nil {
				p.kill(sandbox.ReasonKilled)
				to = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// feed carries the input. It ends with the input or, at the next Read's return,
// with the sandbox.
func (p *process) feed() {
	_, _ = io.Copy(p.pipes.stdin, p.spec.Stdin) // a job need not read its input
	p.pipes.stdin.Close()
}

package shim

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
)

// terminal carries the shim's standard input to the command's terminal, and what
// that shows to the standard output.
type terminal struct {
	outer *os.File
	shown chan struct{} // closed when the screen has been carried
}

func newTerminal(fd int) *terminal {
	t := &terminal{outer: os.NewFile(uintptr(fd), "terminal"), shown: make(chan struct{})}
	go t.typed()
	go t.show()
	return t
}

// typed passes on what is typed. The end of the input is typed too, as the
// character that means it: a program in raw mode sees a Ctrl-D.
func (t *terminal) typed() {
	w := &lastByte{w: t.outer, last: '\n'}
	if _, err := io.Copy(w, onlyReader{os.Stdin}); err != nil {
		return // the terminal is gone
	}
	end := []byte{t.endCharacter()}
	if w.last != '\n' && w.last != '\r' {
		end = append(end, end[0]) // the first ends the line, which has begun
	}
	_, _ = t.outer.Write(end) // a command that is gone reads nothing
}

// onlyReader keeps io.Copy from asking the kernel to splice, which a terminal
// can't.
type onlyReader struct{ io.Reader }

// lastByte remembers the last byte that was written.
type lastByte struct {
	w    io.Writer
	last byte
}

func (l *lastByte) Write(b []byte) (int, error) {
	if len(b) > 0 {
		l.last = b[len(b)-1]
	}
	return l.w.Write(b)
}

// endCharacter returns what ends the input on this terminal now.
func (t *terminal) endCharacter() byte {
	const usual = 4
	end := byte(usual)
	t.control(func(fd int) {
		if modes, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil && modes.Cc[unix.VEOF] != 0 {
			end = modes.Cc[unix.VEOF]
		}
	})
	return end
}

// show carries the screen until finish.
func (t *terminal) show() {
	defer close(t.shown)
	buf := make([]byte, 32<<10)
	for {
		n, err := t.outer.Read(buf)
		if n > 0 {
			if _, err := os.Stdout.Write(buf[:n]); err != nil {
				return
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.rest(buf)
		}
		if err != nil {
			return
		}
	}
}

// maxScreen is more than a terminal can hold.
const maxScreen = 1 << 20

// rest carries what the terminal holds when every process is gone. The kernel
// finishes what is under way between the two ends before it says that there is
// nothing.
func (t *terminal) rest(buf []byte) {
	for total := 0; total < maxScreen; {
		n := 0
		t.control(func(fd int) { n, _ = unix.Read(fd, buf) })
		if n <= 0 {
			return
		}
		if _, err := os.Stdout.Write(buf[:n]); err != nil {
			return
		}
		total += n
	}
}

// finish ends what the command has left behind, and returns when all that was
// shown has been carried.
func (t *terminal) finish() {
	_ = syscall.Kill(-1, syscall.SIGKILL) // all but the shim; none is fine
	_ = t.outer.SetReadDeadline(time.Now())
	<-t.shown
}

func (t *terminal) resize(rows, cols uint16) {
	t.control(func(fd int) { _ = boot.SetWindow(fd, rows, cols) }) // one that is gone needs none
}

func (t *terminal) control(use func(fd int)) {
	if raw, err := t.outer.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { use(int(fd)) })
	}
}

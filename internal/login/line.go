package login

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// maxLine bounds what is taken for one pasted line. Codes and tokens have a few
// hundred bytes.
const maxLine = 8 << 10

// lines reads lines from a terminal, a pipe or a plain file. Unlike a
// bufio.Scanner it gives up when its context ends, and leaves no goroutine
// behind that would swallow what is typed next.
type lines struct {
	f    *os.File
	rest []byte // read, but behind the last line that was returned
}

// next returns the next line without its end. The last line may lack one; after
// it comes io.EOF. A carriage return ends a line too: a terminal in raw mode
// sends nothing else.
func (l *lines) next(ctx context.Context) ([]byte, error) {
	for {
		if i := bytes.IndexAny(l.rest, "\r\n"); i >= 0 {
			line := l.rest[:i]
			l.rest = bytes.TrimPrefix(l.rest[i:], []byte("\r"))
			l.rest = bytes.TrimPrefix(l.rest, []byte("\n"))
			return line, nil
		}
		if len(l.rest) > maxLine {
			return nil, fmt.Errorf("%w: a line of more than %d bytes", hub.ErrTooLarge, maxLine)
		}
		buf := make([]byte, maxLine)
		n, err := readSome(ctx, l.f, buf)
		if errors.Is(err, io.EOF) && len(l.rest) > 0 {
			line := l.rest
			l.rest = nil
			return line, nil
		}
		if err != nil {
			return nil, err
		}
		l.rest = append(l.rest, buf[:n]...)
	}
}

// pasteGap is the longest pause within one paste, in milliseconds.
const pasteGap = 50

// waiting reports whether there is more to read at once.
func (l *lines) waiting() bool {
	if len(l.rest) > 0 {
		return true
	}
	n := 0
	onFile(l.f, func(fd int) {
		n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, pasteGap)
	})
	return n > 0
}

// readSome reads once, as soon as f has something to give, and returns ctx's
// cause if that ends first. It does not change f's blocking mode: f is often a
// terminal that other processes have open.
func readSome(ctx context.Context, f *os.File, buf []byte) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	woken, wake, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer woken.Close()
	stop := context.AfterFunc(ctx, func() { wake.Close() })
	defer func() {
		if stop() {
			wake.Close()
		}
	}()
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var readErr error
	err = raw.Control(func(fd uintptr) {
		n, readErr = pollAndRead(int(fd), int(woken.Fd()), buf)
	})
	if err = errors.Join(err, readErr); err != nil {
		return 0, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	if ctx.Err() != nil && n < 0 {
		return 0, context.Cause(ctx)
	}
	if n <= 0 {
		return 0, io.EOF
	}
	return n, nil
}

// pollAndRead waits until fd can be read or the other end of woken is closed; n
// is -1 in the latter case.
func pollAndRead(fd, woken int, buf []byte) (n int, err error) {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(woken), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
		if fds[1].Revents != 0 {
			return -1, nil
		}
		if fds[0].Revents == 0 {
			continue
		}
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return max(n, 0), err
	}
}

// echoOff keeps a terminal from showing what is typed, until restore. Anything
// else is left as it is. It fails if f is a terminal that goes on showing it.
func echoOff(f *os.File) (restore func(), err error) {
	var old *unix.Termios
	onFile(f, func(fd int) {
		if old, _ = unix.IoctlGetTermios(fd, unix.TCGETS); old == nil {
			return // not a terminal
		}
		quiet := *old
		quiet.Lflag &^= unix.ECHO
		quiet.Lflag |= unix.ICANON | unix.ISIG | unix.ECHONL
		err = unix.IoctlSetTermios(fd, unix.TCSETS, &quiet)
	})
	if err != nil {
		return nil, fmt.Errorf("hiding what is typed: %w", err)
	}
	return func() {
		if old != nil {
			// A terminal that is gone by now needs no settings.
			onFile(f, func(fd int) { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) })
		}
	}, nil
}

package login

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// TerminalUI talks to an owner at a terminal, or to a program at the other end
// of a pipe: then each line of it is one code. Don't copy
// it after the first use.
type TerminalUI struct {
	In  *os.File  // where the code is pasted; nil means that no code can come
	Out io.Writer // where the link is shown; the QR code only on a terminal
	// Quiet leaves out the steps.
	Quiet bool

	lines lines // of In
}

// ShowURL prints the link, as a hyperlink and a QR code where that helps.
func (u *TerminalUI) ShowURL(url string) {
	showURL(u.Out, url)
}

// Progress prints the step; the prompt for the code speaks for itself.
func (u *TerminalUI) Progress(step string) { showStep(u.Out, step, u.Quiet || step == StepCode) }

func showStep(w io.Writer, step string, quiet bool) {
	if !quiet {
		fmt.Fprintf(w, "… %s\n", step)
	}
}

// Code reads one line. On a terminal, lines that come at once behind it are a part
// of the same paste: a narrow window has broken the code.
func (u *TerminalUI) Code(ctx context.Context) (secret.Text, error) {
	if u.In == nil {
		return secret.Text{}, noCode(io.EOF)
	}
	fmt.Fprint(u.Out, "Paste the code that the page shows, and press Enter: ")
	u.lines.f = u.In
	line, err := u.lines.next(ctx)
	if err != nil {
		fmt.Fprintln(u.Out) // nobody has ended the prompt's line
		return secret.Text{}, noCode(err)
	}
	text := string(line)
	for isTerminal(u.In) && len(text) <= maxLine && u.lines.waiting() {
		if line, err = u.lines.next(ctx); err != nil {
			break // the first line may be all that was meant
		}
		text += string(line)
	}
	return secret.New(text), nil
}

// Trouble prints the message.
func (u *TerminalUI) Trouble(message string) { fmt.Fprintf(u.Out, "\n%s.\n\n", message) }

// noCode says what it means that there is nothing to read any more.
func noCode(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return hub.Hint(fmt.Errorf("%w: the input ended before a code came", hub.ErrCancelled), "without a terminal, hand the code over with `claude-hub login --code-file FILE`")
	case errors.Is(err, unix.EIO):
		return fmt.Errorf("%w: the terminal was closed (%w)", hub.ErrCancelled, err)
	}
	return err
}

// FileUI waits for a file that somebody else writes the code into. It is for
// machines on which nobody has a terminal.
type FileUI struct {
	Path string    // may be missing at first; mode 0600 recommended
	Out  io.Writer // where the link is shown
	// Quiet leaves out the steps.
	Quiet bool

	taken []byte // what was there when it was read last
}

// fileUIPoll is how often FileUI looks.
const fileUIPoll = 100 * time.Millisecond

// ShowURL prints the link.
func (u *FileUI) ShowURL(url string) {
	showURL(u.Out, url)
	fmt.Fprintf(u.Out, "Then write the code that the page shows into %s.\n", u.Path)
}

// Progress prints the step.
func (u *FileUI) Progress(step string) { showStep(u.Out, step, u.Quiet) }

// Code waits until the file has a content that was not taken before, and that
// has stayed the same from one look to the next: its writer may be slow.
func (u *FileUI) Code(ctx context.Context) (secret.Text, error) {
	tick := time.NewTicker(fileUIPoll)
	defer tick.Stop()
	var last []byte
	for {
		content, mode, err := readCode(u.Path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return secret.Text{}, fmt.Errorf("reading the code file: %w", err)
		}
		if len(content) > 0 && bytes.Equal(content, last) && !bytes.Equal(content, u.taken) {
			u.taken = content
			if mode.Perm()&0o077 != 0 {
				fmt.Fprintf(u.Out, "%s can be read by other users of this machine; give it mode 0600.\n", u.Path)
			}
			return secret.New(string(content)), nil
		}
		last = content
		select {
		case <-ctx.Done():
			return secret.Text{}, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// Trouble prints the message. The next code is one that differs from the last.
func (u *FileUI) Trouble(message string) {
	fmt.Fprintf(u.Out, "%s.\nWrite the new code into %s.\n", message, u.Path)
}

// readCode reads a small file, without its outer white space. Content that is
// empty or not there yet is nil.
func readCode(path string) ([]byte, os.FileMode, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a fifo must not hang us
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, hub.Hint(fmt.Errorf("%w: %s is not a regular file", hub.ErrInvalid, path), "a pipe goes to standard input instead")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxLine+1))
	if err != nil {
		return nil, 0, err
	}
	if len(b) > maxLine {
		return nil, 0, fmt.Errorf("%w: %s has more than %d bytes", hub.ErrTooLarge, path, maxLine)
	}
	return bytes.TrimSpace(b), info.Mode(), nil
}

// showURL prints a link that a person can click, copy or scan.
func showURL(w io.Writer, url string) {
	fmt.Fprint(w, "Open this link in a browser, sign in, and approve:\n\n")
	if !isTerminal(w) {
		fmt.Fprintf(w, "%s\n\n", url)
		return
	}
	fmt.Fprintf(w, "\x1b]8;;%s\x1b\\%s\x1b]8;;\x1b\\\n\n", url, url)
	showQR(w, url)
}

// showQR draws the code if all of it is seen at once: half a code is noise. A
// narrow window gets a narrower border.
func showQR(w io.Writer, url string) {
	var width, height int
	onFile(w, func(fd int) { width, height, _ = term.GetSize(fd) })
	for quiet := quietZone; quiet > 0; quiet-- {
		drawn, columns, rows := drawQR(url, quiet)
		if drawn != "" && columns <= width && rows < height {
			fmt.Fprintf(w, "Or scan it:\n\n%s\n", drawn)
			return
		}
	}
	if _, columns, rows := drawQR(url, quietZone); columns > 0 {
		fmt.Fprintf(w, "(In a window of %d by %d there would be a QR code here.)\n\n", columns, rows+1)
	}
}

// onFile runs use on the file descriptor of v, if v is an open file.
func onFile(v any, use func(fd int)) {
	f, ok := v.(*os.File)
	if !ok || f == nil {
		return
	}
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { use(int(fd)) }) // a closed file is no terminal
	}
}

func isTerminal(v any) bool {
	is := false
	onFile(v, func(fd int) { is = term.IsTerminal(fd) })
	return is
}

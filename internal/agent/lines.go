package agent

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// MaxLine is the most that one event may have, in bytes without the newline. A
// tool result with a large file is a few MiB.
const MaxLine = 16 << 20

// keepLine is the buffer that stays between lines; a larger one is given back.
const keepLine = 1 << 20

// Lines reads lines of any length in bounded memory. It is for one goroutine.
type Lines struct {
	r    *bufio.Reader
	max  int
	line []byte
}

// NewLines returns a reader of lines of at most max bytes; 0 means MaxLine.
func NewLines(r io.Reader, max int) *Lines {
	if max <= 0 {
		max = MaxLine
	}
	return &Lines{r: bufio.NewReaderSize(r, 64<<10), max: max}
}

// Next returns the next line without its newline; it is valid until the next
// call. A line that is too long is skipped to its end and reported as
// hub.ErrTooLarge; the call after it goes on with the next line. The end is
// io.EOF; a last line without a newline is a line. Other errors are the
// reader's, after what came before them was returned.
func (l *Lines) Next() ([]byte, error) {
	if cap(l.line) > keepLine {
		l.line = nil
	}
	l.line = l.line[:0]
	size := 0
	for {
		part, err := l.r.ReadSlice('\n')
		size += len(part)
		if len(l.line)+len(part) <= l.max+1 { // the newline is not counted
			l.line = append(l.line, part...)
		}
		if err == nil {
			size--
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if size == 0 {
				return nil, err
			}
			break // the error comes again with the next call
		}
	}
	if size > l.max {
		return nil, fmt.Errorf("%w: a line of %d bytes, more than %d", hub.ErrTooLarge, size, l.max)
	}
	return bytes.TrimSuffix(l.line, []byte("\n")), nil
}

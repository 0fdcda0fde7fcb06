package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Sizes of the buffers that heads and bodies are read with.
const (
	smallInput = 4 << 10 // all that a stream holds while nothing comes
	largeInput = 32 << 10
)

var smallInputs = sync.Pool{New: func() any { b := make([]byte, smallInput); return &b }}

// input is what has come on a connection and was not taken yet. It is for one
// goroutine.
type input struct {
	c      io.Reader
	buffer *[]byte // nil while nothing is held
	r, w   int     // what is held is between them
}

func (in *input) held() []byte {
	if in.buffer == nil {
		return nil
	}
	return (*in.buffer)[in.r:in.w]
}

func (in *input) take(n int) { in.r += n }

// shed gives the buffer back if nothing is in it.
func (in *input) shed() {
	if in.buffer == nil || in.r < in.w {
		return
	}
	if len(*in.buffer) == smallInput {
		smallInputs.Put(in.buffer)
	}
	in.buffer, in.r, in.w = nil, 0, 0
}

// drop gives the buffer back whatever is in it.
func (in *input) drop() {
	in.r = in.w
	in.shed()
}

// fill reads once, behind what is held. The buffer grows up to limit.
func (in *input) fill(limit int) error {
	in.room(limit)
	if in.w == len(*in.buffer) {
		return ErrLongHead
	}
	n, err := in.c.Read((*in.buffer)[in.w:])
	in.w += n
	if n > 0 {
		return nil // an error comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// room makes room behind what is held, if limit allows.
func (in *input) room(limit int) {
	switch {
	case in.buffer == nil:
		in.buffer = smallInputs.Get().(*[]byte)
	case in.r == in.w:
		in.r, in.w = 0, 0
	case in.w < len(*in.buffer):
	case in.r > 0:
		in.w = copy(*in.buffer, (*in.buffer)[in.r:in.w])
		in.r = 0
	case 2*len(*in.buffer) <= limit:
		in.enlarge(2 * len(*in.buffer))
	}
}

func (in *input) enlarge(size int) {
	if in.buffer != nil && len(*in.buffer) >= size {
		return
	}
	b := make([]byte, size)
	n := copy(b, in.held())
	in.drop()
	in.buffer, in.w = &b, n
}

// ErrLongHead means a head that is longer than is taken.
var ErrLongHead = errors.New("the header is too long")

var errBareLF = errors.New("a line does not end with CR LF")

// head reads up to the empty line that ends a head and returns all of it, which
// is good until the next call of any method but take. It does not wait for the
// end of a head that is wrong already. Begun, if not nil, is called when a part
// has come and the rest is still to come.
func (in *input) head(limit int, begun func() error) ([]byte, error) {
	line, scanned := 0, 0 // offsets from in.r
	for {
		held := in.held()
		for scanned < len(held) {
			i := bytes.IndexByte(held[scanned:], '\n')
			if i < 0 {
				scanned = len(held)
				break
			}
			end := scanned + i
			if end == 0 || held[end-1] != '\r' {
				return nil, errBareLF
			}
			scanned = end + 1
			if end-1 == line {
				in.take(scanned)
				return held[:scanned], nil
			}
			line = scanned
		}
		if len(held) > 0 && begun != nil {
			if err := begun(); err != nil {
				return nil, err
			}
			begun = nil
		}
		if err := in.fill(limit); err != nil {
			if len(held) > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// readFull reads into p what is held, then from the connection itself.
func (in *input) readFull(p []byte) error {
	n := copy(p, in.held())
	in.take(n)
	if n == len(p) {
		return nil
	}
	_, err := io.ReadFull(in.c, p[n:])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// line reads a short line that ends with CR LF and returns it without them.
func (in *input) line() ([]byte, error) {
	const longest = 256
	for {
		held := in.held()
		if i := bytes.IndexByte(held, '\n'); i >= 0 {
			if i == 0 || held[i-1] != '\r' {
				return nil, errBareLF
			}
			in.take(i + 1)
			return held[:i-1], nil
		}
		if len(held) > longest {
			return nil, fmt.Errorf("%w: a chunk's line", ErrLongHead)
		}
		if err := in.fill(smallInput); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

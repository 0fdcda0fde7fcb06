package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// framing reads a body out of an input: so many bytes, chunks, or up to the end.
type framing struct {
	in      *input
	chunked bool
	left    int64 // of the body or the chunk; less than 0: up to the end
	started bool  // a chunk has begun: its end is to be read
	strict  bool  // no chunk extensions, no trailers
	err     error
}

var errChunk = errors.New("malformed chunk")

// next returns the next bytes of the body, as many as are there. They are good
// until the next call. It waits only if there are none.
func (f *framing) next() ([]byte, error) {
	if f.err == nil && f.chunked && f.left == 0 {
		f.err = f.chunk()
	}
	if f.err == nil && !f.chunked && f.left == 0 {
		f.err = io.EOF
	}
	if f.err != nil {
		return nil, f.err
	}
	if len(f.in.held()) == 0 {
		if err := f.in.fill(largeInput); err != nil {
			f.err = err
			if errors.Is(err, io.EOF) && f.left > 0 {
				f.err = io.ErrUnexpectedEOF
			}
			return nil, f.err
		}
	}
	p := f.in.held()
	if f.left >= 0 {
		p = p[:min(int64(len(p)), f.left)]
		f.left -= int64(len(p))
	}
	f.in.take(len(p))
	return p, nil
}

// ready reports whether next would not wait.
func (f *framing) ready() bool {
	held := f.in.held()
	switch {
	case f.err != nil || len(held) == 0:
		return f.err != nil
	case !f.chunked || f.left > 0:
		return true
	}
	// The end of the last chunk, the beginning of the next one, and a byte of it.
	if f.started {
		if len(held) < 2 {
			return false
		}
		held = held[2:]
	}
	i := bytes.IndexByte(held, '\n')
	return i >= 0 && len(held) > i+1
}

// chunk reads up to the data of the next chunk. It returns io.EOF behind the last
// one.
func (f *framing) chunk() error {
	if f.started {
		if line, err := f.in.line(); err != nil || len(line) > 0 {
			return errors.Join(errChunk, err)
		}
	}
	f.started = true
	line, err := f.in.line()
	if err != nil {
		return err
	}
	if size, extension, ok := bytes.Cut(line, []byte{';'}); ok {
		if f.strict {
			return fmt.Errorf("%w: it has an extension", errChunk)
		}
		line = bytes.TrimRight(size, " \t")
		_ = extension
	}
	if f.left, err = hex(line); err != nil {
		return err
	}
	if f.left > 0 {
		return nil
	}
	return f.trailers()
}

// trailers reads what stands between the last chunk and the end of the message.
func (f *framing) trailers() error {
	for range 32 {
		line, err := f.in.line()
		switch {
		case err != nil:
			return err
		case len(line) == 0:
			return io.EOF
		case f.strict:
			return fmt.Errorf("%w: there are trailers", errChunk)
		}
	}
	return fmt.Errorf("%w: too many trailers", errChunk)
}

func hex(b []byte) (int64, error) {
	if len(b) == 0 || len(b) > 15 {
		return 0, fmt.Errorf("%w: its size is %q", errChunk, b)
	}
	var n int64
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | int64(c-'a'+10)
		case c >= 'A' && c <= 'F':
			n = n<<4 | int64(c-'A'+10)
		default:
			return 0, fmt.Errorf("%w: its size is %q", errChunk, b)
		}
	}
	return n, nil
}

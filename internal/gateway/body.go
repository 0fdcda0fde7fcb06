package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// maxBody is what the API itself takes as a request.
const maxBody = 32 << 20

// buffers are pools by size, from 4 KiB to 4 MiB in powers of two. Larger ones
// are left to the collector.
var buffers [11]sync.Pool

const smallestBuffer = 12 // log2

// newBuffer returns a buffer of at least n bytes.
func newBuffer(n int) *[]byte {
	class := max(bits.Len(uint(max(n, 1)-1)), smallestBuffer) - smallestBuffer
	if class >= len(buffers) {
		b := make([]byte, n)
		return &b
	}
	if b, ok := buffers[class].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 1<<(class+smallestBuffer))
	return &b
}

func freeBuffer(b *[]byte) {
	n := cap(*b)
	class := bits.Len(uint(n)) - 1 - smallestBuffer
	if class >= 0 && class < len(buffers) && n == 1<<(class+smallestBuffer) {
		*b = (*b)[:n]
		buffers[class].Put(b)
	}
}

// body is a request's body in memory. It is shared by the handler and by
// attempts to send it, which may go on after the answer has begun; the last to
// let go of it frees it.
type body struct {
	buffer *[]byte
	n      int
	users  atomic.Int32
	free   func()
}

func (b *body) bytes() []byte { return (*b.buffer)[:b.n] }

func (b *body) release() {
	if b.users.Add(-1) == 0 {
		freeBuffer(b.buffer)
		b.free()
	}
}

// open returns a reader of the whole body for one attempt.
func (b *body) open() io.ReadCloser {
	b.users.Add(1)
	a := &attempt{body: b}
	a.Reset(b.bytes())
	return a
}

type attempt struct {
	bytes.Reader
	body   *body
	closed atomic.Bool
}

// Bytes lets the wire client send the body without a copy.
func (a *attempt) Bytes() []byte { return a.body.bytes() }

func (a *attempt) Close() error {
	if !a.closed.Swap(true) {
		a.body.release()
	}
	return nil
}

// readBody takes the whole body into memory: bounded in size, in time and, over
// all requests of the endpoint, in sum.
func (e *Endpoint) readBody(w http.ResponseWriter, r *http.Request) (*body, *fault) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, &fault{415, "invalid_request_error", "claude-hub: an encoded request body is not taken", Refusal{}}
	}
	if r.ContentLength > maxBody {
		return nil, tooLarge()
	}
	hold := r.ContentLength
	if hold < 0 {
		hold = maxBody
	}
	if err := e.bodies.Acquire(r.Context(), hold); err != nil {
		return nil, unavailable("claude-hub: the request ended while it waited for memory")
	}
	b := &body{free: func() { e.bodies.Release(hold) }}
	b.users.Store(1)
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return nil, unavailable("claude-hub: the connection is gone")
	}
	err := b.fill(r.Body, r.ContentLength)
	// A deadline that stayed would cut the answer: the server reads on, to see the
	// client leave.
	err = errors.Join(err, rc.SetReadDeadline(time.Time{}))
	if err != nil {
		b.release()
		if errors.Is(err, errTooLarge) {
			return nil, tooLarge()
		}
		return nil, badRequest("claude-hub: the request's body did not come whole")
	}
	return b, nil
}

var errTooLarge = errors.New("body too large")

func tooLarge() *fault {
	return &fault{413, "request_too_large", fmt.Sprintf("claude-hub: a request may have %d MB", maxBody>>20), Refusal{}}
}

// fill reads r to its end; length is -1 if it is not known.
func (b *body) fill(r io.Reader, length int64) error {
	if length >= 0 {
		b.buffer, b.n = newBuffer(int(length)), int(length)
		if _, err := io.ReadFull(r, b.bytes()); err != nil {
			return err
		}
		var one [1]byte // reach the end, so that the server sees it too
		if n, err := r.Read(one[:]); n > 0 || !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the body's end: %w", err)
		}
		return nil
	}
	b.buffer = newBuffer(1 << smallestBuffer)
	for {
		n, err := r.Read((*b.buffer)[b.n:])
		b.n += n
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case b.n > maxBody:
			return errTooLarge
		case b.n == len(*b.buffer):
			grown := newBuffer(2 * b.n)
			copy(*grown, b.bytes())
			freeBuffer(b.buffer)
			b.buffer = grown
		}
	}
}

package gateway

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
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

// freeBuffer takes back what newBuffer gave, also if append has replaced it.
func freeBuffer(b *[]byte) {
	n := cap(*b)
	class := bits.Len(uint(n)) - 1 - smallestBuffer
	if class >= 0 && class < len(buffers) && n == 1<<(class+smallestBuffer) {
		*b = (*b)[:n]
		buffers[class].Put(b)
	}
}

// body is a request's body in memory. It is shared by the handler and by what
// sends it, which may go on after the answer has begun; the last to let go of it
// frees it.
type body struct {
	buffer *[]byte
	n      int
	users  atomic.Int32
	free   func()
}

func (b *body) bytes() []byte { return (*b.buffer)[:b.n] }

func (b *body) hold() { b.users.Add(1) }

func (b *body) release() {
	if b.users.Add(-1) == 0 {
		freeBuffer(b.buffer)
		b.free()
	}
}

// readBody takes the whole body into memory: bounded in size, in time and, over
// all requests of the endpoint, in sum.
func (e *Endpoint) readBody(c *wire.Conn, length int64) (*body, *fault) {
	if length > maxBody {
		return nil, tooLarge()
	}
	hold := length
	if hold < 0 {
		hold = maxBody
	}
	if err := e.bodies.Acquire(c.Context(), hold); err != nil {
		return nil, unavailable("the request ended while it waited for memory")
	}
	b := &body{free: func() { e.bodies.Release(hold) }}
	b.users.Store(1)
	n, err := c.ReadBody(maxBody, func(used, n int) []byte {
		grown := newBuffer(n)
		if b.buffer != nil {
			copy(*grown, (*b.buffer)[:used])
			freeBuffer(b.buffer)
		}
		b.buffer = grown
		return *grown
	})
	if err == nil {
		b.n = n
		return b, nil
	}
	if b.buffer == nil {
		b.buffer = newBuffer(0)
	}
	b.release()
	if errors.Is(err, wire.ErrBodyTooLarge) {
		return nil, tooLarge()
	}
	return nil, badRequest("the request's body did not come whole")
}

func tooLarge() *fault {
	return &fault{413, "request_too_large", fmt.Sprintf("a request may have %d MB", maxBody>>20), Refusal{}}
}

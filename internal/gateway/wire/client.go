package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Client sends requests to one server, the only one that its dial function
// reaches. It may be used concurrently.
type Client struct {
	dial func(context.Context) (net.Conn, error)

	mu     sync.Mutex
	idle   []*peer     // the longest unused first
	reaper *time.Timer // nil while none is idle
	closed bool
}

// Bounds of a client.
const (
	maxIdle       = 256
	idleFor       = 90 * time.Second
	trustedFor    = time.Second // an idle connection is used without a look at it
	maxAnswerHead = 256 << 10
	inline        = 32 << 10 // a shorter request is written at once
)

// NewClient returns a client whose connections are made by dial.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client { return &Client{dial: dial} }

// Close closes the connections that no request is using, and each other one when
// its request is over. It may be called more than once.
func (c *Client) Close() {
	c.mu.Lock()
	idle := c.idle
	c.idle, c.closed = nil, true
	if c.reaper != nil {
		c.reaper.Stop()
	}
	c.mu.Unlock()
	for _, p := range idle {
		p.close()
	}
}

// peer is a connection to the server.
type peer struct {
	c      net.Conn
	raw    net.Conn // below TLS; closing it does not wait for a goodbye to be sent
	in     input
	fd     int
	since  time.Time // when it was last used
	fields []Field
}

func (p *peer) close() {
	p.raw.Close()
	p.in.drop()
}

// get returns a connection, and whether it was used before.
func (c *Client) get(ctx context.Context, fresh bool) (*peer, bool, error) {
	for !fresh {
		p := c.pop()
		if p == nil {
			break
		}
		unused := time.Since(p.since)
		if unused < trustedFor || unused < idleFor && silent(p.fd) {
			return p, true, nil
		}
		p.close()
	}
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	raw := nc
	if t, ok := nc.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	return &peer{c: nc, raw: raw, in: input{c: nc}, fd: descriptor(raw)}, false, nil
}

func (c *Client) pop() *peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.idle)
	if n == 0 {
		return nil
	}
	p := c.idle[n-1]
	c.idle = c.idle[:n-1]
	return p
}

// put keeps p for the next request.
func (c *Client) put(p *peer) {
	p.since = time.Now()
	p.in.shed()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= maxIdle {
		p.close()
		return
	}
	c.idle = append(c.idle, p)
	if c.reaper == nil {
		c.reaper = time.AfterFunc(idleFor, c.reap)
	}
}

// reap closes what has not been used for long.
func (c *Client) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reaper = nil
	n := 0
	for n < len(c.idle) && time.Since(c.idle[n].since) >= idleFor {
		c.idle[n].close()
		n++
	}
	c.idle = slices.Delete(c.idle, 0, n)
	if len(c.idle) > 0 && !c.closed {
		c.reaper = time.AfterFunc(idleFor-time.Since(c.idle[0].since), c.reap)
	}
}

// Parcel is a request as it is written: its head with the empty line, and its
// body.
type Parcel struct {
	Head, Body []byte
	// Done, if not nil, is called once, when neither is used any longer. That may
	// be after Do has returned: a server may answer before it has read all.
	Done func()

	mu    sync.Mutex
	users int
}

func (p *Parcel) hold() {
	p.mu.Lock()
	p.users++
	p.mu.Unlock()
}

func (p *Parcel) release() {
	p.mu.Lock()
	p.users--
	over := p.users == 0
	p.mu.Unlock()
	if over && p.Done != nil {
		p.Done()
	}
}

// ErrNotSent means that no connection could be made.
var ErrNotSent = errors.New("no connection")

// Do sends a parcel and returns the answer, whose Close must be called. A parcel
// that met a connection which the server had closed meanwhile, so that not a byte
// came back, is sent once more on a fresh one.
func (c *Client) Do(ctx context.Context, p *Parcel) (*Reader, error) {
	p.hold()
	defer p.release()
	r, err := c.try(ctx, p, false)
	if errors.Is(err, errStale) && ctx.Err() == nil {
		r, err = c.try(ctx, p, true)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return r, err
}

// errStale means that a used connection ended without a byte of an answer.
var errStale = errors.New("the connection was closed meanwhile")

func (c *Client) try(ctx context.Context, p *Parcel, fresh bool) (*Reader, error) {
	k, used, err := c.get(ctx, fresh)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	r := &Reader{client: c, peer: k}
	r.unwatch = context.AfterFunc(ctx, func() { k.raw.Close() })
	r.sent = p.send(k.c)
	if err := r.receive(); err != nil {
		r.drop()
		if r.sent != nil {
			<-r.sent
		}
		if used && errors.Is(err, errNoAnswer) {
			return nil, fmt.Errorf("%w: %w", errStale, err)
		}
		return nil, err
	}
	return r, nil
}

// send writes the parcel. A long one is written by a goroutine of its own, since
// the server may answer, and stop reading, in the middle; the channel is closed
// when that is over. A failure shows when the answer is read.
func (p *Parcel) send(c net.Conn) chan struct{} {
	b := net.Buffers{p.Head, p.Body}
	if len(p.Body) <= inline {
		_, _ = b.WriteTo(c)
		return nil
	}
	p.hold()
	sent := make(chan struct{})
	go func() {
		defer p.release()
		defer close(sent)
		_, _ = b.WriteTo(c)
	}()
	return sent
}

// Reader is an answer: its head, and its body as it comes. It is for one
// goroutine.
type Reader struct {
	Answer // its fields are good until the first call of Next

	client  *Client
	peer    *peer
	unwatch func() bool   // ends the watch on the request's context
	sent    chan struct{} // nil: the request is written
	body    framing
	over    bool // the connection has been dealt with
}

// errNoAnswer means that the connection ended before a byte had come.
var errNoAnswer = errors.New("no answer")

func (r *Reader) receive() error {
	p := r.peer
	for room := maxAnswerHead; room > 0; {
		head, err := p.in.head(maxAnswerHead, nil)
		if err != nil {
			if len(p.in.held()) == 0 && room == maxAnswerHead {
				return fmt.Errorf("%w: %w", errNoAnswer, err)
			}
			return err
		}
		room -= len(head)
		if r.Answer, err = ParseAnswer(head, false, p.fields); err != nil {
			return err
		}
		p.fields = r.Fields
		switch {
		case r.Status == 101:
			return errors.New("the server switched to another protocol")
		case r.Status >= 200:
			r.body = framing{in: &p.in, chunked: r.Length == -1, left: max(r.Length, 0)}
			if r.Length == -2 {
				r.body.left = -1
			}
			return nil
		}
	}
	return ErrLongHead
}

// Next returns the next bytes of the body, as many as have come, and waits only
// if none have. They are good until the next call. It ends with io.EOF.
func (r *Reader) Next() ([]byte, error) {
	if r.Length > smallInput && !r.over {
		r.peer.in.enlarge(largeInput)
	}
	b, err := r.body.next()
	if err != nil && !r.over {
		r.finish(errors.Is(err, io.EOF))
	}
	return b, err
}

// Ready reports whether Next would not wait.
func (r *Reader) Ready() bool { return r.body.ready() }

// Close leaves the answer. What is not read of it costs the connection.
func (r *Reader) Close() {
	if !r.over && r.Length == 0 {
		r.finish(true)
	}
	if !r.over {
		r.drop()
	}
}

// finish keeps the connection if the answer was read to its end, and the request
// was sent to its own.
func (r *Reader) finish(whole bool) {
	if r.sent != nil {
		select {
		case <-r.sent:
		default:
			whole = false
		}
	}
	if !whole || r.Answer.Close || len(r.peer.in.held()) > 0 || !r.unwatch() {
		r.drop()
		return
	}
	r.over = true
	r.client.put(r.peer)
}

func (r *Reader) drop() {
	r.over = true
	r.unwatch()
	r.peer.close()
}

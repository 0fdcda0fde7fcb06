package wire

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Server reads requests from a listener's connections and hands them to a
// handler, one after the other on each connection.
type Server struct {
	// Handle answers a request. The request is good until Handle returns, its
	// fields until the body is read.
	Handle func(*Conn, *Request)
	// Refuse answers what is no request; the connection ends with it.
	Refuse func(*Conn, error)
	// Panicked is told of a handler's panic. Its connection is cut.
	Panicked func(any)
	// Watcher notices clients that leave.
	Watcher *Watcher
	// MaxConns bounds the connections; further ones wait to be accepted.
	MaxConns int
	// Timeouts bound what a client may take. Zero ones mean the usual.
	Timeouts Timeouts

	ctx     context.Context // of all connections, until Close
	cancel  context.CancelCauseFunc
	slots   chan struct{}
	crowded atomic.Bool   // somebody waits for a slot
	closing chan struct{} // closed by Close

	mu      sync.Mutex
	closed  bool
	conns   map[*Conn]struct{}
	serving sync.WaitGroup // the accepting loop and the connections; Add under mu, while not closed
	listen  net.Listener
}

// Timeouts are how long a client may take. None of them touches an answer, which
// may last as long as it likes.
type Timeouts struct {
	Idle time.Duration // between requests; zero means 5 minutes
	Head time.Duration // for a head that has begun; zero means 10 seconds
	Body time.Duration // for a body that has not come with its head; zero means a minute
}

// Bounds of a connection.
const (
	maxHead     = 64 << 10
	lingerBytes = 1 << 20
	lingerFor   = time.Second
	spareFor    = 400 * time.Millisecond // when others wait, an idle connection is kept so long
)

// Start serves the connections of l until Close.
func (s *Server) Start(l net.Listener) {
	s.ctx, s.cancel = context.WithCancelCause(context.Background()) // the server's own life
	s.listen, s.conns = l, make(map[*Conn]struct{})
	s.slots, s.closing = make(chan struct{}, s.MaxConns), make(chan struct{})
	s.Timeouts.Idle = cmp.Or(s.Timeouts.Idle, 5*time.Minute)
	s.Timeouts.Head = cmp.Or(s.Timeouts.Head, 10*time.Second)
	s.Timeouts.Body = cmp.Or(s.Timeouts.Body, time.Minute)
	s.serving.Add(1)
	go s.accept()
}

// Cancel ends the contexts of all requests under way, and refuses no new ones.
func (s *Server) Cancel(cause error) { s.cancel(cause) }

// Close closes the listener, cuts every connection and waits for their handlers.
// It may be called more than once.
func (s *Server) Close() error {
	s.mu.Lock()
	var err error
	if !s.closed {
		s.closed = true
		close(s.closing)
		s.cancel(net.ErrClosed)
		err = s.listen.Close()
		for c := range s.conns {
			c.raw.Close()
		}
	}
	s.mu.Unlock()
	s.serving.Wait()
	return err
}

func (s *Server) accept() {
	defer s.serving.Done()
	for pause := time.Duration(0); ; {
		nc, err := s.listen.Accept()
		if err == nil {
			pause = 0
			s.admit(nc)
			continue
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second) // out of descriptors, as a rule
		select {
		case <-time.After(pause):
		case <-s.closing:
			return
		}
	}
}

// admit starts a connection as soon as there is a slot for it. Until then those
// that end a request end altogether, and those that have nothing to do are cut.
func (s *Server) admit(nc net.Conn) {
	select {
	case s.slots <- struct{}{}:
		s.start(nc)
		return
	default:
	}
	s.crowded.Store(true)
	defer s.crowded.Store(false)
	tick := time.NewTicker(spareFor / 4)
	defer tick.Stop()
	for {
		select {
		case s.slots <- struct{}{}:
			s.start(nc)
			return
		case <-s.closing:
			nc.Close()
			return
		case <-tick.C:
			s.cutIdle()
		}
	}
}

// cutIdle closes connections that have had nothing to do for a while.
func (s *Server) cutIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		since := c.idle.Load()
		if since > 0 && time.Since(time.Unix(0, since)) > spareFor && c.idle.CompareAndSwap(since, cut) {
			c.raw.Close()
		}
	}
}

func (s *Server) start(nc net.Conn) {
	c := &Conn{server: s, raw: nc, in: input{c: nc}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.serving.Add(1)
	go c.serve()
}

// Conn is a client's connection, for the one request on it that is under way.
type Conn struct {
	server *Server
	raw    net.Conn
	in     input
	ctx    context.Context // until the client leaves; for one connection's life
	cancel context.CancelCauseFunc
	fields []Field
	watch  watched
	idle   atomic.Int64 // since when, in Unix nanoseconds; 0: busy; cut: closed for others to come in

	request Request
	body    int64 // what of the request's body is not read yet; see Request.Length
	answer  state
	last    bool // the connection ends with this answer, and the client knows
}

// state is how far an answer has got.
type state uint8

const (
	unanswered state = iota
	answering
	answered
)

// cut marks a connection that was closed while it was idle.
const cut = -1

var errGone = errors.New("the client has left")

// Context ends when the client leaves or the server is closed.
func (c *Conn) Context() context.Context { return c.ctx }

func (c *Conn) serve() {
	s := c.server
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	defer func() {
		if p := recover(); p != nil && s.Panicked != nil {
			s.Panicked(p)
		}
		s.Watcher.remove(&c.watch)
		c.cancel(errGone)
		c.raw.Close()
		c.in.drop()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		<-s.slots
		s.serving.Done()
	}()
	c.watch = watched{fd: descriptor(c.raw), at: -1, gone: func() {
		c.cancel(errGone)
		c.raw.Close()
	}}
	for c.one() {
		c.in.shed()
	}
}

// one serves one request and reports whether there may be another.
func (c *Conn) one() bool {
	s := c.server
	c.answer, c.body = unanswered, 0
	now := time.Now()
	if c.raw.SetReadDeadline(now.Add(s.Timeouts.Idle)) != nil {
		return false
	}
	c.idle.Store(now.UnixNano())
	head, err := c.in.head(maxHead, func() error { return c.raw.SetReadDeadline(time.Now().Add(s.Timeouts.Head)) })
	if c.idle.Swap(0) == cut {
		return false
	}
	if err == nil {
		c.request, err = ParseRequest(head, c.fields)
	}
	if err != nil {
		if !quiet(err) {
			c.request = Request{Close: true}
			s.Refuse(c, err)
			c.linger()
		}
		return false
	}
	c.fields, c.body = c.request.Fields, c.request.Length
	if c.watch.fd >= 0 {
		s.Watcher.add(&c.watch)
	}
	s.Handle(c, &c.request)
	s.Watcher.remove(&c.watch)
	if c.answer == answered && c.last && (c.body != 0 || len(c.in.held()) > 0) {
		c.linger()
	}
	return c.answer == answered && !c.last && c.ctx.Err() == nil
}

// quiet reports whether err is a client that went away between requests, or one
// that can't be answered.
func quiet(err error) bool {
	var ne net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &ne)
}

// linger lets the client read the answer before the connection is cut: what it
// has sent and nobody reads would make the kernel drop the answer.
func (c *Conn) linger() {
	if w, ok := c.raw.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // or the client has left
	}
	if c.raw.SetReadDeadline(time.Now().Add(lingerFor)) == nil {
		io.CopyN(io.Discard, c.raw, lingerBytes)
	}
}

// Errors of ReadBody.
var (
	ErrBodyTooLarge = errors.New("the body is too large")
	ErrBodyBroken   = errors.New("the body did not come whole")
)

// ReadBody reads the request's body. Buffer returns a buffer of at least n bytes,
// with the first used ones of the previous one; n is the body's length, or a
// guess that grows. It returns the body's length. The request's fields are not
// good any longer.
func (c *Conn) ReadBody(limit int64, buffer func(used, n int) []byte) (int, error) {
	length := c.body
	if length > limit {
		return 0, ErrBodyTooLarge
	}
	if c.request.Continue && length != 0 && len(c.in.held()) == 0 {
		if _, err := io.WriteString(c.raw, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return 0, errors.Join(ErrBodyBroken, err)
		}
	}
	if length < 0 || int64(len(c.in.held())) < length {
		if err := c.raw.SetReadDeadline(time.Now().Add(c.server.Timeouts.Body)); err != nil {
			return 0, errors.Join(ErrBodyBroken, err)
		}
	}
	if length < 0 {
		return c.readChunks(limit, buffer)
	}
	if err := c.in.readFull(buffer(0, int(length))[:length]); err != nil {
		return 0, errors.Join(ErrBodyBroken, err)
	}
	c.body = 0
	c.in.shed()
	return int(length), nil
}

func (c *Conn) readChunks(limit int64, buffer func(used, n int) []byte) (int, error) {
	f := framing{in: &c.in, chunked: true, strict: true}
	b, n := buffer(0, smallInput), 0
	for {
		p, err := f.next()
		if errors.Is(err, io.EOF) {
			c.body = 0
			c.in.shed()
			return n, nil
		}
		if err != nil {
			return 0, errors.Join(ErrBodyBroken, err)
		}
		if int64(n+len(p)) > limit {
			return 0, ErrBodyTooLarge
		}
		if n+len(p) > len(b) {
			b = buffer(n, 2*(n+len(p)))
		}
		n += copy(b[n:], p)
	}
}

// keep reports whether the connection can take another request.
func (c *Conn) keep() bool {
	return c.body == 0 && !c.request.Close && c.ctx.Err() == nil && !c.server.crowded.Load()
}

// Reply is an answer of so many bytes, or, with a Length of -1, of pieces.
type Reply struct {
	Status int
	Fields []Field // without those of the framing
	Length int64
}

// Begin returns the reply's head, appended to b. Every reply is finished by
// Finish, or the connection is cut.
func (c *Conn) Begin(b []byte, r Reply) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(append(b, ' '), http.StatusText(r.Status)...)
	b = append(b, "\r\n"...)
	for _, f := range r.Fields {
		b = append(append(b, f.Name...), ": "...)
		b = append(append(b, f.Value...), "\r\n"...)
	}
	if r.Length >= 0 {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.Length, 10)
	} else {
		b = append(b, "Transfer-Encoding: chunked"...)
	}
	if c.last = !c.keep(); c.last {
		b = append(b, "\r\nConnection: close"...)
	}
	c.answer = answering
	return append(b, "\r\n\r\n"...)
}

// AppendChunk appends a piece of a reply whose length is not known.
func AppendChunk(b, p []byte) []byte {
	b = strconv.AppendInt(b, int64(len(p)), 16)
	b = append(b, "\r\n"...)
	b = append(b, p...)
	return append(b, "\r\n"...)
}

// LastChunk ends a reply whose length is not known.
const LastChunk = "0\r\n\r\n"

// WriteAll writes bytes of the reply, as they are.
func (c *Conn) WriteAll(a, b []byte) error {
	if len(b) == 0 {
		_, err := c.raw.Write(a)
		return err
	}
	if len(a) == 0 {
		_, err := c.raw.Write(b)
		return err
	}
	both := net.Buffers{a, b}
	_, err := both.WriteTo(c.raw)
	return err
}

// Answer answers with a text, whole. If that fails the client has left.
func (c *Conn) Answer(status int, fields []Field, text []byte) {
	b := c.Begin(nil, Reply{Status: status, Fields: fields, Length: int64(len(text))})
	if c.WriteAll(append(b, text...), nil) == nil {
		c.Finish()
	}
}

// Finish says that the whole reply is written.
func (c *Conn) Finish() { c.answer = answered }

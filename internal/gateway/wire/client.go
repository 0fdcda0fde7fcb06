// Package wire speaks HTTP/1.1 on the gateway's two sides, one goroutine a
// request: less latency and memory than net/http's general client and server,
// whose parsers it uses.
//
//  1. A [Client] has one origin. It dials nothing else, whatever a request says.
//  2. A request is written from its parts, with its length, in one piece. Nothing
//     that a header has can end the header or begin another request.
//  3. Whoever leaves, leaves at once: when a request's context ends its connection
//     is cut, and a connection on which something is left unread is never used
//     again.
package wire

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Client is an http.RoundTripper to one origin. It does not follow redirects,
// does not decompress and keeps no cookies. It may be used concurrently.
type Client struct {
	origin *url.URL
	dial   func(context.Context) (net.Conn, error)

	mu     sync.Mutex
	idle   []*conn // the longest unused first
	closed bool
}

// Bounds of a client.
const (
	maxIdle         = 256
	idleFor         = 90 * time.Second
	trustedFor      = time.Second // an idle connection is not looked at before use
	maxAnswerHeader = 256 << 10
	inline          = 32 << 10 // bodies up to this are sent in one write with the header
	readBuffer      = 4 << 10
)

// NewClient returns a client to origin, whose connections are made by dial.
func NewClient(origin *url.URL, dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{origin: origin, dial: dial}
}

// CloseIdleConnections closes the connections that no request is using.
func (c *Client) CloseIdleConnections() {
	c.mu.Lock()
	idle := c.idle
	c.idle = nil
	c.mu.Unlock()
	for _, k := range idle {
		k.Close()
	}
}

// conn is a connection to the origin.
type conn struct {
	net.Conn
	reader bufio.Reader
	left   int // bytes that may still be read of a header; less than 0: no bound
	since  time.Time
}

var errLongHeader = errors.New("the answer's header is too long")

// Read is what the buffered reader reads from.
func (k *conn) Read(p []byte) (int, error) {
	if k.left < 0 {
		return k.Conn.Read(p)
	}
	if k.left == 0 {
		return 0, errLongHeader
	}
	n, err := k.Conn.Read(p[:min(len(p), k.left)])
	k.left -= n
	return n, err
}

// get returns a connection, and whether it was used before.
func (c *Client) get(ctx context.Context, fresh bool) (*conn, bool, error) {
	for !fresh {
		c.mu.Lock()
		n := len(c.idle)
		if n == 0 {
			c.mu.Unlock()
			break
		}
		k := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		unused := time.Since(k.since)
		if unused < trustedFor || unused < idleFor && silent(k.Conn) {
			return k, true, nil
		}
		k.Close()
	}
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	k := &conn{Conn: nc, left: -1}
	k.reader = *bufio.NewReaderSize(k, readBuffer)
	return k, false, nil
}

// put keeps k for the next request.
func (c *Client) put(k *conn) {
	k.since = time.Now()
	c.mu.Lock()
	var old *conn
	if len(c.idle) >= maxIdle || len(c.idle) > 0 && time.Since(c.idle[0].since) > idleFor {
		old, c.idle = c.idle[0], c.idle[1:]
	}
	c.idle = append(c.idle, k)
	c.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// Bytes is what a request's body may implement to be sent without a copy. The
// slice is not used after Close.
type Bytes interface{ Bytes() []byte }

// RoundTrip sends r and returns its answer. A request that met a connection
// which the origin had closed meanwhile, so that not a byte came back, is sent
// once more on a fresh one.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	p := &parcel{}
	defer p.release()
	if err := p.pack(r, c.origin); err != nil {
		return nil, err
	}
	res, err := c.try(r, p, false)
	if errors.Is(err, errStale) && r.Context().Err() == nil {
		res, err = c.try(r, p, true)
	}
	if err != nil && r.Context().Err() != nil {
		err = context.Cause(r.Context())
	}
	return res, err
}

// errStale means that a used connection ended without a byte of an answer.
var errStale = errors.New("the connection was closed meanwhile")

func (c *Client) try(r *http.Request, p *parcel, fresh bool) (*http.Response, error) {
	k, used, err := c.get(r.Context(), fresh)
	if err != nil {
		return nil, err
	}
	x := &exchange{client: c, conn: k}
	x.stop = context.AfterFunc(r.Context(), func() { k.Conn.Close() })
	x.sent = p.send(k)
	res, err := x.receive(r)
	if err != nil {
		x.drop()
		if x.sent != nil {
			<-x.sent
		}
		if used && errors.Is(err, errNoAnswer) {
			return nil, fmt.Errorf("%w: %w", errStale, err)
		}
		return nil, err
	}
	return res, nil
}

// parcel is a request as it is written.
type parcel struct {
	head  *bytes.Buffer
	body  []byte
	close func() error // of the request's body
	mu    sync.Mutex
	users int // sends under way, and RoundTrip itself
}

var heads = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (p *parcel) pack(r *http.Request, origin *url.URL) error {
	p.head, p.users, p.close = heads.Get().(*bytes.Buffer), 1, func() error { return nil }
	p.head.Reset()
	if r.Body != nil {
		p.close = r.Body.Close
		if b, ok := r.Body.(Bytes); ok {
			p.body = b.Bytes()
		} else {
			var err error
			if p.body, err = io.ReadAll(r.Body); err != nil {
				return err
			}
		}
	}
	if err := writeHead(p.head, r, origin, len(p.body)); err != nil {
		return err
	}
	if len(p.body) <= inline {
		p.head.Write(p.body)
		p.body = nil
	}
	return nil
}

// send writes the parcel. A long one is written by a goroutine of its own, since
// the origin may answer before it has read all; the channel is closed when that
// is over. A failure shows when the answer is read.
func (p *parcel) send(k *conn) chan struct{} {
	if p.body == nil {
		k.Write(p.head.Bytes())
		return nil
	}
	p.mu.Lock()
	p.users++
	p.mu.Unlock()
	sent := make(chan struct{})
	go func() {
		defer p.release()
		defer close(sent)
		b := net.Buffers{p.head.Bytes(), p.body}
		b.WriteTo(k.Conn)
	}()
	return sent
}

func (p *parcel) release() {
	p.mu.Lock()
	p.users--
	last := p.users == 0
	p.mu.Unlock()
	if last {
		heads.Put(p.head)
		p.close()
	}
}

// writeHead writes the request line and the header.
func writeHead(b *bytes.Buffer, r *http.Request, origin *url.URL, length int) error {
	if r.URL.Scheme != origin.Scheme || r.URL.Host != origin.Host {
		return fmt.Errorf("a request for %s can't go to %s", r.URL.Host, origin.Host)
	}
	target := r.URL.RequestURI()
	if !plainToken(r.Method) || !plainValue(target) || len(target) == 0 || target[0] != '/' {
		return fmt.Errorf("a request can't be %q %q", r.Method, target)
	}
	b.WriteString(r.Method)
	b.WriteByte(' ')
	b.WriteString(target)
	b.WriteString(" HTTP/1.1\r\nHost: ")
	b.WriteString(origin.Host)
	b.WriteString("\r\n")
	for name, values := range r.Header {
		if !plainToken(name) {
			return fmt.Errorf("a header can't be called %q", name)
		}
		for _, v := range values {
			if !plainValue(v) {
				return fmt.Errorf("the header %s has a control character", name)
			}
			b.WriteString(name)
			b.WriteString(": ")
			b.WriteString(v)
			b.WriteString("\r\n")
		}
	}
	if length > 0 || r.Method == http.MethodPost {
		b.WriteString("Content-Length: ")
		b.Write(strconv.AppendInt(b.AvailableBuffer(), int64(length), 10))
		b.WriteString("\r\n")
	}
	b.WriteString("\r\n")
	return nil
}

func plainToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && strings.IndexByte("!#$%&'*+.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

func plainValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// exchange is one use of a connection, and the body of its answer.
type exchange struct {
	client *Client
	conn   *conn
	stop   func() bool   // ends the watch on the request's context
	sent   chan struct{} // nil: the request is written
	body   io.ReadCloser
	keep   bool // the connection may be used again after the body's end
	err    error
}

// errNoAnswer means that the connection ended before a byte had come.
var errNoAnswer = errors.New("no answer")

func (x *exchange) receive(r *http.Request) (*http.Response, error) {
	k := x.conn
	k.left = maxAnswerHeader
	if _, err := k.reader.Peek(1); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	for {
		res, err := http.ReadResponse(&k.reader, r)
		if err != nil {
			return nil, err
		}
		if res.StatusCode == http.StatusSwitchingProtocols {
			return nil, errors.New("the origin switched to another protocol")
		}
		if res.StatusCode >= 200 {
			k.left = -1
			x.body, x.keep = res.Body, !res.Close
			res.Body = x
			return res, nil
		}
	}
}

// Read reads the answer's body.
func (x *exchange) Read(p []byte) (int, error) {
	if x.err != nil {
		return 0, x.err
	}
	n, err := x.body.Read(p)
	if err != nil {
		x.err = err
		x.finish(err == io.EOF) //nolint:errorlint // the parsers return it as it is
	}
	return n, err
}

// Buffered returns how many bytes of the answer have come already and are not
// read yet, the framing included.
func (x *exchange) Buffered() int {
	if x.err != nil {
		return 0
	}
	return x.conn.reader.Buffered()
}

// Close leaves the answer. What is not read of it costs the connection.
func (x *exchange) Close() error {
	if x.err == nil {
		x.err = errors.New("the answer's body is closed")
		x.drop()
	}
	return nil
}

// finish keeps the connection if the answer was read to its end, and the request
// was sent to its own.
func (x *exchange) finish(whole bool) {
	if x.sent != nil {
		select {
		case <-x.sent:
		default:
			whole = false
		}
	}
	if !whole || !x.keep || x.conn.reader.Buffered() > 0 || !x.stop() {
		x.drop()
		return
	}
	x.client.put(x.conn)
}

func (x *exchange) drop() {
	x.stop()
	x.conn.Conn.Close()
}

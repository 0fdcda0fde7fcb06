// Package door is a CONNECT proxy that opens to an exact list of hosts and to
// nothing else. The refresh puts the CLI behind it, so that the CLI reaches the
// token endpoint alone, and so that we know whether it was ever reached.
//
//  1. A tunnel leads to an address that stands in Config.Allow letter by letter:
//     no case folding, no trailing dot, no default port, no name resolution of
//     anything that a client wrote. Everything else is refused at once.
//  2. Config.Connected returns before the client learns that its tunnel stands
//     and before its first byte is forwarded. If it was not called for an
//     address, no byte of a client has gone there.
//  3. Config.Answered returns before the server's first byte is passed on. A
//     client of TLS has not sent its request by then, nor will it if the tunnel
//     is cut there.
//  4. What a client sends before its tunnel stands is bounded in size and time.
package door

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Config says what a door opens to.
type Config struct {
	// Allow lists the addresses, each as "host:port", in lower case and with the
	// port spelled out. Required.
	Allow []string
	// Upstream is the proxy that the door itself has to go through, with the
	// user and password in its user info. Schemes http and https. Nil dials directly.
	Upstream *url.URL
	// Connected is told that a connection to the address stands, before the
	// client is. An error refuses the tunnel. Nil accepts. It may be called from
	// several goroutines.
	Connected func(hostport string) error
	// Answered is told that the address has sent its first byte, before the
	// client gets it. An error cuts the tunnel. Nil accepts. It may be called
	// from several goroutines.
	Answered func(hostport string) error
	// Password, if not empty, must be given by the client as the password of a
	// basic Proxy-Authorization, so that no other user of the machine comes in
	// over loopback. URL contains it.
	Password string
	// HeaderTimeout bounds the time for a client's request. 0: 10 s.
	HeaderTimeout time.Duration
	// DialTimeout bounds the time for the connection to the address, the
	// upstream proxy's answer included. 0: 20 s.
	DialTimeout time.Duration
	// Log gets one line for each refusal. Nil discards.
	Log *slog.Logger
}

// maxTunnels bounds what one client can make the door hold; more wait to be accepted.
const maxTunnels = 64

// Door is a running or startable proxy. Make it with [New].
type Door struct {
	cfg    Config
	slots  chan struct{}   // one per connection being served
	life   context.Context // ends with Close; bounds every dial
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex // guards everything below
	listener net.Listener
	conns    map[net.Conn]struct{} // both ends of every tunnel, to be cut by Close
	closed   bool
}

// New returns a door that does not listen yet.
func New(cfg Config) (*Door, error) {
	if len(cfg.Allow) == 0 {
		return nil, fmt.Errorf("%w: a door that opens to nothing", hub.ErrInvalid)
	}
	for _, a := range cfg.Allow {
		if err := checkAddress(a); err != nil {
			return nil, err
		}
	}
	if u := cfg.Upstream; u != nil && (u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "") {
		err := fmt.Errorf("%w: the proxy %s is neither http nor https", hub.ErrInvalid, u.Redacted())
		return nil, hub.Hint(err, "set HTTPS_PROXY to http://host:port or https://host:port")
	}
	if cfg.HeaderTimeout == 0 {
		cfg.HeaderTimeout = 10 * time.Second
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 20 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Allow = slices.Clone(cfg.Allow)
	d := &Door{cfg: cfg, slots: make(chan struct{}, maxTunnels), conns: map[net.Conn]struct{}{}}
	d.life, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// checkAddress reports whether a is an address that a careful client would write.
func checkAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("%w: the address %q: %w", hub.ErrInvalid, a, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%w: the port of %q", hub.ErrInvalid, a)
	}
	const plain = "abcdefghijklmnopqrstuvwxyz0123456789-.:"
	if host == "" || strings.Trim(host, plain) != "" || strings.HasSuffix(host, ".") {
		return fmt.Errorf("%w: the host of %q", hub.ErrInvalid, a)
	}
	return nil
}

// Start listens on a free loopback port and serves until Close.
func (d *Door) Start() error { return d.serve("tcp4", "127.0.0.1:0") }

// StartUnix listens on a unix socket at path, which only the owner can open, and
// serves until Close, which removes it.
func (d *Door) StartUnix(path string) error { return d.serve("unix", path) }

func (d *Door) serve(network, address string) error {
	l, err := listen(network, address)
	if err != nil {
		return fmt.Errorf("opening the door: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.listener != nil {
		l.Close()
		return errors.New("opening the door: started or closed before")
	}
	d.listener = l
	d.wg.Go(func() { d.accept(l) })
	return nil
}

// listen opens the listener; a unix socket gets mode 0600.
func listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil || network != "unix" {
		return l, err
	}
	if err := os.Chmod(address, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// URL returns what a client on this machine sets as its HTTPS_PROXY; "" before
// Start and for a unix socket.
func (d *Door) URL() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listener == nil || d.listener.Addr().Network() != "tcp" {
		return ""
	}
	u := url.URL{Scheme: "http", Host: d.listener.Addr().String()}
	if d.cfg.Password != "" {
		u.User = url.UserPassword("door", d.cfg.Password)
	}
	return u.String()
}

// Close stops listening, cuts every tunnel and waits until nothing of the door
// runs any more. It may be called twice.
func (d *Door) Close() error {
	d.cancel()
	d.mu.Lock()
	d.closed = true
	if d.listener != nil {
		d.listener.Close()
	}
	for c := range d.conns {
		c.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
	return nil
}

func (d *Door) accept(l net.Listener) {
	for {
		d.slots <- struct{}{}
		c, err := l.Accept()
		if err != nil {
			<-d.slots
			if d.life.Err() != nil {
				return
			}
			select { // out of descriptors: a moment later there may be one
			case <-time.After(10 * time.Millisecond):
			case <-d.life.Done():
			}
			continue
		}
		d.wg.Go(func() {
			defer func() { <-d.slots }()
			d.handle(c)
		})
	}
}

// track notes c as to be cut by Close. It reports false, and closes c, when the
// door is closed already.
func (d *Door) track(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		c.Close()
		return false
	}
	d.conns[c] = struct{}{}
	return true
}

func (d *Door) drop(c net.Conn) {
	c.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c)
}

// handle serves one client from its first byte to the end of its tunnel.
func (d *Door) handle(client net.Conn) {
	if !d.track(client) {
		return
	}
	defer d.drop(client)
	client.SetDeadline(time.Now().Add(d.cfg.HeaderTimeout))
	in, address, err := d.admit(client)
	if err != nil {
		d.refuse(client, err)
		return
	}
	server, err := d.dial(address)
	if err != nil {
		d.refuse(client, &refusal{502, err.Error()})
		return
	}
	if !d.track(server) {
		return
	}
	defer d.drop(server)
	if d.cfg.Connected != nil {
		if err := d.cfg.Connected(address); err != nil {
			d.refuse(client, &refusal{403, err.Error()})
			return
		}
	}
	client.SetDeadline(time.Now().Add(d.cfg.HeaderTimeout))
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	client.SetDeadline(time.Time{})
	d.splice(client, in, server, address)
}

// splice copies both ways until both directions have ended, passing on each end
// of stream.
func (d *Door) splice(client net.Conn, in io.Reader, server net.Conn, address string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(server, in)
		hangUp(server, err)
	}()
	err := d.awaitAnswer(client, server, address)
	if err == nil {
		_, err = io.Copy(client, server)
	}
	hangUp(client, err)
	if err != nil {
		server.Close() // ends the other direction, too
	}
	<-done
}

// awaitAnswer passes on the server's first bytes once Answered has consented.
func (d *Door) awaitAnswer(client, server net.Conn, address string) error {
	if d.cfg.Answered == nil {
		return nil
	}
	first := make([]byte, 4<<10)
	n, err := server.Read(first)
	if n == 0 {
		return err
	}
	if err := d.cfg.Answered(address); err != nil {
		d.cfg.Log.Warn("the door cut a tunnel", "reason", err)
		return err
	}
	_, err = client.Write(first[:n])
	return err
}

// hangUp passes an end of stream on to c, or an error as a cut.
func hangUp(c net.Conn, err error) {
	if w, ok := c.(interface{ CloseWrite() error }); ok && err == nil {
		if w.CloseWrite() == nil {
			return
		}
	}
	c.Close()
}

// refuse tells the client no and gives it a moment to read that.
func (d *Door) refuse(client net.Conn, err error) {
	r := &refusal{status: 400, reason: err.Error()}
	errors.As(err, &r)
	d.cfg.Log.Warn("the door refused a request", "status", r.status, "reason", r.reason)
	client.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(client, r.response()); err != nil {
		return
	}
	if w, ok := client.(interface{ CloseWrite() error }); ok && w.CloseWrite() == nil {
		io.CopyN(io.Discard, client, 64<<10) // closing with bytes unread would reset the answer away
	}
}

// allowed reports whether password opens the door.
func (d *Door) allowed(authorization string) bool {
	if d.cfg.Password == "" {
		return true
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("door:"+d.cfg.Password))
	return subtle.ConstantTimeCompare([]byte(authorization), []byte(want)) == 1
}

package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/lease"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// Request asks for an endpoint.
type Request struct {
	Run     hub.RunID
	Profile hub.ProfileID
	Limits  hub.Limits // Lifetime is required
	// Socket is the path of the unix socket to make, in a directory that is the
	// hub's alone. Empty means a port on 127.0.0.1.
	Socket string
}

// Endpoint is where one run's requests come in. Its methods may be called
// concurrently.
type Endpoint struct {
	g       *Gateway
	lease   *lease.Lease
	listen  net.Listener
	hosts   []string // the Host headers accepted on a port; nil for a unix socket
	server  *http.Server
	cancel  context.CancelCauseFunc
	conns   chan struct{}       // one for each connection, to bound them
	bodies  *semaphore.Weighted // bytes of request bodies held
	serving chan struct{}       // closed when the listener's loop is over
	alarms  atomic.Int64
	began   atomic.Uint64 // requests so far, in order

	mu       sync.Mutex
	closing  bool
	handlers sync.WaitGroup // Add only under mu, while not closing
	refusal  Refusal
	refused  uint64 // the request that refusal was about
}

// Bounds of one endpoint.
const (
	maxHeader     = 64 << 10
	headerTimeout = 10 * time.Second
	bodyTimeout   = 60 * time.Second
	idleTimeout   = 5 * time.Minute
	maxBodies     = 128 << 20
)

// Open issues a lease to the run and serves it on a listener of its own. The
// endpoint lives until Close; ctx is for opening only.
func (g *Gateway) Open(ctx context.Context, req Request) (*Endpoint, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l, err := g.book.Issue(lease.Grant{Run: req.Run, Profile: req.Profile, Limits: req.Limits})
	if err != nil {
		return nil, err
	}
	e := &Endpoint{
		g: g, lease: l, conns: make(chan struct{}, g.maxConns),
		bodies: semaphore.NewWeighted(maxBodies), serving: make(chan struct{}),
	}
	if e.listen, e.hosts, err = listen(req.Socket); err != nil {
		l.Revoke()
		return nil, fmt.Errorf("opening the gateway's endpoint: %w", err)
	}
	base, cancel := context.WithCancelCause(context.Background()) // the endpoint's own life
	e.cancel = cancel
	e.server = &http.Server{
		Handler:                      e,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnState:                    e.count,
		ErrorLog:                     slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // says only what clients do wrong
		Protocols:                    new(http.Protocols),
	}
	e.server.Protocols.SetHTTP1(true)
	if !g.add(e) {
		l.Revoke()
		return nil, errors.Join(errors.New("the gateway is closed"), e.listen.Close())
	}
	go e.serve()
	return e, nil
}

func (e *Endpoint) serve() {
	defer close(e.serving)
	ended := make(chan struct{})
	go func() { // a lease that runs out takes its open streams along
		defer close(ended)
		<-e.lease.Done()
		e.cancel(e.lease.Err())
	}()
	err := e.server.Serve(e.listen)
	if !errors.Is(err, http.ErrServerClosed) {
		e.g.log.Error("the gateway's endpoint stopped listening", "run", e.lease.Run(), "err", err)
	}
	<-ended
}

// count bounds the connections: it holds the accepting loop while there are too
// many.
func (e *Endpoint) count(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		select {
		case e.conns <- struct{}{}:
		case <-e.lease.Done(): // every connection is about to be closed
		}
	case http.StateClosed, http.StateHijacked:
		select {
		case <-e.conns:
		default:
		}
	}
}

// Token returns the lease token: the placeholder that the run's CLI is given.
func (e *Endpoint) Token() secret.Text { return e.lease.Token() }

// URL returns what ANTHROPIC_BASE_URL must be for clients of a port. For a unix
// socket it names no port: a forwarder in the sandbox adds its own.
func (e *Endpoint) URL() string {
	if e.hosts == nil {
		return "http://127.0.0.1"
	}
	return "http://" + e.hosts[0]
}

// Usage returns what has gone through so far.
func (e *Endpoint) Usage() hub.Usage { return e.lease.Usage() }

// Alarms counts the requests that came with another run's lease token.
func (e *Endpoint) Alarms() int { return int(e.alarms.Load()) }

// Close revokes the lease, closes the listener and cuts every connection, and
// waits until nothing is under way. From its beginning nothing more is accepted.
// It may be called more than once.
func (e *Endpoint) Close() error {
	e.lease.Revoke()
	e.cancel(lease.ErrRevoked)
	e.mu.Lock()
	first := !e.closing
	e.closing = true
	e.mu.Unlock()
	var err error
	if first {
		err = e.server.Close()
	}
	<-e.serving
	e.handlers.Wait()
	e.g.forget(e)
	return err
}

// enter counts a handler, or reports that the endpoint is closing.
func (e *Endpoint) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closing {
		e.handlers.Add(1)
	}
	return !e.closing
}

// ownHost reports whether host, as in a Host header, means this endpoint. That
// keeps out web pages whose name was made to resolve to loopback.
func (e *Endpoint) ownHost(host string) bool {
	if e.hosts != nil {
		return host == e.hosts[0] || host == e.hosts[1]
	}
	name, port, found := strings.Cut(host, ":")
	return (name == "127.0.0.1" || name == "localhost") && (!found || port != "" && strings.Trim(port, "0123456789") == "")
}

package gateway

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
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
	// Remote lets requests through that have the platform reach out to others: its
	// own web search and code execution, MCP servers, sources by address. Where the
	// lease's holder has no network, that would be one.
	Remote bool
}

// Endpoint is where one run's requests come in. Its methods may be called
// concurrently.
type Endpoint struct {
	g      *Gateway
	remote bool // Request.Remote
	lease  *lease.Lease
	hosts  []string // the Host fields accepted on a port; nil for a unix socket
	server *wire.Server
	bodies *semaphore.Weighted // bytes of request bodies held
	alarms atomic.Int64
	began  atomic.Uint64 // requests so far, in order
	ended  chan struct{} // closed when nobody waits for the lease's end any more

	mu      sync.Mutex
	refusal Refusal
	refused uint64 // the request that refusal was about
}

// maxBodies bounds the request bodies that one endpoint holds at a time.
const maxBodies = 128 << 20

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
	listener, hosts, err := listen(req.Socket)
	if err != nil {
		l.Revoke()
		return nil, fmt.Errorf("opening the gateway's endpoint: %w", err)
	}
	e := &Endpoint{g: g, remote: req.Remote, lease: l, hosts: hosts, bodies: semaphore.NewWeighted(maxBodies), ended: make(chan struct{})}
	e.server = &wire.Server{
		Handle: e.handle, Refuse: e.malformed, Watcher: &g.watcher, MaxConns: g.maxConns,
		Panicked: func(p any) { g.log.Error("a request's handler panicked", "run", req.Run, "panic", p) },
	}
	e.server.Start(listener)
	go func() { // a lease that runs out takes its open streams along
		defer close(e.ended)
		<-l.Done()
		e.server.Cancel(l.Err())
	}()
	if !g.add(e) {
		return nil, fmt.Errorf("the gateway is closed: %w", closeAll(e))
	}
	return e, nil
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

// Close revokes the lease, closes the listener, cuts every connection, and waits
// until nothing is under way. From its beginning nothing more is accepted. It may
// be called more than once.
func (e *Endpoint) Close() error {
	e.lease.Revoke()
	err := e.server.Close()
	<-e.ended
	e.g.forget(e)
	return err
}

// Package gateway is the egress proxy that does credential injection: it swaps a
// run's placeholder for its profile's access token, meters what goes through and
// holds the run to its limits.
//
//  1. An endpoint serves one run. It accepts that run's lease token and no other,
//     and from the moment that Close is called it accepts nothing.
//  2. Only the pinned upstream is ever dialled, only for the paths in the allow
//     list. Every upstream request is written anew from a parsed one, with its body
//     in hand: however a request was framed, it becomes one request or none.
//     A redirect is never followed.
//  3. The access token goes to the upstream in the Authorization header and nowhere
//     else: not to the client, a log or an error. The client's own credentials,
//     cookies and forwarding headers go nowhere.
//  4. An answer is passed on as it comes, byte for byte, and nothing waits for the
//     metering. An answer that breaks off upstream breaks off for the client.
//  5. A 401 is retried once, with a newer generation of the access token, before a
//     byte has gone out; no client ever sees one that is not about its lease token.
//  6. Every refusal has the API's own error shape and a status on which the CLI
//     stops at once and shows the reason.
//  7. Memory is bounded for each endpoint: connections, headers, bodies, and what a
//     slow reader leaves unread.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/lease"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/usage"
)

// DefaultUpstream is the platform's API.
const DefaultUpstream = "https://api.anthropic.com"

// TokenSource knows the current access token of each profile. It may be called
// concurrently, once for every request.
type TokenSource interface {
	// AccessToken returns the profile's current access token and its generation.
	// stale, if not zero, is a generation that the upstream has just answered 401
	// to: then the answer is a newer one, or an error. It returns
	// hub.ErrLoginRequired if only the owner can mend it.
	AccessToken(ctx context.Context, profile hub.ProfileID, stale hub.Generation) (secret.Text, hub.Generation, error)
}

// Config says what a gateway is made of.
type Config struct {
	// Upstream is the one server that requests go to: scheme and host, nothing
	// else, the host in lower case. Plain http is for loopback only. Nil means
	// DefaultUpstream.
	Upstream *url.URL
	// Tokens is required.
	Tokens TokenSource
	// Book holds the leases. Nil means a new one.
	Book *lease.Book
	// Transport carries the requests to the upstream; it must not follow redirects
	// or decompress. Nil means a client of the gateway's own, which is faster, takes
	// less memory, and honours the environment: HTTPS_PROXY, NO_PROXY,
	// SSL_CERT_FILE, NODE_EXTRA_CA_CERTS.
	Transport http.RoundTripper
	// Log gets refusals that an operator should know of, and alarms. Nil means none.
	Log *slog.Logger
	// OnWindows, if not nil, is told what each answer says of the plan. It must
	// return at once.
	OnWindows func(hub.ProfileID, usage.Windows)
	// MaxConns bounds the connections of one endpoint; further ones wait. Zero
	// means 64.
	MaxConns int
}

// Gateway opens endpoints. Its methods may be called concurrently.
type Gateway struct {
	upstream  *url.URL
	tokens    TokenSource
	book      *lease.Book
	send      sender
	client    *wire.Client // nil with a transport of the caller's
	watcher   wire.Watcher
	log       *slog.Logger
	onWindows func(hub.ProfileID, usage.Windows)
	maxConns  int

	mu        sync.Mutex
	closed    bool
	endpoints map[*Endpoint]struct{}
}

const defaultMaxConns = 64

// New returns a gateway that listens nowhere yet.
func New(cfg Config) (*Gateway, error) {
	if cfg.Tokens == nil {
		return nil, errors.New("a gateway needs a source of access tokens")
	}
	g := &Gateway{
		upstream: cfg.Upstream, tokens: cfg.Tokens, book: cfg.Book,
		log: cfg.Log, onWindows: cfg.OnWindows, maxConns: cfg.MaxConns,
		endpoints: make(map[*Endpoint]struct{}),
	}
	if g.upstream == nil {
		g.upstream, _ = url.Parse(DefaultUpstream) // a constant
	}
	if err := checkUpstream(g.upstream); err != nil {
		return nil, err
	}
	if g.book == nil {
		g.book = lease.NewBook(nil)
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.maxConns <= 0 {
		g.maxConns = defaultMaxConns
	}
	if cfg.Transport != nil {
		g.send = overTransport(cfg.Transport, g.upstream)
	} else {
		dial, err := wire.Dialer(g.upstream, os.Getenv)
		if err != nil {
			return nil, err
		}
		g.client = wire.NewClient(dial)
		g.send = overWire(g.client)
	}
	return g, nil
}

// checkUpstream refuses everything but a plain scheme and host. A host has one
// spelling, so that it can be compared by its bytes.
func checkUpstream(u *url.URL) error {
	bad := func(what string) error {
		return hub.Hint(fmt.Errorf("%w: the upstream %q %s", hub.ErrInvalid, u.Redacted(), what), "write it as "+DefaultUpstream)
	}
	host := u.Hostname()
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return bad("is neither https nor http")
	case u.User != nil || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return bad("has more than a scheme and a host")
	case strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789.-:") != "" || host == "" || strings.Contains(host, ".."):
		return bad("has a host with other characters than lower-case letters, digits, dots and hyphens")
	case strings.HasPrefix(host, ".") || strings.HasSuffix(host, "."):
		return bad("has a host with a dot at its beginning or end")
	case strings.HasSuffix(u.Host, ":") || strings.Contains(u.Host, "%"):
		return bad("has a port or zone that is not plain")
	case u.Scheme == "http" && !wire.Loopback(host):
		return bad("is plain http, which is for loopback only")
	}
	return nil
}

// Close closes every endpoint and waits for them. It may be called more than
// once.
func (g *Gateway) Close() error {
	g.mu.Lock()
	g.closed = true
	open := slices.Collect(maps.Keys(g.endpoints))
	g.mu.Unlock()
	err := closeAll(open...)
	g.watcher.Close()
	if g.client != nil {
		g.client.Close()
	}
	return err
}

func closeAll(endpoints ...*Endpoint) error {
	var errs []error
	for _, e := range endpoints {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}

// add registers e, or reports that the gateway is closed.
func (g *Gateway) add(e *Endpoint) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.endpoints[e] = struct{}{}
	}
	return !g.closed
}

func (g *Gateway) forget(e *Endpoint) {
	g.mu.Lock()
	delete(g.endpoints, e)
	g.mu.Unlock()
}

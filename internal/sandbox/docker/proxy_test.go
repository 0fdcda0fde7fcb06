package docker_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
)

// between stands between a driver and a real engine.
type between struct {
	t      testing.TB
	socket string
	engine string
	server *http.Server
	proxy  *httputil.ReverseProxy

	mu     sync.Mutex
	change change // guarded by mu
}

// change may answer a request itself, and returns whether it did. nil answers none.
type change func(w http.ResponseWriter, r *http.Request) bool

func (b *between) set(c change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.change = c
}

func (b *between) changed() change {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.change
}

func newBetween(t testing.TB, kind string) *between {
	b := &between{t: t, socket: filepath.Join(t.TempDir(), "engine.sock"), engine: strings.TrimPrefix(hubtest.Engine(t, kind), "unix://")}
	b.start()
	return b
}

func (b *between) host() string { return "unix://" + b.socket }

func (b *between) start() {
	b.t.Helper()
	l, err := net.Listen("unix", b.socket)
	if err != nil {
		b.t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.engine)
	}}
	b.proxy = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	b.proxy.Transport = transport
	b.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := b.changed(); c == nil || !c(w, r) {
			b.proxy.ServeHTTP(w, r)
		}
	})}
	go b.server.Serve(l)
	b.t.Cleanup(transport.CloseIdleConnections)
	b.t.Cleanup(b.stop)
}

// stop is the death of the engine, as a client sees it.
func (b *between) stop() { b.server.Close() }

func via(b *between) func(*docker.Config) {
	return func(c *docker.Config) { c.Host = b.host() }
}

// blockAt holds up the first request to a path that ends so, after telling that it
// has come. Once released it gets to the engine also if its client has died
// meanwhile, and answered tells that the engine has answered.
func (b *between) blockAt(end string) (reached, answered <-chan struct{}, release func()) {
	come, done, free := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.set(func(w http.ResponseWriter, r *http.Request) (ours bool) {
		if strings.HasSuffix(r.URL.Path, end) {
			once.Do(func() {
				ours = true
				defer close(done)
				body, _ := io.ReadAll(r.Body)
				close(come)
				<-free
				ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
				defer cancel()
				r = r.WithContext(ctx)
				r.Body = io.NopCloser(bytes.NewReader(body))
				b.proxy.ServeHTTP(w, r)
			})
		}
		return ours
	})
	return come, done, func() { close(free) }
}

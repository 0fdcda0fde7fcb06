package docker_test

import (
	"context"
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
	// change may answer a request itself, and returns whether it did.
	change func(w http.ResponseWriter, r *http.Request) bool
	server *http.Server
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
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "engine"})
	proxy.Transport = transport
	b.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.change == nil || !b.change(w, r) {
			proxy.ServeHTTP(w, r)
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
// has come, and answers all others of that process no more.
func blockAt(end string, reached chan<- struct{}, release <-chan struct{}) func(http.ResponseWriter, *http.Request) bool {
	var once sync.Once
	return func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, end) {
			once.Do(func() {
				close(reached)
				<-release
			})
		}
		return false
	}
}

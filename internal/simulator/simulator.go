// Package simulator is a stand-in for the platform, with the real one's manners,
// so that the unmodified claude CLI can sign in, refresh, run and fail against it.
//
// What it guarantees:
//
//  1. It plays the real host names over TLS, behind a CONNECT proxy and a CA of
//     its own. The proxy refuses every other host and never dials: no byte of a
//     client that uses it leaves the machine's loopback.
//  2. Refresh tokens are single use. A rotation is committed when the request has
//     been read, whatever becomes of the answer, and kills the old access token in
//     the same instant. Replaying a spent refresh token revokes its whole family.
//  3. A sign-in ends after Config.LoginTTL, however often it is refreshed.
//  4. It counts what it saw ([Counters]), so that a test can ask the server, not
//     the client, what happened.
//  5. Faults are asked for, by [Simulator.Inject] or the admin endpoint; those with
//     a probability follow Config.Seed.
//
// No lock is held while an answer is written, and none during a delay.
//
// The comments that say "observed" were checked against Claude Code 2.1.330.
package simulator

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// The hosts that the simulator plays, each on port 443.
const (
	HostPlatform = "platform.claude.com" // token endpoint, console's authorize page, code page
	HostAPI      = "api.anthropic.com"
	HostClaude   = "claude.com"              // authorize page of subscriptions
	HostClaudeAI = "claude.ai"               // the same, under its older name
	HostAdmin    = "admin.simulator.invalid" // the admin endpoint
)

// Config says how the platform behaves. The zero value is a strict platform with
// the real one's lifetimes.
type Config struct {
	AccessTTL time.Duration // life of an access token; 0 means 8 hours
	LoginTTL  time.Duration // life of a sign-in, which no refresh extends; 0 means 30 days
	// OmitRefreshToken makes a refresh answer without a refresh token and not
	// rotate it.
	OmitRefreshToken bool
	// Grace is for how long after its rotation a spent refresh token is still
	// answered, with the pair that it was rotated to. 0 means not at all.
	Grace  time.Duration
	Seed   uint64       // of tokens and of faults with a probability; 0 means random
	Log    *slog.Logger // one line a request; nil means none
	Listen string       // the proxy's address; "" means a free port of 127.0.0.1
	// Observe, if set, is called with each request before it is answered, by several
	// goroutines at once. It must not keep the request, and leave its body as it was.
	Observe func(endpoint Endpoint, r *http.Request)
}

// Simulator is a running platform. Its methods are safe for concurrent use.
type Simulator struct {
	cfg    Config
	log    *slog.Logger
	ca     *authority
	dir    string // private; holds the CA's certificate
	ledger *ledger
	faults *faults
	admin  http.Handler

	proxyAddr string
	direct    *url.URL
	servers   []*http.Server
	sites     map[string]*site // by the host:port that CONNECT names

	skew      atomic.Int64 // added to the machine's clock, in nanoseconds
	accessTTL atomic.Int64
	windows   windowsBox

	countMu  sync.Mutex
	counters Counters

	stop    chan struct{}  // closed by Close: ends delays and streams
	serving sync.WaitGroup // one for each server
	conns   sync.WaitGroup // one for each connection, and so for its handler; none is added once serving is done
	closing sync.Once
	closed  error
}

// Start starts a platform on loopback. The caller closes it.
func Start(cfg Config) (*Simulator, error) {
	s, err := build(cfg)
	if err != nil {
		return nil, fmt.Errorf("starting the simulator: %w", err)
	}
	if err := s.listen(); err != nil {
		s.Close()
		return nil, fmt.Errorf("starting the simulator: %w", err)
	}
	return s, nil
}

func build(cfg Config) (*Simulator, error) {
	if cfg.AccessTTL == 0 {
		cfg.AccessTTL = 8 * time.Hour
	}
	if cfg.LoginTTL == 0 {
		cfg.LoginTTL = 30 * 24 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Seed == 0 {
		var b [8]byte
		rand.Read(b[:])
		cfg.Seed = binary.LittleEndian.Uint64(b[:])
	}
	cfg.Log.Info("simulator", "seed", cfg.Seed)
	ca, err := newAuthority([]string{HostPlatform, HostAPI, HostClaude, HostClaudeAI, HostAdmin})
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "claude-hub-simulator-") // made 0700
	if err != nil {
		return nil, err
	}
	s := &Simulator{
		cfg: cfg, log: cfg.Log, ca: ca, dir: dir,
		faults: newFaults(cfg.Seed),
		sites:  make(map[string]*site),
		stop:   make(chan struct{}),
	}
	s.accessTTL.Store(int64(cfg.AccessTTL))
	s.windows.init()
	s.ledger = newLedger(cfg.Seed, s.now)
	s.admin = s.adminHandler()
	if err := os.WriteFile(s.CAFile(), ca.pem, 0o600); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

func (s *Simulator) listen() error {
	addr := s.cfg.Listen
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	proxy, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.proxyAddr = proxy.Addr().String()
	direct, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		proxy.Close()
		return err
	}
	s.direct = &url.URL{Scheme: "http", Host: direct.Addr().String()}
	s.serve(direct, s.apiHandler())

	for host, h := range map[string]http.Handler{
		HostPlatform: s.platformHandler(),
		HostAPI:      s.apiHandler(),
		HostClaude:   s.authorizeHandler(),
		HostClaudeAI: s.authorizeHandler(),
		HostAdmin:    s.admin,
	} {
		t := newTunnels()
		s.sites[host+":443"] = &site{server: s.serve(t, onlyHost(host, h)), tunnels: t}
	}
	s.serve(proxy, http.HandlerFunc(s.proxy)) // last: it reads what is set above
	return nil
}

// serve answers l's requests with h until Close.
func (s *Simulator) serve(l net.Listener, h http.Handler) *http.Server {
	server := &http.Server{
		Handler:           h,
		ConnState:         s.connState,
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	s.servers = append(s.servers, server)
	s.serving.Go(func() { server.Serve(l) })
	return server
}

// connState lets Close wait for connections, which http.Server.Close does not.
func (s *Simulator) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.conns.Add(1)
	case http.StateHijacked, http.StateClosed:
		s.conns.Done()
	}
}

// onlyHost refuses requests for another host than the tunnel's.
func onlyHost(host string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != host && r.Host != host+":443" {
			http.Error(w, "this tunnel leads to "+host, http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// Close stops the platform, cuts every connection, waits for what it started and
// removes its files. It may be called twice.
func (s *Simulator) Close() error {
	s.closing.Do(func() {
		close(s.stop)
		var errs []error
		for _, server := range s.servers {
			errs = append(errs, server.Close())
		}
		s.serving.Wait()
		s.conns.Wait()
		s.closed = errors.Join(append(errs, os.RemoveAll(s.dir))...)
	})
	return s.closed
}

// ProxyURL returns the proxy's URL, as HTTPS_PROXY wants it.
func (s *Simulator) ProxyURL() string { return "http://" + s.proxyAddr }

// AdminURL returns the admin endpoint's base URL, for clients that use no proxy.
func (s *Simulator) AdminURL() string { return s.ProxyURL() }

// CAFile returns the path of the CA's certificate, in PEM.
func (s *Simulator) CAFile() string { return filepath.Join(s.dir, "ca.pem") }

// Environ returns the variables that lead a program to the simulator: its proxy
// and its CA. The CA replaces the machine's own in programs that obey
// SSL_CERT_FILE.
func (s *Simulator) Environ() []string {
	return []string{
		"HTTPS_PROXY=" + s.ProxyURL(),
		"https_proxy=" + s.ProxyURL(),
		"NODE_EXTRA_CA_CERTS=" + s.CAFile(),
		"SSL_CERT_FILE=" + s.CAFile(),
	}
}

// Client returns a new client that reaches the platform's hosts through the proxy
// and trusts the CA. It has a pool of its own; close it with CloseIdleConnections.
func (s *Simulator) Client() *http.Client {
	proxy := &url.URL{Scheme: "http", Host: s.proxyAddr}
	return &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyURL(proxy),
		TLSClientConfig:     &tls.Config{RootCAs: s.ca.pool, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
	}}
}

// Direct returns the base URL of the API host on a plain HTTP listener, for
// benchmarks that leave out the proxy and TLS.
func (s *Simulator) Direct() *url.URL {
	u := *s.direct
	return &u
}

// now is the platform's clock.
func (s *Simulator) now() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }

// SetClockSkew sets how far the platform's clock is ahead of the machine's (behind,
// if negative). What was issued keeps its expiry on the platform's clock, so a
// jump ahead expires tokens; Date headers and the windows' resets follow.
func (s *Simulator) SetClockSkew(d time.Duration) { s.skew.Store(int64(d)) }

// SetAccessTTL sets the life of access tokens issued from now on.
func (s *Simulator) SetAccessTTL(d time.Duration) { s.accessTTL.Store(int64(d)) }

// sleep waits for d. It reports false if the client left or the simulator is
// closing first.
func (s *Simulator) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-s.stop:
	}
	return false
}

// hang waits until the client leaves or the simulator closes.
func (s *Simulator) hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.stop:
	}
}

// readBody reads at most limit bytes of r's body.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, errTooLarge
	}
	return b, err
}

var errTooLarge = errors.New("request body too large")

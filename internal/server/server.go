// Package server is the daemon's interface on its unix socket. It guarantees
// that only the user who owns the daemon is answered, that a run or a lease
// lives no longer than the connection that asked for it, and that no answer but
// the lease's own carries a secret.
package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// Engine is what the server offers over its socket.
type Engine interface {
	// Run carries out one run; event is called from one goroutine at a time, with
	// lines that are valid until it returns. Cancelling ctx cancels the run.
	Run(ctx context.Context, req api.RunRequest, event func(line []byte)) (hub.Run, error)
	// Lease opens a gateway on loopback for the lease that it issues. Closing it
	// ends both; ctx bounds the opening only.
	Lease(ctx context.Context, req api.LeaseRequest) (Lease, error)
	// Cancel tells the run to end and does not wait for it.
	Cancel(ctx context.Context, id hub.RunID) error
}

// Lease is an open gateway on loopback with its lease.
type Lease interface {
	URL() string
	Token() secret.Text
	Close() error
}

// Config is all that a server needs.
type Config struct {
	Socket  string // path of the unix socket; a dead daemon's left-over is replaced
	Engine  Engine
	Page    Page // nil: the daemon serves none
	Version string
	Log     *slog.Logger

	// Patience is how long a client may leave a line unread, and how long Close
	// waits for the ends to reach the clients; 0 is 30 seconds.
	Patience time.Duration
}

// Server answers on the socket from [New] until [Server.Close].
type Server struct {
	cfg     Config
	http    *http.Server
	started time.Time
	served  chan struct{}      // closed when the accept loop has ended
	stop    context.CancelFunc // ends every run and lease
	busy    sync.WaitGroup     // requests in flight
}

const defaultPatience = 30 * time.Second

// maxRequest bounds a request's body: a prompt of 2 MiB, each byte of which JSON
// may write as six.
const maxRequest = 13 << 20

// New listens on the socket. The caller holds the lock that makes it the only
// daemon of the directory: a socket that is in the way is nobody's.
func New(cfg Config) (*Server, error) {
	cfg.Patience = cmp.Or(cfg.Patience, defaultPatience)
	if err := os.Remove(cfg.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing the socket of an earlier daemon: %w", err)
	}
	listener, err := net.Listen("unix", cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("listening on the daemon's socket: %w", err)
	}
	if err := os.Chmod(cfg.Socket, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("closing the daemon's socket to others: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{cfg: cfg, started: time.Now().UTC(), served: make(chan struct{}), stop: stop}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	go func() {
		defer close(s.served)
		if err := s.http.Serve(ownPeers{listener}); !errors.Is(err, http.ErrServerClosed) {
			cfg.Log.Error("serving the socket", "err", err)
		}
	}()
	return s, nil
}

// Close ends every run and lease, waits for their ends, and removes the socket.
// A client that does not take its answer in time is cut off. It may be called
// twice.
func (s *Server) Close() error {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Patience)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		s.cfg.Log.Warn("cutting off the connections that are left")
		err = s.http.Close()
	}
	s.busy.Wait()
	<-s.served
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /api/v1/daemon", s.daemon)
	mux.HandleFunc("POST /api/v1/runs", s.run)
	mux.HandleFunc("POST /api/v1/runs/{id}/cancel", s.cancel)
	mux.HandleFunc("POST /api/v1/leases", s.lease)
	s.pageRoutes(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.busy.Add(1)
		defer s.busy.Done()
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		a := newAnswer(w, s.cfg.Patience, cancel)
		defer a.end()
		mux.ServeHTTP(a, r.WithContext(ctx))
	})
}

func (s *Server) daemon(w http.ResponseWriter, _ *http.Request) {
	d := api.Daemon{PID: os.Getpid(), Version: s.cfg.Version, Started: s.started}
	if s.cfg.Page != nil {
		d.Page = s.cfg.Page.URL()
	}
	writeLine(w, d)
}

func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	var req api.RunRequest
	if !decode(w, r, &req) {
		return
	}
	event := func(line []byte) {
		if !json.Valid(line) { // what the CLI prints is foreign
			return
		}
		writeLine(w, api.RunLine{Event: bytes.TrimSpace(line)})
	}
	run, err := s.cfg.Engine.Run(r.Context(), req, event)
	last := api.RunLine{}
	if run.ID != "" {
		last.Run = &run
	}
	if err != nil {
		last.Error, _ = api.ErrorOf(err)
	}
	writeLine(w, last)
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request) {
	id, err := hub.ParseRunID(r.PathValue("id"))
	if err == nil {
		err = s.cfg.Engine.Cancel(r.Context(), id)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// lease answers with one line and then holds the connection: the lease ends when
// the client goes away or the daemon does.
func (s *Server) lease(w http.ResponseWriter, r *http.Request) {
	var req api.LeaseRequest
	if !decode(w, r, &req) {
		return
	}
	lease, err := s.cfg.Engine.Lease(r.Context(), req)
	if err != nil {
		writeError(w, err)
		return
	}
	defer lease.Close()
	writeLine(w, api.Lease{URL: lease.URL(), Token: lease.Token().Reveal()})
	<-r.Context().Done()
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		writeError(w, fmt.Errorf("%w: reading the request: %w", hub.ErrInvalid, err))
		return false
	}
	return true
}

func writeError(w http.ResponseWriter, err error) {
	wire, status := api.ErrorOf(err)
	w.WriteHeader(status)
	writeLine(w, wire)
}

// writeLine sends v at once. A client that is gone, or does not read, is noticed
// by its context.
// Events go out as they are: escaped for HTML, one could outgrow the client's
// bound of a line.
func writeLine(w http.ResponseWriter, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err == nil {
		http.NewResponseController(w).Flush()
	}
}

package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine is a stand-in whose run echoes its prompt's lines as events.
type engine struct {
	ended  chan string // receives a word when a run or lease has ended
	err    error
	cancel hub.RunID
}

func (e *engine) Run(ctx context.Context, req api.RunRequest, event func([]byte)) (hub.Run, error) {
	if e.err != nil {
		return hub.Run{}, e.err
	}
	for line := range strings.Lines(req.Prompt) {
		event([]byte(line))
	}
	if req.Model == "flood" {
		e.flood(ctx, event)
	}
	if req.Model == "abandon" { // as a run does whose event function does not return
		abandoned := make(chan struct{})
		go func() {
			close(abandoned)
			for range 200 {
				event([]byte(`{"late":"` + strings.Repeat("x", 10_000) + `"}`))
			}
			e.ended <- "late"
		}()
		<-abandoned
		event([]byte("{}"))
	}
	if req.Model == "wait" {
		<-ctx.Done()
		e.ended <- "run"
		return hub.Run{ID: "r-22", Verdict: hub.VerdictCancelled}, nil
	}
	if req.Model == "park" && !req.NoPark {
		return hub.Run{ID: "r-22", Parked: &hub.Parking{Cause: hub.ParkedForLogin, Reason: "why"}}, nil
	}
	return hub.Run{ID: "r-22", Verdict: hub.VerdictDone, Dir: req.Dir}, nil
}

// flood sends events until the run is told to end.
func (e *engine) flood(ctx context.Context, event func([]byte)) {
	line := []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	for ctx.Err() == nil {
		event(line)
	}
	e.ended <- "run"
}

type lease struct{ e *engine }

func (lease) URL() string        { return "http://127.0.0.1:1" }
func (lease) Token() secret.Text { return secret.New("sk-ant-oat01-lease-fake") }
func (l lease) Close() error     { l.e.ended <- "lease"; return nil }

func (e *engine) Lease(context.Context, api.LeaseRequest) (server.Lease, error) {
	return lease{e}, e.err
}

func (e *engine) Cancel(_ context.Context, id hub.RunID) error { e.cancel = id; return e.err }

func start(t *testing.T) (*engine, *api.Client, *server.Server) {
	t.Helper()
	return startAt(t, filepath.Join(t.TempDir(), "hub.sock"))
}

func startAt(t *testing.T, socket string) (*engine, *api.Client, *server.Server) {
	t.Helper()
	e := &engine{ended: make(chan string, 4)}
	s, err := server.New(server.Config{Socket: socket, Engine: e, Version: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c, err := api.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the socket's mode is %v, %v; want 0600", info.Mode(), err)
	}
	return e, c, s
}

func TestRunStreamsEventsThenTheRecord(t *testing.T) {
	_, c, _ := start(t)
	var events []string
	run, err := c.Run(t.Context(), api.RunRequest{Dir: "/w", Prompt: "{\"n\":1}\ngarbage\n{\"n\":2}\n"}, func(line []byte) {
		events = append(events, string(line))
	})
	if err != nil || run.Verdict != hub.VerdictDone || run.Dir != "/w" {
		t.Fatalf("Run = %+v, %v", run, err)
	}
	if diff := cmp.Diff([]string{`{"n":1}`, `{"n":2}`}, events); diff != "" {
		t.Error(diff)
	}
}

func TestAParkedRunHasEndedForItsClient(t *testing.T) {
	_, c, _ := start(t)
	run, err := c.Run(t.Context(), api.RunRequest{Model: "park"}, nil)
	if err != nil || run.Verdict != "" || run.Parked == nil || run.Parked.Cause != hub.ParkedForLogin || run.Parked.Reason != "why" {
		t.Errorf("Run = %+v, %v; want it parked", run, err)
	}
	if run, err = c.Run(t.Context(), api.RunRequest{Model: "park", NoPark: true}, nil); err != nil || run.Verdict != hub.VerdictDone {
		t.Errorf("Run = %+v, %v; want what was asked for to arrive", run, err)
	}
}

func TestErrorsKeepKindAndHint(t *testing.T) {
	e, c, _ := start(t)
	for _, kind := range []error{hub.ErrInvalid, hub.ErrNotFound, hub.ErrLoginRequired, hub.ErrParked, hub.ErrRefused, hub.ErrLocked} {
		e.err = hub.Hint(fmt.Errorf("profile x: %w", kind), "do this")
		_, err := c.Run(t.Context(), api.RunRequest{}, nil)
		if !errors.Is(err, kind) || hub.HintOf(err) != "do this" || err.Error() != e.err.Error() {
			t.Errorf("Run error = %v (hint %q); want %v", err, hub.HintOf(err), e.err)
		}
		_, err = c.Lease(t.Context(), api.LeaseRequest{})
		if !errors.Is(err, kind) {
			t.Errorf("Lease error = %v; want %v", err, kind)
		}
	}
}

func TestRunEndsWithItsClient(t *testing.T) {
	e, c, _ := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Run(ctx, api.RunRequest{Prompt: "{}\n", Model: "wait"}, func([]byte) { cancel() })
	if !errors.Is(err, hub.ErrCancelled) && !errors.Is(err, context.Canceled) {
		t.Errorf("Run error = %v; want cancelled", err)
	}
	if got := <-e.ended; got != "run" {
		t.Errorf("%s ended; want run", got)
	}
}

func TestLeaseEndsWithItsClient(t *testing.T) {
	e, c, _ := start(t)
	l, err := c.Lease(t.Context(), api.LeaseRequest{})
	if err != nil || l.Token().Reveal() != "sk-ant-oat01-lease-fake" || l.URL() == "" {
		t.Fatalf("Lease = %+v, %v", l, err)
	}
	l.Close()
	if got := <-e.ended; got != "lease" {
		t.Errorf("%s ended; want lease", got)
	}
}

func TestLeaseEndsWithTheDaemon(t *testing.T) {
	e, c, s := start(t)
	l, err := c.Lease(t.Context(), api.LeaseRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.ended:
	default:
		t.Error("the server is closed and the lease is not")
	}
}

func TestCancel(t *testing.T) {
	e, c, _ := start(t)
	id := hub.RunID("r-22")
	if err := c.Cancel(t.Context(), id); err != nil || e.cancel != id {
		t.Errorf("Cancel = %v; the engine heard %q", err, e.cancel)
	}
	if err := c.Cancel(t.Context(), "r-22%2f..%2f"); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("Cancel of a path = %v; want ErrInvalid", err)
	}
	if d, err := c.Daemon(t.Context()); err != nil || d.PID != os.Getpid() || d.Version != "test" {
		t.Errorf("Daemon = %+v, %v", d, err)
	}
}

func TestDialWithoutDaemon(t *testing.T) {
	if _, err := api.Dial(t.Context(), filepath.Join(t.TempDir(), "hub.sock")); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Dial = %v; want ErrNotFound", err)
	}
}

func TestRequestsAreBounded(t *testing.T) {
	_, c, _ := start(t)
	_, err := c.Run(t.Context(), api.RunRequest{Prompt: strings.Repeat("x", 14<<20)}, nil)
	if err == nil {
		t.Error("a request of 14 MiB was taken")
	}
}

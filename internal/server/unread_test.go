package server_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/server"
)

// floods starts a run that sends events without end, for a client that reads none.
func floods(t *testing.T, patience time.Duration) (*engine, *server.Server) {
	t.Helper()
	e := &engine{ended: make(chan string, 4)}
	socket := filepath.Join(t.TempDir(), "hub.sock")
	s, err := server.New(server.Config{Socket: socket, Engine: e, Log: slog.New(slog.DiscardHandler), Patience: patience})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	body := `{"prompt":"","model":"flood"}`
	fmt.Fprintf(conn, "POST /api/v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // it has begun
		t.Fatal(err)
	}
	return e, s
}

// forever is when a test gives up.
const forever = 20 * time.Second

func TestARunEndsWhoseClientDoesNotRead(t *testing.T) {
	e, s := floods(t, 100*time.Millisecond)
	select {
	case <-e.ended:
	case <-time.After(forever):
		t.Fatal("the run goes on")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseDoesNotWaitForAClientThatDoesNotRead(t *testing.T) {
	e, s := floods(t, 500*time.Millisecond)
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(forever):
		t.Fatal("the server is not closed")
	}
	select {
	case <-e.ended:
	default:
		t.Error("the server is closed and the run is not")
	}
}

func TestCloseDoesNotWaitForARequestThatDoesNotCome(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "hub.sock")
	s, err := server.New(server.Config{Socket: socket, Engine: &engine{}, Log: slog.New(slog.DiscardHandler), Patience: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprint(conn, "POST /api/v1/runs HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // its body is wanted
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(forever):
		t.Fatal("the server is not closed")
	}
}

// TestAnEventFunctionThatIsLateSpoilsNothing has a run end while a line of its is
// on its way, and more come after its end. The race detector looks on.
func TestAnEventFunctionThatIsLateSpoilsNothing(t *testing.T) {
	e, c, _ := start(t)
	for range 5 {
		run, err := c.Run(t.Context(), api.RunRequest{Model: "abandon"}, func([]byte) {})
		if err != nil || run.Verdict != hub.VerdictDone {
			t.Fatalf("Run = %+v, %v", run, err)
		}
		<-e.ended
	}
}

// TestALeaseThatRestsIsEndedInGoodForm has the end of an answer arrive although
// the last line of it was written long before.
func TestALeaseThatRestsIsEndedInGoodForm(t *testing.T) {
	const patience = 300 * time.Millisecond
	socket := filepath.Join(t.TempDir(), "hub.sock")
	s, err := server.New(server.Config{
		Socket: socket, Engine: &engine{ended: make(chan string, 4)}, Log: slog.New(slog.DiscardHandler), Patience: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /api/v1/leases HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%+v, %v", resp, err)
	}
	time.Sleep(2 * patience) // nothing happens, which is the point
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || len(body) == 0 {
		t.Errorf("%q, %v; want a line and a proper end", body, err)
	}
}

package server

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// answer is the response to one request. Each write has a deadline; one that
// fails ends the request's context. A run may end while a line of its is being
// written, so writes are safe for concurrent use and whole, and what comes after
// the handler's end goes nowhere.
type answer struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
	cancel   context.CancelFunc // of the request's context

	mu    sync.Mutex // covers writes, and what follows
	ended bool
}

func newAnswer(w http.ResponseWriter, patience time.Duration, cancel context.CancelFunc) *answer {
	a := &answer{ResponseWriter: w, control: http.NewResponseController(w), patience: patience, cancel: cancel}
	a.extend() // for what net/http writes by itself
	return a
}

// extend has the deadline start over.
func (a *answer) extend() { a.control.SetWriteDeadline(time.Now().Add(a.patience)) }

func (a *answer) Write(b []byte) (n int, err error) {
	err = a.do(func() error { n, err = a.ResponseWriter.Write(b); return err })
	return n, err
}

// FlushError is what an [http.ResponseController] calls.
func (a *answer) FlushError() error { return a.do(a.control.Flush) }

func (a *answer) do(write func() error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return fmt.Errorf("%w: the request has ended", hub.ErrCancelled)
	}
	a.extend()
	err := write()
	if err != nil {
		a.cancel()
	}
	return err
}

// end lets no write through any more. What the server has still to flush gets the
// deadline of a write.
func (a *answer) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.extend()
}

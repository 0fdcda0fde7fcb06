package run

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// sink hands lines to the caller's function on a goroutine of its own, so that
// one that blocks or panics does not take the sandbox's end with it. The zero
// pointer has no function and does nothing.
type sink struct {
	ctx   context.Context // of the run: once it has ended, nobody waits for the function
	lines chan []byte
	end   sync.Once     // closes lines
	done  chan struct{} // closed when the goroutine has ended
	gone  atomic.Bool   // the run has returned: the function must not be called any more
	panic any           // what the function panicked with; read after done
}

// newSink calls f with each line that is sent. A panic of f ends the run by cancel.
func newSink(ctx context.Context, f func([]byte), cancel context.CancelCauseFunc) *sink {
	if f == nil {
		return nil
	}
	s := &sink{ctx: ctx, lines: make(chan []byte, 64), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer func() {
			if s.panic = recover(); s.panic != nil {
				cancel(errSinkPanicked)
			}
		}()
		for line := range s.lines {
			if s.gone.Load() {
				return
			}
			f(line)
		}
	}()
	return s
}

// send queues a line, which stays the caller's: it is copied. It waits for room
// while the run goes on; after that, what has no room is dropped.
func (s *sink) send(line []byte) {
	if s == nil {
		return
	}
	line = append([]byte(nil), line...)
	select {
	case s.lines <- line:
		return
	default:
	}
	select {
	case s.lines <- line:
	case <-s.done:
	case <-s.ctx.Done():
	}
}

// close waits until all lines have been taken, but not for long once the run's
// context has ended. It returns what the function panicked with, or nil. It may
// be called twice; nobody sends any more.
func (s *sink) close(patience time.Duration) any {
	if s == nil {
		return nil
	}
	s.end.Do(func() { close(s.lines) })
	select {
	case <-s.done:
		return s.panic
	case <-s.ctx.Done():
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.done:
		return s.panic
	case <-timer.C:
		s.gone.Store(true)
		return nil
	}
}

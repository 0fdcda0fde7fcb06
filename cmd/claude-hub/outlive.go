package main

import (
	"errors"
	"log/slog"
	"syscall"
	"time"
)

// helperPatience is how long the daemon waits for refreshes at its end: longer than
// one takes, less than the time that units and compose files have for it.
const helperPatience = 50 * time.Second

// outliveHelpers returns when no process that this one has started is left, or
// after helperPatience. Refreshes end by themselves whatever becomes of the
// daemon, but for one case: with the daemon of a container, the engine ends all
// else in there, and a refresh that is killed may take the login along.
func outliveHelpers(log *slog.Logger) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			_, err := syscall.Wait4(-1, nil, 0, nil)
			if err != nil && !errors.Is(err, syscall.EINTR) {
				return // no child is left
			}
		}
	}()
	select {
	case <-gone:
		return
	case <-time.After(100 * time.Millisecond):
		log.Info("a refresh is under way; waiting for its end")
	}
	select {
	case <-gone:
	case <-time.After(helperPatience):
		log.Warn("a refresh is still under way; it is picked up at the next start")
	}
}

package wire

import (
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher finds out which clients have left while their requests are under way,
// when nobody reads from their connections: one look at all of them, a few times
// a second, in place of a goroutine for each.
type Watcher struct {
	mu      sync.Mutex
	items   []*watched
	polls   []unix.PollFd
	looks   int
	running bool
	stop    chan struct{}
	done    chan struct{}
}

// watched is a connection under watch.
type watched struct {
	fd   int
	at   int // in items; -1: not there
	gone func()
}

// lookEvery is how often a watcher looks. A client that has left is noticed
// within it.
const lookEvery = 200 * time.Millisecond

// idleLooks is how many looks at nobody end the goroutine.
const idleLooks = 10

func (w *Watcher) add(x *watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x.at = len(w.items)
	w.items = append(w.items, x)
	if !w.running {
		w.running = true
		w.stop, w.done = make(chan struct{}), make(chan struct{})
		go w.watch(w.stop, w.done)
	}
}

func (w *Watcher) remove(x *watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x.at >= 0 {
		w.removeLocked(x)
	}
}

// Close waits for the watcher's goroutine. It may be called more than once, and
// the watcher may be used again.
func (w *Watcher) Close() {
	w.mu.Lock()
	if !w.running {
		w.mu.Unlock()
		return
	}
	w.running = false
	close(w.stop)
	done := w.done
	w.mu.Unlock()
	<-done
}

func (w *Watcher) watch(stop, done chan struct{}) {
	defer close(done)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for idle := 0; ; {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		n, gone := w.look()
		for _, g := range gone {
			g()
		}
		if idle++; n > 0 {
			idle = 0
		}
		if idle >= idleLooks && w.rest(stop) {
			return
		}
	}
}

// rest ends the watch if there is still nobody to look at.
func (w *Watcher) rest(stop chan struct{}) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.items) > 0 {
		return false
	}
	if w.stop == stop {
		w.running = false
	}
	return true
}

// look returns how many were under watch and who has left. Those are not looked
// at again.
func (w *Watcher) look() (int, []func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	n := len(w.items)
	if n == 0 {
		return 0, nil
	}
	w.polls = w.polls[:0]
	for _, x := range w.items {
		w.polls = append(w.polls, unix.PollFd{Fd: int32(x.fd), Events: unix.POLLRDHUP})
	}
	if ready, err := unix.Poll(w.polls, 0); err != nil || ready == 0 {
		return n, nil // interrupted: the next look tells
	}
	var gone []func()
	for i := n - 1; i >= 0; i-- { // backwards, since removing moves the last one
		if w.polls[i].Revents != 0 {
			gone = append(gone, w.items[i].gone)
			w.removeLocked(w.items[i])
		}
	}
	return n, gone
}

func (w *Watcher) removeLocked(x *watched) {
	last := len(w.items) - 1
	w.items[x.at] = w.items[last]
	w.items[x.at].at = x.at
	w.items[last] = nil
	w.items = w.items[:last]
	x.at = -1
}

// descriptor returns c's, which is good while c is open, or -1.
func descriptor(c net.Conn) int {
	s, ok := c.(syscall.Conn)
	if !ok {
		return -1
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return -1
	}
	fd := -1
	if raw.Control(func(n uintptr) { fd = int(n) }) != nil {
		return -1
	}
	return fd
}

// silent reports whether an idle connection is still open and has nothing to
// say. What a server says unasked, its goodbye included, ends the connection.
func silent(fd int) bool {
	if fd < 0 {
		return true // found out by using it
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 0
}

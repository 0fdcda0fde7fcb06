package web

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	linkLife    = 10 * time.Minute
	sessionIdle = 12 * time.Hour

	maxLinks    = 16 // waiting to be opened; the oldest gives way
	maxSessions = 64 // the one that was idle longest gives way

	failuresAllowed = 10          // wrong links of one address …
	failureWindow   = time.Minute // … in this time
	maxAddresses    = 1024        // that are counted at once
)

// digest is what is kept of a random text that somebody else holds.
type digest [sha256.Size]byte

func digestOf(text string) digest { return sha256.Sum256([]byte(text)) }

func (d digest) equal(e digest) bool { return subtle.ConstantTimeCompare(d[:], e[:]) == 1 }

// operators knows who may use the page: by links that are good once, which become
// sessions. All of it is in memory, and only as digests.
type operators struct {
	now func() time.Time

	mu       sync.Mutex // guards what follows
	links    []link     // the oldest first
	sessions []*session
	failures map[netip.Addr]failures
}

type link struct {
	digest  digest
	expires time.Time
	next    string // the path that it leads to
}

type session struct {
	digest digest
	seen   time.Time     // guarded by operators.mu
	ended  chan struct{} // closed when the session is
}

type failures struct {
	since time.Time
	n     int
}

func newOperators(now func() time.Time) *operators {
	return &operators{now: now, failures: map[netip.Addr]failures{}}
}

// issue makes a link's random part: 130 bits.
func (o *operators) issue(next string) (token string, expires time.Time) {
	token = rand.Text()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tidyLocked()
	if len(o.links) >= maxLinks {
		o.links = slices.Delete(o.links, 0, 1)
	}
	expires = o.now().Add(linkLife)
	o.links = append(o.links, link{digestOf(token), expires, next})
	return token, expires
}

// admits reports whether a link would be taken, without taking it.
func (o *operators) admits(token string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tidyLocked()
	return o.findLocked(token) >= 0
}

// redeem takes the link and begins a session, whose cookie it returns.
func (o *operators) redeem(token string) (cookie, next string, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tidyLocked()
	i := o.findLocked(token)
	if i < 0 {
		return "", "", false
	}
	next = o.links[i].next
	o.links = slices.Delete(o.links, i, i+1)
	if len(o.sessions) >= maxSessions {
		oldest := slices.MinFunc(o.sessions, func(a, b *session) int { return a.seen.Compare(b.seen) })
		o.endLocked(oldest)
	}
	cookie = rand.Text() + rand.Text()
	o.sessions = append(o.sessions, &session{digest: digestOf(cookie), seen: o.now(), ended: make(chan struct{})})
	return cookie, next, true
}

// findLocked looks at every link, so that the time it takes says nothing.
func (o *operators) findLocked(token string) int {
	want, found := digestOf(token), -1
	for i, l := range o.links {
		if l.digest.equal(want) {
			found = i
		}
	}
	return found
}

// session returns the session of a cookie and takes it for used, or nil.
func (o *operators) session(cookie string) *session {
	want := digestOf(cookie)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tidyLocked()
	var found *session
	for _, s := range o.sessions {
		if s.digest.equal(want) {
			found = s
		}
	}
	if found != nil {
		found.seen = o.now()
	}
	return found
}

func (o *operators) end(s *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLocked(s)
}

func (o *operators) endLocked(s *session) {
	if i := slices.Index(o.sessions, s); i >= 0 {
		o.sessions = slices.Delete(o.sessions, i, i+1)
		close(s.ended)
	}
}

// tidy ends the sessions that were idle for too long.
func (o *operators) tidy() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tidyLocked()
}

// any reports whether anybody is the operator now.
func (o *operators) any() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tidyLocked()
	return len(o.sessions) > 0
}

// tidyLocked forgets what has run out.
func (o *operators) tidyLocked() {
	now := o.now()
	o.links = slices.DeleteFunc(o.links, func(l link) bool { return !now.Before(l.expires) })
	for _, s := range slices.Clone(o.sessions) {
		if now.Sub(s.seen) >= sessionIdle {
			o.endLocked(s)
		}
	}
	for addr, f := range o.failures {
		if now.Sub(f.since) >= failureWindow {
			delete(o.failures, addr)
		}
	}
}

// failed counts a link that was none.
func (o *operators) failed(from netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tidyLocked()
	f, known := o.failures[from]
	if !known {
		if len(o.failures) >= maxAddresses {
			return // that many addresses are an attack which this can't slow down
		}
		f.since = o.now()
	}
	f.n++
	o.failures[from] = f
}

// slowed reports whether an address has tried so many wrong links that the next is
// not even logged. It does not keep a right one out: 130 bits can't be guessed.
func (o *operators) slowed(from netip.Addr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tidyLocked()
	return o.failures[from].n >= failuresAllowed
}

// addressOf is who a request comes from: of IPv6, the network that one customer
// has.
func addressOf(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	a := ap.Addr().Unmap()
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

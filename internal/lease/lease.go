// Package lease issues a run's right to use a profile, checks it and takes it
// back.
//
//  1. A lease token is random and is held by its hash; it works for one run, until
//     its lifetime is over or it is revoked, whichever comes first, and then
//     never again.
//  2. Leases live in memory only, on purpose: a hub that dies takes them along.
//  3. No request begins once a limit is reached. What is under way then runs to
//     its end, so that a limit on tokens or cost can be passed by what the requests
//     in flight still use; Limits.Parallel says how many these are.
package lease

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// The reasons for which a token is not accepted. All are hub.ErrRefused.
var (
	ErrUnknown = fmt.Errorf("%w: unknown lease token", hub.ErrRefused)
	ErrExpired = fmt.Errorf("%w: the lease has expired", hub.ErrRefused)
	ErrRevoked = fmt.Errorf("%w: the lease has ended", hub.ErrRefused)
)

// LimitError says which limit a request ran into. It is hub.ErrRefused.
type LimitError struct {
	Limit string // "requests", "tokens", "cost" or "model"
	Text  string // for a person
}

func (e *LimitError) Error() string { return e.Text }
func (e *LimitError) Unwrap() error { return hub.ErrRefused }

// Grant is what a lease allows.
type Grant struct {
	Run     hub.RunID
	Profile hub.ProfileID
	Limits  hub.Limits
}

// TokenPrefix starts every lease token. It has the shape of an access token, so
// that the CLI takes it for one, and is told from one at a glance.
const TokenPrefix = "sk-ant-oat01-lease-"

const tokenBytes = 32

type hash = [sha256.Size]byte

// Book holds the leases of one process. Its methods may be called concurrently.
type Book struct {
	now func() time.Time

	mu     sync.Mutex
	leases map[hash]*Lease // with the ended ones, until their lifetime is over
	swept  time.Time
}

// NewBook returns an empty book. A nil now means time.Now.
func NewBook(now func() time.Time) *Book {
	if now == nil {
		now = time.Now
	}
	return &Book{now: now, leases: make(map[hash]*Lease)}
}

// Issue makes a lease that lives for g.Limits.Lifetime from now.
func (b *Book) Issue(g Grant) (*Lease, error) {
	if g.Run == "" || g.Profile == "" {
		return nil, fmt.Errorf("%w: a lease needs a run and a profile", hub.ErrInvalid)
	}
	l := g.Limits
	if l.Lifetime <= 0 {
		return nil, fmt.Errorf("%w: a lease needs a lifetime, not %v", hub.ErrInvalid, l.Lifetime)
	}
	if l.Requests < 0 || l.Tokens < 0 || l.Cost < 0 || l.Parallel < 0 || slices.Contains(l.Models, "") {
		return nil, fmt.Errorf("%w: a limit of the lease is negative or empty", hub.ErrInvalid)
	}
	random := make([]byte, tokenBytes)
	rand.Read(random) // never fails, see crypto/rand
	token := TokenPrefix + base64.RawURLEncoding.EncodeToString(random)
	g.Limits.Models = slices.Clone(l.Models)
	now := b.now()
	lease := &Lease{
		grant: g, book: b, token: secret.New(token), hash: sha256.Sum256([]byte(token)),
		expires: now.Add(l.Lifetime), done: make(chan struct{}),
	}
	if l.Parallel > 0 {
		lease.slots = make(chan struct{}, l.Parallel)
	}
	lease.timer = time.AfterFunc(l.Lifetime, lease.end)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweepLocked(now)
	b.leases[lease.hash] = lease
	return lease, nil
}

// sweepLocked forgets leases that have been over for a while. Until then their
// tokens are told from unknown ones.
func (b *Book) sweepLocked(now time.Time) {
	if now.Sub(b.swept) < time.Minute {
		return
	}
	b.swept = now
	for h, l := range b.leases {
		if now.Sub(l.expires) > time.Hour {
			delete(b.leases, h)
		}
	}
}

// Check returns the live lease whose token this is, or ErrUnknown, ErrExpired or
// ErrRevoked. How long it takes tells nothing about tokens that exist.
func (b *Book) Check(token string) (*Lease, error) {
	h := sha256.Sum256([]byte(token))
	b.mu.Lock()
	l := b.leases[h]
	b.mu.Unlock()
	if l == nil {
		return nil, ErrUnknown
	}
	return l, l.Err()
}

// Lease is one run's right to use a profile. Its methods may be called
// concurrently.
type Lease struct {
	grant   Grant
	book    *Book
	token   secret.Text
	hash    hash
	expires time.Time
	timer   *time.Timer
	slots   chan struct{} // nil if requests in flight are not limited

	endOnce sync.Once
	done    chan struct{}

	mu      sync.Mutex
	revoked bool
	usage   hub.Usage
}

// Run returns the run that the lease was issued to.
func (l *Lease) Run() hub.RunID { return l.grant.Run }

// Profile returns the profile that the lease gives the use of.
func (l *Lease) Profile() hub.ProfileID { return l.grant.Profile }

// Token returns the lease token: what a sandbox holds as the placeholder.
func (l *Lease) Token() secret.Text { return l.token }

// Expires returns when the lease's lifetime is over.
func (l *Lease) Expires() time.Time { return l.expires }

// Matches reports whether token is the lease's own, in constant time.
func (l *Lease) Matches(token string) bool {
	h := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(h[:], l.hash[:]) == 1
}

// Done returns a channel that is closed when the lease is over.
func (l *Lease) Done() <-chan struct{} { return l.done }

// Err returns nil while the lease is good, then ErrRevoked or ErrExpired.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.errLocked()
}

func (l *Lease) errLocked() error {
	if l.revoked {
		return ErrRevoked
	}
	select {
	case <-l.done:
		return ErrExpired
	default:
	}
	if !l.book.now().Before(l.expires) {
		l.end()
		return ErrExpired
	}
	return nil
}

// Revoke ends the lease. It may be called more than once.
func (l *Lease) Revoke() {
	l.mu.Lock()
	if l.errLocked() == nil {
		l.revoked = true
	}
	l.mu.Unlock()
	l.timer.Stop()
	l.end()
}

func (l *Lease) end() { l.endOnce.Do(func() { close(l.done) }) }

// Usage returns what has gone through the lease so far, requests in flight
// included as far as they have told.
func (l *Lease) Usage() hub.Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.usage
	u.Models = slices.Clone(u.Models)
	return u
}

// Admit reports whether a request to model may be made that costs nothing, such
// as counting tokens: nil, ErrRevoked, ErrExpired or a *LimitError.
func (l *Lease) Admit(model string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.admitLocked(model)
}

// Begin counts a request to model. It returns ErrRevoked, ErrExpired or a
// *LimitError if the request may not be made. If as many as allowed are in flight
// already it waits for one of them to end, for ctx or for the lease.
func (l *Lease) Begin(ctx context.Context, model string) (*Request, error) {
	if err := l.Admit(model); err != nil { // before a wait that would be for nothing
		return nil, err
	}
	if l.slots != nil {
		select {
		case l.slots <- struct{}{}:
		case <-l.done:
			return nil, l.Err()
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for a request of this run to end: %w", context.Cause(ctx))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.admitLocked(model); err != nil {
		l.leave()
		return nil, err
	}
	l.usage.Requests++
	return &Request{lease: l}, nil
}

func (l *Lease) leave() {
	if l.slots != nil {
		<-l.slots
	}
}

func (l *Lease) admitLocked(model string) error {
	if err := l.errLocked(); err != nil {
		return err
	}
	lim, u := l.grant.Limits, l.usage
	switch {
	case len(lim.Models) > 0 && !matches(lim.Models, model):
		return &LimitError{"model", fmt.Sprintf("this run may not use the model %q, only %s", model, strings.Join(lim.Models, ", "))}
	case lim.Requests > 0 && u.Requests >= lim.Requests:
		return &LimitError{"requests", fmt.Sprintf("this run has made all of its %d requests", lim.Requests)}
	case lim.Tokens > 0 && u.Tokens() >= lim.Tokens:
		return &LimitError{"tokens", fmt.Sprintf("this run has used %d tokens of its %d", u.Tokens(), lim.Tokens)}
	case lim.Cost > 0 && u.Cost >= lim.Cost:
		return &LimitError{"cost", fmt.Sprintf("this run has used $%.2f of its $%.2f at list price", u.Cost.USD(), lim.Cost.USD())}
	}
	return nil
}

// matches reports whether one of the patterns, a name or a prefix ending in '*',
// is for model.
func matches(patterns []string, model string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			return strings.HasPrefix(model, prefix)
		}
		return p == model
	})
}

// Request is a request in flight. It is for one goroutine.
type Request struct {
	lease *Lease
	last  hub.Usage
	ended bool
}

// Record says that the request has used so much so far, by model. It replaces
// what was recorded for this request before. After End it does nothing.
func (r *Request) Record(model string, u hub.Usage) {
	if r.ended {
		return
	}
	l := r.lease
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.usage
	t.InputTokens += u.InputTokens - r.last.InputTokens
	t.OutputTokens += u.OutputTokens - r.last.OutputTokens
	t.CacheReadTokens += u.CacheReadTokens - r.last.CacheReadTokens
	t.CacheWriteTokens += u.CacheWriteTokens - r.last.CacheWriteTokens
	t.Cost += u.Cost - r.last.Cost
	r.last = u
	if model != "" && !slices.Contains(t.Models, model) && len(t.Models) < maxModels {
		t.Models = append(t.Models, model)
	}
}

// maxModels bounds a run's list of models, whose names come from outside.
const maxModels = 32

// End says that the request is over. It may be called more than once.
func (r *Request) End() {
	if !r.ended {
		r.ended = true
		r.lease.leave()
	}
}

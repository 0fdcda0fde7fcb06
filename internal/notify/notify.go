// Package notify tells a person what the hub can't mend by itself, through the
// services of their choice.
//
// Guarantees:
//
//  1. An event is told once: for each profile and login, however often the hub
//     restarts and however many processes look. What was told is written down
//     before it is sent. Only a crash between the sending of a message and the
//     note that it was sent (or an end while a service takes seconds to answer)
//     has it sent again; a mail to several recipients of which one is refused
//     goes again to all.
//  2. A new sign-in starts over, and is told itself where an alarm came before.
//  3. A service that is down gets its messages later, for three days.
//  4. The URL of a service is a secret. It is in no error, log or file of ours,
//     and neither is what the library or the service said: an error names the
//     service's kind and one of a few causes.
//  5. A message holds names, times and reasons; no token and no prompt.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Condition is how one profile stands.
type Condition struct {
	Profile hub.ProfileID
	Name    hub.ProfileName

	// Login is the generation of the login, which each refresh and sign-in changes;
	// 0 is none. Spare is that of the setup token.
	Login, Spare hub.Generation

	Health       hub.Health
	Reason       string    // of the health, one line; empty when it is ok
	LoginExpires time.Time // zero if that is not known
	SpareInUse   bool
	SpareExpires time.Time // zero without a spare
	SecondWriter bool      // somebody else has refreshed this login
	Parked       int       // runs that wait for this login
}

// Config configures a [Notifier].
type Config struct {
	Dir     string // the hub's directory, where it is written down what was told
	Targets []Target

	// Link returns where to sign in to a profile: an address, or words that name a
	// command. Required.
	Link func(hub.ProfileName) string

	Log *slog.Logger     // nil discards
	Now func() time.Time // nil is time.Now
}

// Notifier looks at conditions and tells what is new in them. It is safe for
// concurrent use.
type Notifier struct {
	cfg  Config
	path string
}

// How long a message is tried, and how long a service is left alone after its
// failures.
const (
	maxAge   = 3 * 24 * time.Hour
	minPause = time.Minute
	maxPause = time.Hour
)

// New returns a notifier. Without targets it does nothing.
func New(cfg Config) *Notifier {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Notifier{cfg: cfg, path: filepath.Join(cfg.Dir, "notify.json")}
}

// Observe tells what is new in the conditions, of which there is one for every
// profile, and delivers what could not be delivered before. Where another process
// is at it, this one leaves it to that. The error says that nothing could be
// written down, and so nothing new was told; a service that fails is in the log.
func (n *Notifier) Observe(ctx context.Context, conditions []Condition) error {
	return n.observe(ctx, conditions, true)
}

// ObserveSome is Observe where the conditions of some profiles can't be had. What
// was told of those is not forgotten.
func (n *Notifier) ObserveSome(ctx context.Context, conditions []Condition) error {
	return n.observe(ctx, conditions, false)
}

func (n *Notifier) observe(ctx context.Context, conditions []Condition, all bool) error {
	if len(n.cfg.Targets) == 0 {
		return nil
	}
	lock := flock.New(n.path+".lock", flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("locking what was told: %w", err)
	}
	if !ok {
		return nil
	}
	defer lock.Close()
	b, err := readBook(n.path)
	if errors.Is(err, hub.ErrFormat) {
		// Telling something twice is the lesser evil.
		n.cfg.Log.Warn("what was told is not known any more, and is told again", "err", err)
		b, err = &book{}, nil
	}
	if err != nil {
		return err
	}
	if all {
		b.forget(conditions)
	}
	for _, c := range conditions {
		for _, m := range b.of(c.Profile).news(c, n.cfg.Link(c.Name), n.cfg.Now()) {
			b.post(m, n.cfg.Targets, n.cfg.Now())
		}
	}
	if err := b.write(n.path); err != nil { // before anything is sent
		return err
	}
	n.deliver(ctx, b)
	return b.write(n.path)
}

// deliver sends what is due, to each service in order, to all at once.
func (n *Notifier) deliver(ctx context.Context, b *book) {
	now := n.cfg.Now()
	b.dropStale(now, n.cfg.Targets, n.cfg.Log)
	var group sync.WaitGroup
	var mu sync.Mutex // covers the book
	for _, t := range n.cfg.Targets {
		due := b.due(t.Name(), now)
		if len(due) == 0 {
			continue
		}
		group.Go(func() {
			for _, p := range due {
				err := t.Send(ctx, p.Message)
				mu.Lock()
				p.tried(err, now)
				err2 := b.write(n.path) // at once: what was sent must not be sent again
				mu.Unlock()
				if err2 != nil {
					n.cfg.Log.Error("a message may be sent twice", "service", t.Name(), "err", err2)
				}
				if err != nil {
					n.cfg.Log.Warn("a message was not delivered yet", "service", t.Name(), "event", p.Event, "tries", p.Tries, "err", err)
					return
				}
				n.cfg.Log.Info("told", "service", t.Name(), "event", p.Event, "profile", p.Profile)
			}
		})
	}
	group.Wait()
	b.dropSent()
}

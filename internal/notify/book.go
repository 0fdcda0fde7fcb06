package notify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/google/renameio/v2"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// book is notify.json: what was told, and what is still to be delivered.
type book struct {
	Profiles map[hub.ProfileID]*told `json:"profiles,omitempty"`
	Pending  []*pending              `json:"pending,omitempty"`

	written []byte // what the file holds
}

// pending is a message to one service.
type pending struct {
	Message
	To    string    `json:"to"` // the service's name
	Since time.Time `json:"since"`
	Tries int       `json:"tries,omitempty"`
	Next  time.Time `json:"next,omitzero"` // not before

	sent bool
}

// maxBook bounds the file, and maxPending what is in it: of a service that is
// down for three days, the newest messages.
const (
	maxBook    = 4 << 20
	maxPending = 500
)

// readBook returns an empty book if there is none yet. What can't be understood
// is [hub.ErrFormat].
func readBook(path string) (*book, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return &book{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what was told: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBook+1))
	if err != nil {
		return nil, fmt.Errorf("reading what was told: %w", err)
	}
	return parseBook(data)
}

func parseBook(data []byte) (*book, error) {
	b := &book{}
	if len(data) > maxBook {
		return nil, fmt.Errorf("%w: the file of what was told has more than %d bytes", hub.ErrFormat, maxBook)
	}
	if err := json.Unmarshal(data, b); err != nil {
		return nil, fmt.Errorf("%w: what was told: %w", hub.ErrFormat, err)
	}
	b.written = data
	b.Pending = slices.DeleteFunc(b.Pending, func(p *pending) bool { return p == nil })
	for id, t := range b.Profiles {
		if t == nil {
			delete(b.Profiles, id)
		}
	}
	return b, nil
}

// write replaces the file, if there is news: a crash leaves the old one or the new
// one.
func (b *book) write(path string) error {
	left := &book{Profiles: b.Profiles}
	for _, p := range b.Pending {
		if !p.sent {
			left.Pending = append(left.Pending, p)
		}
	}
	data, err := json.MarshalIndent(left, "", " ")
	if err == nil && bytes.Equal(data, b.written) {
		return nil
	}
	if err == nil {
		err = renameio.WriteFile(path, data, 0o600, renameio.WithStaticPermissions(0o600))
	}
	if err != nil {
		return fmt.Errorf("writing down what was told: %w", err)
	}
	b.written = data
	return nil
}

func (b *book) of(profile hub.ProfileID) *told {
	if b.Profiles == nil {
		b.Profiles = map[hub.ProfileID]*told{}
	}
	if b.Profiles[profile] == nil {
		b.Profiles[profile] = &told{}
	}
	return b.Profiles[profile]
}

// forget drops the profiles that are gone.
func (b *book) forget(conditions []Condition) {
	for id := range b.Profiles {
		if !slices.ContainsFunc(conditions, func(c Condition) bool { return c.Profile == id }) {
			delete(b.Profiles, id)
		}
	}
}

// post puts a message into the queue of each service. One that ends an alarm
// takes the place of the alarm where that was not delivered yet.
func (b *book) post(m Message, targets []Target, now time.Time) {
	alarms := []Event{EventRequired, EventSpare}
	for _, t := range targets {
		if m.Event == EventSignedIn {
			n := len(b.Pending)
			b.Pending = slices.DeleteFunc(b.Pending, func(p *pending) bool {
				return p.To == t.Name() && p.Profile == m.Profile && slices.Contains(alarms, p.Event)
			})
			if len(b.Pending) < n {
				continue
			}
		}
		b.Pending = append(b.Pending, &pending{Message: m, To: t.Name(), Since: now})
	}
	b.Pending = b.Pending[max(0, len(b.Pending)-maxPending):]
}

// dropStale gives up what has been tried for too long, and what has no service
// any more.
func (b *book) dropStale(now time.Time, targets []Target, log *slog.Logger) {
	b.Pending = slices.DeleteFunc(b.Pending, func(p *pending) bool {
		there := slices.ContainsFunc(targets, func(t Target) bool { return t.Name() == p.To })
		stale := now.Sub(p.Since) > maxAge
		if stale || !there {
			log.Error("a message was never delivered", "service", p.To, "event", p.Event, "profile", p.Profile, "tries", p.Tries)
		}
		return stale || !there
	})
}

// due returns the messages for a service, in order; nothing while it is to be
// left alone.
func (b *book) due(service string, now time.Time) []*pending {
	var all []*pending
	for _, p := range b.Pending {
		if p.To != service {
			continue
		}
		if now.Before(p.Next) {
			return nil
		}
		all = append(all, p)
	}
	return all
}

func (p *pending) tried(err error, now time.Time) {
	if err == nil {
		p.sent = true
		return
	}
	p.Next = now.Add(min(maxPause, minPause<<min(p.Tries, 10)))
	p.Tries++
}

func (b *book) dropSent() {
	b.Pending = slices.DeleteFunc(b.Pending, func(p *pending) bool { return p.sent })
}

// maxReason bounds foreign words in a message.
const maxReason = 300

// oneLine makes foreign words fit for a message: no tokens, no controls, not long.
func oneLine(s string) string {
	s = string(secret.Scrub([]byte(strings.ToValidUTF8(s, ""))))
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if r := []rune(s); len(r) > maxReason {
		return string(r[:maxReason]) + "…"
	}
	return s
}

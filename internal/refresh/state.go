package refresh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// state is status.json: what the refreshes so far tell about one generation of
// the login. It holds no token. Whoever writes it holds the profile's lock. It
// says nothing about any other generation, so that a sign-in clears it.
type state struct {
	Generation hub.Generation `json:"generation"`
	Health     hub.Health     `json:"health"`
	Reason     string         `json:"reason,omitempty"` // one line for a person; empty when ok
	// Dead: the platform refuses the access token before its time.
	Dead bool `json:"dead,omitempty"`
	// Doubt: the refresh token was sent, nothing came back, and the old access
	// token was still accepted afterwards. Asked once more before the next try.
	Doubt bool `json:"doubt,omitempty"`
	// Sent: a refresh of this generation may have reached the platform, and gave
	// no new one.
	Sent bool `json:"sent,omitempty"`
	// SecondWriter: the platform refused the refresh token although it was never
	// sent from here before. Somebody else used it, or ended the login.
	SecondWriter bool `json:"second_writer,omitempty"`

	Failures  int       `json:"failures,omitempty"`    // in a row
	NotBefore time.Time `json:"not_before,omitzero"`   // end of the back-off
	LastError string    `json:"last_error,omitempty"`  // of the newest failure
	LastTry   time.Time `json:"last_try,omitzero"`     // when a refresh last ended, however
	Early     int       `json:"early_ends,omitempty"`  // generations in a row that died young
	Refreshed time.Time `json:"last_refresh,omitzero"` // of the newest rotation; kept across generations
	// SpareDead is the generation of the setup token that the platform refused.
	SpareDead hub.Generation `json:"spare_dead,omitempty"`
}

// of returns what s says about generation gen.
func (s state) of(gen hub.Generation) state {
	if s.Generation == gen {
		return s
	}
	return state{Generation: gen, Health: hub.HealthOK, Refreshed: s.Refreshed, SpareDead: s.SpareDead}
}

const maxState = 64 << 10

// readState returns what is known; nothing is known when there is no file. A file
// that can't be read or understood is an error: it may have said that the refresh
// token must not be sent.
func (p place) readState() (state, error) {
	f, err := os.Open(p.status())
	if errors.Is(err, os.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("reading the refresh status: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return state{}, fmt.Errorf("reading the refresh status: %w", err)
	}
	s, err := parseState(b)
	if err != nil {
		return state{}, hub.Hint(fmt.Errorf("%s: %w", p.status(), err), "if the login works otherwise, remove that file; else sign in again with `claude-hub login`")
	}
	return s, nil
}

func parseState(b []byte) (state, error) {
	var s state
	if len(b) > maxState {
		return s, fmt.Errorf("%w: the refresh status has more than %d bytes", hub.ErrFormat, maxState)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return state{}, fmt.Errorf("%w: the refresh status is not JSON of this shape", hub.ErrFormat)
	}
	switch s.Health {
	case hub.HealthOK, hub.HealthSuspect, hub.HealthLoginRequired:
		return s, nil
	}
	return state{}, fmt.Errorf("%w: the refresh status names no health", hub.ErrFormat)
}

// writeState makes s durable.
func (p place) writeState(s state) error {
	s.Reason, s.LastError = tidy(s.Reason), tidy(s.LastError)
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeDurably(p.status(), append(b, '\n'))
}

// tidy bounds a text for a person and takes everything token-like out of it.
func tidy(s string) string {
	b := secret.Scrub([]byte(s))
	if len(b) > 500 {
		b = append(b[:500:500], "…"...)
	}
	return string(b)
}

// The back-off after the first failure, and the longest. What never left the
// machine is tried again sooner: nobody is asked too often by that.
const (
	firstBackoff   = 5 * time.Second
	longestBackoff = 10 * time.Minute
	longestUnsent  = time.Minute
)

// backoff returns how long to wait after the given number of failures in a row,
// between half and all of an exponentially growing time.
func backoff(failures int, first, longest time.Duration) time.Duration {
	d := longest
	if shift := failures - 1; shift < 20 {
		d = min(longest, first<<max(0, shift))
	}
	return d/2 + rand.N(d/2+1)
}

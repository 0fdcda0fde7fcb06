// Package api is what goes over the daemon's socket: the wire types and the Go
// client. The socket is a unix socket inside the hub's private directory; being
// able to open it is the authorization, and the server checks that the peer is
// the same user.
//
// Answers that last (a run, a lease) are streams of JSON lines. What such a
// stream stands for lives as long as its connection: a client that goes away,
// in any way, cancels its run and ends its lease. A run that is parked has ended
// for its connection: its record comes with hub.Run.Parked set and no verdict.
package api

import (
	"encoding/json"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Version is the version of this interface, the first element of every path.
const Version = "v1"

// RunRequest asks for one run. It is the body of POST /api/v1/runs.
type RunRequest struct {
	Profile      hub.ProfileName `json:"profile"` // empty: the hub's default profile
	Dir          string          `json:"dir"`     // the workspace, absolute
	Prompt       string          `json:"prompt"`
	Model        string          `json:"model,omitempty"`   // empty: the profile's, or the CLI's choice
	Resume       hub.RunID       `json:"resume,omitempty"`  // an earlier run, whose conversation to go on with
	Timeout      time.Duration   `json:"timeout,omitempty"` // nanoseconds; zero: the profile's, or 30 minutes
	Limits       hub.Limits      `json:"limits"`
	Delivery     hub.Delivery    `json:"delivery,omitempty"`
	AllowedTools []string        `json:"allowed_tools,omitempty"` // empty: all tools
	// NoPark has the run end, with its verdict, where the daemon would park it: for
	// want of a login or of the plan's window, or because the daemon stops.
	NoPark bool `json:"no_park,omitempty"`
}

// RunLine is one line of the answer to POST /api/v1/runs: events of the CLI as
// they come, and last either the run's record or an error.
type RunLine struct {
	Event json.RawMessage `json:"event,omitempty"`
	Run   *hub.Run        `json:"run,omitempty"`
	Error *Error          `json:"error,omitempty"`
}

// LeaseRequest asks for a lease that lives as long as the connection. It is the
// body of POST /api/v1/leases.
type LeaseRequest struct {
	Profile hub.ProfileName `json:"profile"`
	Limits  hub.Limits      `json:"limits"` // Lifetime zero: the profile's timeout, or 24 hours
}

// Lease is the one line of the answer to POST /api/v1/leases. The lease token is
// written out here: handing it to the holder is what the call is for.
type Lease struct {
	URL   string `json:"url"`   // of the gateway, on loopback
	Token string `json:"token"` // the lease token
}

// Daemon is the answer to GET /api/v1/daemon.
type Daemon struct {
	PID     int       `json:"pid"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Page    string    `json:"page,omitempty"` // address of its web page; empty: none
}

// Error is a failure on the wire. Its kind survives the trip: see [Error.Unwrap].
type Error struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the hub's sentinel of the error's kind, or nil for a kind that
// has none, so that errors.Is works on both sides of the socket.
func (e *Error) Unwrap() error { return kinds[e.Kind] }

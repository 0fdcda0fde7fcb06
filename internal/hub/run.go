package hub

import (
	"fmt"
	"time"
)

// Verdict is how a run ended. The empty verdict means that it has not.
type Verdict string

// Every accepted run ends in exactly one of these.
const (
	VerdictDone          Verdict = "done"
	VerdictRefused       Verdict = "refused"        // a limit or a policy of the hub said no
	VerdictParked        Verdict = "parked"         // the plan's window is used up until Run.Until
	VerdictLoginRequired Verdict = "login-required" // only the owner can go on from here
	VerdictTimedOut      Verdict = "timed-out"
	VerdictCancelled     Verdict = "cancelled"
	VerdictFailed        Verdict = "failed"
)

// Delivery says what a run's CLI is given to sign its requests with.
type Delivery string

// The deliveries. The zero value says nothing, and then it is DeliveryGateway.
const (
	// DeliveryGateway leaves a placeholder in the sandbox; the gateway swaps it.
	DeliveryGateway Delivery = "gateway"
	// DeliveryCopy leaves a working copy of the captured state with the real
	// access token, never the refresh token, in the sandbox.
	DeliveryCopy Delivery = "copy"

	// oldGateway is what older hubs called DeliveryGateway. It is still read.
	oldGateway Delivery = "inject"
)

// ParseDelivery accepts "gateway", "copy" and, for nothing said, "".
func ParseDelivery(s string) (Delivery, error) {
	var d Delivery
	d.set(s)
	if d != "" && d != DeliveryGateway && d != DeliveryCopy {
		return "", Hint(fmt.Errorf("%w: there is no delivery %q", ErrInvalid, s), "use gateway or copy")
	}
	return d, nil
}

// UnmarshalText takes any text, so that the record of a newer hub can be read.
// Whoever acts on a delivery refuses one that it does not know.
func (d *Delivery) UnmarshalText(text []byte) error {
	d.set(string(text))
	return nil
}

// Scan is UnmarshalText for a column of a database.
func (d *Delivery) Scan(column any) error {
	switch text := column.(type) {
	case string:
		d.set(text)
	case []byte:
		d.set(string(text))
	default:
		return fmt.Errorf("%w: a delivery is a text, not a %T", ErrFormat, column)
	}
	return nil
}

func (d *Delivery) set(text string) {
	if *d = Delivery(text); *d == oldGateway {
		*d = DeliveryGateway
	}
}

// Limits bounds what one lease, and so one run, may use. Zero fields mean "no
// limit of the hub's own", except Lifetime, whose zero is refused by the lease book.
type Limits struct {
	Requests int           `json:"requests,omitempty"` // inference requests
	Tokens   int64         `json:"tokens,omitempty"`   // input, output and cache tokens together
	Cost     MicroUSD      `json:"cost_micro_usd,omitempty"`
	Models   []string      `json:"models,omitempty"`   // exact names, or prefixes ending in '*'
	Lifetime time.Duration `json:"lifetime,omitempty"` // of the lease, from its issue
	Parallel int           `json:"parallel,omitempty"` // requests in flight at once
}

// MicroUSD is an amount of money in millionths of a US dollar, at list price:
// what the use would have cost without the plan.
type MicroUSD int64

// USD returns the amount in dollars, for display.
func (m MicroUSD) USD() float64 { return float64(m) / 1e6 }

// Usage is what has gone through a lease so far.
type Usage struct {
	Requests         int      `json:"requests"`
	InputTokens      int64    `json:"input_tokens"`
	OutputTokens     int64    `json:"output_tokens"`
	CacheReadTokens  int64    `json:"cache_read_tokens"`
	CacheWriteTokens int64    `json:"cache_write_tokens"`
	Cost             MicroUSD `json:"cost_micro_usd"`
	Models           []string `json:"models,omitempty"` // in order of first use
}

// Tokens is the sum that Limits.Tokens bounds.
func (u Usage) Tokens() int64 {
	return u.InputTokens + u.OutputTokens + u.CacheReadTokens + u.CacheWriteTokens
}

// Run is the record of one run, from queued to verdict.
type Run struct {
	ID RunID `json:"id"`
	// ProfileID is empty in the records of older hubs.
	ProfileID ProfileID   `json:"profile_id,omitempty"`
	Profile   ProfileName `json:"profile"`         // its name at the time
	Dir       string      `json:"dir"`             // the workspace on the host
	Prompt    string      `json:"prompt"`          // its first 2,000 bytes
	Model     string      `json:"model,omitempty"` // as asked for; empty is the CLI's choice
	Delivery  Delivery    `json:"delivery"`
	Started   time.Time   `json:"started"`
	Ended     time.Time   `json:"ended,omitzero"`
	Verdict   Verdict     `json:"verdict,omitempty"`
	Reason    string      `json:"reason,omitempty"` // one line for a person; empty when done
	Until     time.Time   `json:"until,omitzero"`   // when parked: the earliest time to try again
	Result    string      `json:"result,omitempty"` // the CLI's closing words, bounded
	ExitCode  int         `json:"exit_code"`        // of the CLI; -1 if it did not exit by itself
	Usage     Usage       `json:"usage"`
	// AgentSession is the CLI's own session ID, for `claude --resume`.
	AgentSession string `json:"agent_session,omitempty"`
	// Parked is set while the run is put aside, and has no verdict, until what it
	// waits for is there; the daemon goes on with it then.
	Parked *Parking `json:"parked,omitempty"`
	// Attempts is how often the CLI was started for it; Interruptions, how often the
	// process that had it died meanwhile.
	Attempts      int `json:"attempts,omitempty"`
	Interruptions int `json:"interruptions,omitempty"`
}

// Parking says what a parked run waits for.
type Parking struct {
	Cause  ParkCause `json:"cause"`
	Reason string    `json:"reason"` // one line for a person
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // of ParkedForWindow: when it opens, if that is known
}

// ParkCause is what a parked run waits for.
type ParkCause string

// The causes of parking.
const (
	ParkedForLogin   ParkCause = "login"   // a sign-in of the owner's
	ParkedForWindow  ParkCause = "window"  // the plan's next window
	ParkedForRestart ParkCause = "restart" // the daemon, which has stopped or died
)

// Health says whether a profile's login can be relied on.
type Health string

// The states of a login's health.
const (
	HealthOK            Health = "ok"
	HealthSuspect       Health = "suspect"        // refreshes fail for now; the old token still lives, or the outcome is being found out
	HealthLoginRequired Health = "login-required" // the owner must sign in again
)

package hub

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Handover is the record of a login that has left this hub with its refresh
// token, as KindHandover: a refresh token is good for one use, so of two places
// that have it, one will lose. The newest record of a profile counts.
type Handover struct {
	Generation Generation `json:"generation"` // of the login that left
	To         []string   `json:"to"`         // age recipients of its bundle; for a shared copy, its directory
	At         time.Time  `json:"at"`
	Bundle     string     `json:"bundle,omitempty"` // the bundle's ID; "" for a shared copy
	// Shared says that this hub goes on refreshing the login although the copy
	// could, too: the owner wanted it so.
	Shared bool `json:"shared,omitempty"`
	// TakenBack is when the owner said that the bundle was never imported, and
	// that this hub is the writer again. Zero: it is not.
	TakenBack time.Time `json:"taken_back,omitzero"`
	// Snapshot is the newest generation of the captured config directory then, by
	// which later generations of the same login are known: a sign-in captures anew.
	Snapshot Generation `json:"snapshot,omitempty"`
	// Copies are the shared copies that earlier records told of and that may still
	// be there: the newest record counts, so it carries them along.
	Copies []Copy `json:"copies,omitempty"`
}

// Copy is a shared copy of a login, as in a Handover.
type Copy struct {
	Generation Generation `json:"generation"`
	To         string     `json:"to"` // its directory
	At         time.Time  `json:"at"`
	Snapshot   Generation `json:"snapshot,omitempty"`
}

// SharedCopies returns the copies of the login that were left with its refresh
// token, oldest first: those that h carries along and, if it is one, its own. Of
// the login and of the captured config directory the newest generations are
// given; copies of another sign-in don't count.
func (h Handover) SharedCopies(newest, snapshot Generation) []Copy {
	all := slices.Clone(h.Copies)
	if h.Shared {
		for _, to := range h.To {
			all = append(all, Copy{h.Generation, to, h.At, h.Snapshot})
		}
	}
	return slices.DeleteFunc(all, func(c Copy) bool { return c.Generation > newest || c.Snapshot != snapshot })
}

// Holds reports whether the login, whose newest generation is given, belongs to
// another writer now and may not be refreshed here. Any newer generation, which
// only a sign-in or an import can make then, ends that.
func (h Handover) Holds(newest Generation) bool {
	return h.Generation != 0 && h.Generation == newest && !h.Shared && h.TakenBack.IsZero()
}

// Encode returns the record for the vault.
func (h Handover) Encode() ([]byte, error) { return json.Marshal(h) }

// ParseHandover reads what Encode wrote. What can't be understood is an
// ErrFormat: it may say that the login must not be refreshed.
func ParseHandover(b []byte) (Handover, error) {
	var h Handover
	noCopy := func(c Copy) bool { return c.Generation == 0 || c.To == "" }
	if err := json.Unmarshal(b, &h); err != nil || h.Generation == 0 || len(h.To) == 0 || slices.Contains(h.To, "") || slices.ContainsFunc(h.Copies, noCopy) {
		return Handover{}, fmt.Errorf("%w: the record of a handover is damaged", ErrFormat)
	}
	return h, nil
}

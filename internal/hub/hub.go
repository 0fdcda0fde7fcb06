// Package hub is the vocabulary of claude-hub: names, IDs, plain records and
// error kinds that every other package shares. It imports the standard library
// only, starts nothing and stores nothing.
package hub

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"
	"time"
)

// ProfileName is what an owner calls a login: "default", "staging", "alice".
// It is unique within one hub and may change; see [ParseProfileName] for the one
// rule that every name obeys. The zero value is not a valid name.
type ProfileName string

// DefaultProfile is used where the owner names none.
const DefaultProfile ProfileName = "default"

// maxProfileName bounds a name so that it fits any file system and terminal.
const maxProfileName = 40

// ParseProfileName accepts 1 to 40 characters of a-z, 0-9, '-' and '_', the
// first being a letter or a digit. Everything else (upper case, dots, slashes,
// look-alikes from other scripts, NUL) is refused, so that a name is safe as a
// file name, in a URL, on a command line and to the eye.
func ParseProfileName(s string) (ProfileName, error) {
	if s == "" {
		return "", Hint(fmt.Errorf("%w: the profile name is empty", ErrInvalid), profileNameRule)
	}
	if len(s) > maxProfileName {
		return "", Hint(fmt.Errorf("%w: the profile name has %d bytes", ErrInvalid, len(s)), profileNameRule)
	}
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || r != '-' && r != '_') {
			return "", Hint(fmt.Errorf("%w: the profile name %q has %q at byte %d", ErrInvalid, s, r, i), profileNameRule)
		}
	}
	return ProfileName(s), nil
}

const profileNameRule = "use 1 to 40 of a-z, 0-9, '-' and '_', starting with a letter or digit"

// ProfileID names a profile for ever: it is made once and never changes, even
// when the profile is renamed. It is safe as a file name.
type ProfileID string

// HubRecords is under what the vault keeps the few records that belong to no
// profile. It is no profile's ID: those start with "p-".
const HubRecords ProfileID = "hub"

// NewProfileID returns a fresh random ID such as "p-k3v7q2m5x4n6a7b2".
func NewProfileID() ProfileID { return ProfileID("p-" + randomText(10)) }

// Profile is a named login of one owner.
type Profile struct {
	ID      ProfileID   `json:"id"`
	Name    ProfileName `json:"name"`
	Created time.Time   `json:"created"`
	Policy  Policy      `json:"policy,omitzero"`
}

// RunID names one run. IDs made later sort after IDs made in an earlier
// millisecond. It is safe as a file name.
type RunID string

// NewRunID returns a fresh ID for a run that starts at now.
func NewRunID(now time.Time) RunID {
	ms := uint64(now.UnixMilli())
	var b [6]byte
	for i := range b {
		b[i] = byte(ms >> (8 * (5 - i)))
	}
	return RunID("r-" + lower32.EncodeToString(b[:]) + randomText(5))
}

// ParseRunID reports whether s has the form that NewRunID gives, so that it may
// be used in a path.
func ParseRunID(s string) (RunID, error) {
	if len(s) < 3 || len(s) > 40 || !strings.HasPrefix(s, "r-") || strings.Trim(s[2:], lower32Alphabet) != "" {
		return "", Hint(fmt.Errorf("%w: %q is not a run ID", ErrInvalid, s), "list them with `claude-hub runs`")
	}
	return RunID(s), nil
}

// The alphabet is in ASCII order, so that encoded time sorts as time does.
const lower32Alphabet = "234567abcdefghijklmnopqrstuvwxyz"

var lower32 = base32.NewEncoding(lower32Alphabet).WithPadding(base32.NoPadding)

func randomText(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails, see crypto/rand
	return lower32.EncodeToString(b)
}

// Kind says what a vault record holds.
type Kind string

// The kinds of records. Login, setup token and API key are credentials.
const (
	KindProfile    Kind = "profile"     // the profile's own record
	KindLogin      Kind = "login"       // rotates; capped by the provider at 30 days
	KindSetupToken Kind = "setup-token" // static, one year, inference only
	KindAPIKey     Kind = "api-key"     // static
	KindSnapshot   Kind = "snapshot"    // the captured config directory, without its credential file
	KindIntent     Kind = "intent"      // a refresh that is about to be sent
	KindAccount    Kind = "account"     // who is signed in, in words for a person
	KindHandover   Kind = "handover"    // a login that has left this hub with its refresh token; see Handover
	KindImported   Kind = "imported"    // which bundles of other hubs were imported; kept under HubRecords
)

// Generation counts the committed versions of one record, from 1. Zero means
// that there is none.
type Generation uint64

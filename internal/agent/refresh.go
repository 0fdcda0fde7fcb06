package agent

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/claude-hub/claude-hub/internal/secret"
)

// RefreshKind says what became of a refresh.
type RefreshKind string

// The kinds of answers, from the best to the worst.
const (
	RefreshRotated RefreshKind = "rotated"  // a new credential file is there
	RefreshNotSent RefreshKind = "not-sent" // the platform has not seen the refresh token: try again
	RefreshTrouble RefreshKind = "trouble"  // the platform answered with an error that says nothing of the login: back off
	RefreshRefused RefreshKind = "refused"  // the platform does not accept the refresh token: login required
	RefreshUnknown RefreshKind = "unknown"  // sent, and no answer that was understood: the pair may have rotated and be lost
)

// RefreshRun is what is known after a refresh command has ended.
type RefreshRun struct {
	Exit   int    // exit status; -1 when killed
	Output []byte // stdout and stderr; only the first 16 KiB count
	// Wrote reports whether the command left a credential file that
	// [ParseCredentials] accepts, with another access token than before. A file
	// alone does not count: after an answer that it does not understand the CLI
	// writes {}.
	Wrote bool
	// Connected reports whether the door ever let the command connect to the
	// token endpoint. The CLI's words cannot tell: "proxy refused the connection"
	// is what it prints when the door refused the token endpoint, and also when
	// the token endpoint's answer was broken and the door refused the next one.
	Connected bool
}

// RefreshAnswer is what a refresh has come to.
type RefreshAnswer struct {
	Kind   RefreshKind
	Status int    // of the platform's answer, if the CLI named one
	Reason string // the CLI's words: one line, without control characters and tokens
}

// MayHaveRotated reports whether the platform may have spent the refresh token
// without us having the new one, so that sending it again could be a replay. A
// server can fail after it has committed: a 5xx is in doubt too.
func (a RefreshAnswer) MayHaveRotated() bool {
	return a.Kind == RefreshUnknown || a.Kind == RefreshTrouble && a.Status >= 500
}

const maxRefreshOutput = 16 << 10

// Words of CLI 2.1.330. What else it may say is not understood, and so RefreshUnknown.
var (
	statusPattern = regexp.MustCompile(`Request failed with status code ([0-9]{3})\b`)
	// These stop a request before anything of it is sent. Only the token endpoint
	// can be meant: the door refuses the others before TLS starts.
	tlsPattern = regexp.MustCompile(`(?i)SSL certificate error|unable to verify the first certificate|self.signed certificate|unable to get (local )?issuer certificate|certificate has expired|does not match certificate`)
)

// ParseRefreshWords judges a refresh command that went through the door. The
// order matters: a written file outweighs all words, and a door that was never
// used outweighs what the CLI thinks has happened.
func ParseRefreshWords(r RefreshRun) RefreshAnswer {
	output := r.Output[:min(len(r.Output), maxRefreshOutput)]
	a := RefreshAnswer{Kind: RefreshUnknown, Reason: firstLine(output)}
	if m := statusPattern.FindSubmatch(output); m != nil {
		a.Status, _ = strconv.Atoi(string(m[1]))
	}
	switch {
	case r.Wrote:
		return RefreshAnswer{Kind: RefreshRotated}
	case !r.Connected:
		a.Kind, a.Status = RefreshNotSent, 0
	case r.Exit == 0: // "Login successful." and no file
	case a.Status == 400: // invalid_grant; the CLI does not print the error's name
		a.Kind = RefreshRefused
	case a.Status > 400 && a.Status < 600:
		a.Kind = RefreshTrouble
	case a.Status == 0 && tlsPattern.Match(output):
		a.Kind = RefreshNotSent
	}
	return a
}

const maxReason = 300

// firstLine returns the first line of a program's output that holds text, fit to
// be shown to a person.
func firstLine(output []byte) string {
	for line := range bytes.Lines(secret.Scrub(stripANSI(output))) {
		clean := strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return -1
		}, string(line))
		if clean = strings.TrimSpace(clean); clean != "" {
			return clip(clean, maxReason)
		}
	}
	return ""
}

// Package secret holds text that does not print itself: not by any fmt verb,
// not as a struct's field, not through JSON, text or slog handlers. The only way
// to the text is [Text.Reveal], and a test lists the files that may call it.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Text is a secret string. The zero value is the empty secret. Values are
// immutable and may be shared between goroutines. Texts are compared with
// [Text.Equal]; == does not compile.
type Text struct {
	// The text hides in a closure, because fmt reads unexported fields of other
	// types without asking their methods; a func prints as an address. A func
	// also makes == a compile error. Nil is the empty secret.
	reveal func() string
}

// New returns the secret s.
func New(s string) Text {
	if s == "" {
		return Text{}
	}
	return Text{reveal: func() string { return s }}
}

// Reveal returns the text itself. Call it as late as possible, where the text
// leaves for the one place that needs it.
func (t Text) Reveal() string {
	if t.reveal == nil {
		return ""
	}
	return t.reveal()
}

// IsZero reports whether the secret is empty.
func (t Text) IsZero() bool { return t.reveal == nil }

// Len returns the text's length in bytes.
func (t Text) Len() int { return len(t.Reveal()) }

// Equal reports whether both hold the same text, in time that depends on their
// lengths only.
func (t Text) Equal(u Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.Reveal()), []byte(u.Reveal())) == 1
}

// Fingerprint returns 12 hexadecimal digits of the text's SHA-256, to tell
// secrets apart in a log. Only for secrets of high entropy.
func (t Text) Fingerprint() string {
	sum := sha256.Sum256([]byte(t.Reveal()))
	return hex.EncodeToString(sum[:6])
}

const redacted = "[secret]"

// String does not return the text.
func (t Text) String() string { return redacted }

// GoString does not return the text.
func (t Text) GoString() string { return redacted }

// Format does not write the text, whatever the verb.
func (t Text) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue does not hold the text.
func (t Text) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses.
func (t Text) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalJSON refuses.
func (t Text) MarshalJSON() ([]byte, error) { return nil, errMarshal }

var errMarshal = errors.New("a secret cannot be marshalled; reveal it where it must be written")

package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// SetupToken is the static token that `claude setup-token` prints: good for
// inference, for one year, never refreshed.
type SetupToken struct {
	Token   secret.Text
	Created time.Time // when the hub got it: the token itself does not say
	Expires time.Time
}

const (
	setupTokenPrefix   = "sk-ant-oat01-"
	leaseTokenPrefix   = "sk-ant-oat01-lease-"
	minSetupToken      = len(setupTokenPrefix) + 8
	maxSetupToken      = 512
	setupTokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
	maxSetupTokenFile  = 4 << 10
)

const (
	hintSetupToken  = "paste the token that `claude setup-token` printed, all of it and nothing else"
	hintSetupRecord = "make a new token with `claude-hub login --setup-token`"
)

// NewSetupToken takes a token as it was pasted (line breaks and spaces in it are
// dropped) and counts its year from created. Errors never quote it.
func NewSetupToken(pasted secret.Text, created time.Time) (SetupToken, error) {
	token := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, pasted.Reveal())
	if err := checkSetupToken(token); err != nil {
		return SetupToken{}, err
	}
	created = created.UTC().Truncate(time.Second)
	return SetupToken{Token: secret.New(token), Created: created, Expires: created.AddDate(1, 0, 0)}, nil
}

func checkSetupToken(token string) error {
	switch {
	case token == "":
		return invalid(hintSetupToken, "the setup token is empty")
	case strings.HasPrefix(token, "sk-ant-ort01-"):
		return invalid(hintSetupToken, "that is a refresh token, not a setup token")
	case strings.HasPrefix(token, "sk-ant-api"):
		return invalid(hintSetupToken, "that is an API key, not a setup token")
	case strings.HasPrefix(token, leaseTokenPrefix):
		return invalid(hintSetupToken, "that is a lease token of the hub, not a setup token")
	case !strings.HasPrefix(token, setupTokenPrefix):
		return invalid(hintSetupToken, "a setup token begins with sk-ant-oat…") // all of the prefix would be scrubbed from the output
	case len(token) < minSetupToken || len(token) > maxSetupToken:
		return invalid(hintSetupToken, "a setup token does not have %d characters", len(token))
	case strings.Trim(token, setupTokenAlphabet) != "":
		return invalid(hintSetupToken, "the setup token holds characters that no token has")
	}
	return nil
}

// setupTokenRecord is how the vault keeps it.
type setupTokenRecord struct {
	Token   string    `json:"setupToken"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// Encode returns the record for the vault. It reveals the token.
func (t SetupToken) Encode() ([]byte, error) {
	if err := checkSetupToken(t.Token.Reveal()); err != nil {
		return nil, err
	}
	return json.Marshal(setupTokenRecord{t.Token.Reveal(), t.Created, t.Expires})
}

// ParseSetupToken reads what Encode wrote. Every error is a hub.ErrInvalid with a
// hint, and none contains a byte of it.
func ParseSetupToken(b []byte) (SetupToken, error) {
	if len(b) > maxSetupTokenFile {
		return SetupToken{}, hub.Hint(fmt.Errorf("%w: a setup token record of %d bytes: %w", hub.ErrInvalid, len(b), hub.ErrTooLarge), hintSetupRecord)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var r setupTokenRecord
	if dec.Decode(&r) != nil || len(bytes.TrimSpace(b[dec.InputOffset():])) > 0 {
		return SetupToken{}, invalid(hintSetupRecord, "the setup token record is damaged")
	}
	if err := checkSetupToken(r.Token); err != nil {
		return SetupToken{}, err
	}
	if r.Created.IsZero() || !r.Created.Before(r.Expires) {
		return SetupToken{}, invalid(hintSetupRecord, "the setup token record has no sane dates")
	}
	return SetupToken{Token: secret.New(r.Token), Created: r.Created, Expires: r.Expires}, nil
}

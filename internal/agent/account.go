package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Account is who is signed in, in words for a person. Nothing is decided by it:
// the platform goes by the login alone.
type Account struct {
	UUID         string // of the account, as in [Credentials]
	Email        string
	Name         string
	Organization string
}

// GlobalFile is the file of the CLI that names the account, among much else. It
// is in the config directory where CLAUDE_CONFIG_DIR is set.
const GlobalFile = ".claude.json"

// MaxGlobalFile bounds what is read of it: with years of prompts in it, it has a
// few MiB.
const MaxGlobalFile = 16 << 20

const (
	keyOAuthAccount = "oauthAccount"
	maxAccountText  = 320 // bytes: the longest mail address
	hintAccount     = "sign in again with `claude-hub login`"
)

// accountRecord is the part of the CLI's file that is read, in its names.
type accountRecord struct {
	UUID         string `json:"accountUuid,omitempty"`
	Email        string `json:"emailAddress,omitempty"`
	Name         string `json:"displayName,omitempty"`
	Organization string `json:"organizationName,omitempty"`
}

// ParseAccount finds the account in the CLI's global file, or in what
// [Account.Encode] wrote. Control and format characters are dropped, so that its
// text can be shown. Every error is a hub.ErrInvalid, none contains a byte of
// the file, and the account is zero then.
func ParseAccount(b []byte) (Account, error) {
	if len(b) > MaxGlobalFile {
		return Account{}, hub.Hint(fmt.Errorf("%w: %s has %d bytes: %w", hub.ErrInvalid, GlobalFile, len(b), hub.ErrTooLarge), hintAccount)
	}
	top, err := object(b)
	if err != nil {
		return Account{}, invalid(hintAccount, "%s is not a JSON object", GlobalFile)
	}
	fields, err := object(top[keyOAuthAccount])
	if err != nil {
		return Account{}, invalid(hintAccount, "%s holds no %s", GlobalFile, keyOAuthAccount)
	}
	var a Account
	for key, to := range map[string]*string{
		"accountUuid": &a.UUID, "emailAddress": &a.Email, "displayName": &a.Name, "organizationName": &a.Organization,
	} {
		s, err := stringField(fields, key)
		if err != nil || len(s) > maxAccountText {
			return Account{}, invalid(hintAccount, "%s in %s is no string, or too long", key, GlobalFile)
		}
		*to = visibleText(s)
	}
	return a, nil
}

// Encode returns the record for the vault.
func (a Account) Encode() ([]byte, error) {
	return json.Marshal(map[string]accountRecord{keyOAuthAccount: accountRecord(a)})
}

// visibleText drops what would move the cursor, change colours or turn the
// direction of writing.
func visibleText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}

package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// What a person can do about a credential file that is no good.
const (
	hintSignIn   = "the sign-in was not completed: sign in again with `claude-hub login`"
	hintLost     = "the login was lost (the CLI blanks its tokens when the platform refuses them): sign in again with `claude-hub login`"
	hintNotAFile = "point at the CLI's own .credentials.json, or sign in again with `claude-hub login`"
	hintSeconds  = "times in this file are in milliseconds: it was not written by the CLI; sign in again with `claude-hub login`"
	hintScopes   = "the CLI does not use a login without scopes: sign in again with `claude-hub login`"
)

// Bounds of what is taken from a credential file.
const (
	maxDepth     = 32
	maxTokenLen  = 8 << 10
	maxPlanLen   = 200
	maxScopes    = 64
	secondsBelow = 100_000_000_000 // milliseconds: 1973; seconds: the year 5138
	maxMillis    = 253402300799999 // the end of the year 9999
)

// ParseCredentials reads a credential file of the CLI. Every error is a
// hub.ErrInvalid with a hint, and none contains a byte of the file. A plan that
// is null or missing is accepted; see [Credentials.Adopt].
func ParseCredentials(b []byte) (Credentials, error) {
	if err := checkFile(b); err != nil {
		return Credentials{}, err
	}
	top, err := object(b)
	if err != nil {
		return Credentials{}, invalid(hintNotAFile, "the credential file is not a JSON object")
	}
	raw, ok := top[keyLogin]
	if !ok || isNull(raw) {
		return Credentials{}, invalid(hintSignIn, "the credential file holds no %s", keyLogin)
	}
	login, err := object(raw)
	if err != nil {
		return Credentials{}, invalid(hintNotAFile, "%s is not an object", keyLogin)
	}
	c, err := parseLogin(login)
	if err != nil {
		return Credentials{}, err
	}
	delete(top, keyLogin)
	c.top = top
	return c, nil
}

// checkFile refuses whatever is not one sane JSON text.
func checkFile(b []byte) error {
	switch {
	case len(b) > maxCredentialFile:
		return errCredentialSize(len(b))
	case len(bytes.TrimSpace(b)) == 0:
		return invalid(hintSignIn, "the credential file is empty")
	case bytes.IndexByte(b, 0) >= 0:
		return invalid(hintNotAFile, "the credential file contains NUL bytes")
	case !utf8.Valid(b):
		return invalid(hintNotAFile, "the credential file is not UTF-8 text")
	}
	return checkJSON(b)
}

func errCredentialSize(n int) error {
	err := fmt.Errorf("%w: the credential file has %d bytes, more than %d: %w", hub.ErrInvalid, n, maxCredentialFile, hub.ErrTooLarge)
	return hub.Hint(err, hintNotAFile)
}

func parseLogin(login map[string]json.RawMessage) (Credentials, error) {
	var c Credentials
	access, err := tokenField(login, keyAccess)
	if err != nil {
		return c, err
	}
	refresh, err := tokenField(login, keyRefresh)
	if err != nil {
		return c, err
	}
	if access == "" {
		return c, noAccessToken(login)
	}
	c.AccessToken, c.RefreshToken = secret.New(access), secret.New(refresh)
	if c.ExpiresAt, err = timeField(login, keyExpires); err != nil {
		return c, err
	}
	if c.ExpiresAt.IsZero() {
		return c, invalid(hintNotAFile, "%s is missing", keyExpires)
	}
	if c.LoginExpiresAt, err = timeField(login, keyLoginExpires); err != nil {
		return c, err
	}
	if c.Scopes, err = scopesField(login); err != nil {
		return c, err
	}
	if err := planFields(login, &c); err != nil {
		return c, err
	}
	for _, key := range []string{keyAccess, keyRefresh, keyExpires, keyLoginExpires, keyScopes, keySubscription, keyRateLimitTier, keyAccount, keyOrganization} {
		delete(login, key)
	}
	c.fields = login
	return c, nil
}

func noAccessToken(login map[string]json.RawMessage) error {
	if _, there := login[keyAccess]; there {
		return invalid(hintLost, "the tokens in the credential file are blanked")
	}
	return invalid(hintSignIn, "the credential file holds no %s", keyAccess)
}

func planFields(login map[string]json.RawMessage, c *Credentials) error {
	for _, f := range []struct {
		key string
		to  *string
	}{
		{keySubscription, &c.Subscription},
		{keyRateLimitTier, &c.RateLimitTier},
		{keyAccount, &c.AccountUUID},
		{keyOrganization, &c.OrganizationUUID},
	} {
		s, err := stringField(login, f.key)
		if err != nil {
			return err
		}
		if len(s) > maxPlanLen || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return invalid(hintNotAFile, "%s is too long or holds control characters", f.key)
		}
		*f.to = s
	}
	return nil
}

// tokenField returns a token, "" if it is missing or null. A token travels in a
// header and an environment variable: visible ASCII only.
func tokenField(login map[string]json.RawMessage, key string) (string, error) {
	s, err := stringField(login, key)
	if err != nil {
		return "", err
	}
	if len(s) > maxTokenLen || !visibleASCII(s) {
		return "", invalid(hintNotAFile, "%s is too long or holds characters that no token has", key)
	}
	return s, nil
}

func visibleASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func stringField(login map[string]json.RawMessage, key string) (string, error) {
	raw, ok := login[key]
	if !ok || isNull(raw) {
		return "", nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", invalid(hintNotAFile, "%s is not a string", key)
	}
	return s, nil
}

func timeField(login map[string]json.RawMessage, key string) (time.Time, error) {
	raw, ok := login[key]
	if !ok || isNull(raw) {
		return time.Time{}, nil
	}
	var ms float64
	if json.Unmarshal(raw, &ms) != nil {
		return time.Time{}, invalid(hintNotAFile, "%s is not a number", key)
	}
	switch {
	case ms > 0 && ms < secondsBelow:
		return time.Time{}, invalid(hintSeconds, "%s is in seconds, not milliseconds", key)
	case ms <= 0 || ms > maxMillis || math.IsNaN(ms):
		return time.Time{}, invalid(hintNotAFile, "%s is out of range", key)
	}
	return time.UnixMilli(int64(ms)), nil
}

func scopesField(login map[string]json.RawMessage) ([]string, error) {
	raw, ok := login[keyScopes]
	if !ok || isNull(raw) {
		return nil, invalid(hintScopes, "%s is null or missing", keyScopes)
	}
	var scopes []*string
	if json.Unmarshal(raw, &scopes) != nil {
		return nil, invalid(hintNotAFile, "%s is not a list of strings", keyScopes)
	}
	if len(scopes) == 0 || len(scopes) > maxScopes {
		return nil, invalid(hintScopes, "%s has %d entries", keyScopes, len(scopes))
	}
	list := make([]string, len(scopes))
	for i, s := range scopes {
		if s == nil || *s == "" || len(*s) > maxPlanLen || !visibleASCII(*s) {
			return nil, invalid(hintNotAFile, "%s holds something that is no scope", keyScopes)
		}
		list[i] = *s
	}
	return list, nil
}

// checkJSON refuses what is not exactly one JSON value, is nested too deeply, or
// names a key twice: of two tokens under one name, the CLI and we could see
// different ones.
func checkJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	var value json.RawMessage
	if err := dec.Decode(&value); err != nil {
		return invalid(hintNotAFile, "the credential file is not JSON")
	}
	if rest := b[dec.InputOffset():]; len(bytes.TrimSpace(rest)) > 0 {
		return invalid(hintNotAFile, "the credential file goes on after its JSON text")
	}
	dec = json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber() // a number too big for a float is none of our business
	return walk(dec, 0)
}

func walk(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return invalid(hintNotAFile, "the credential file is nested deeper than %d", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return invalid(hintNotAFile, "the credential file is not JSON")
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			key, err := dec.Token()
			name, ok := key.(string)
			if err != nil || !ok {
				return invalid(hintNotAFile, "the credential file is not JSON")
			}
			if seen[name] {
				return invalid(hintNotAFile, "the credential file names a key twice")
			}
			seen[name] = true
		}
		if err := walk(dec, depth+1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil && err != io.EOF {
		return invalid(hintNotAFile, "the credential file is not JSON")
	}
	return nil
}

// object decodes one object, matching names exactly: encoding/json would take
// "ACCESSTOKEN" for "accessToken", the CLI does not.
func object(b []byte) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, hub.ErrInvalid
	}
	return m, nil
}

func isNull(raw json.RawMessage) bool { return string(bytes.TrimSpace(raw)) == "null" }

// invalid builds a hub.ErrInvalid with a hint.
func invalid(hint, format string, args ...any) error {
	return hub.Hint(fmt.Errorf("%w: %s", hub.ErrInvalid, fmt.Sprintf(format, args...)), hint)
}

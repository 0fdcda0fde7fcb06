package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/claude-hub/claude-hub/internal/secret"
)

// CredentialFile is the name of the CLI's credential file in its config directory.
const CredentialFile = ".credentials.json"

// Credentials is a login as the CLI keeps it. The zero value is no login.
// Values are immutable; copies share what they hold.
type Credentials struct {
	AccessToken    secret.Text
	RefreshToken   secret.Text // empty: the CLI will not try to refresh
	ExpiresAt      time.Time   // of the access token
	LoginExpiresAt time.Time   // of the login as a whole; zero if the file does not say
	Scopes         []string

	Subscription     string // such as "max"; "" if not known
	RateLimitTier    string
	AccountUUID      string
	OrganizationUUID string

	fields map[string]json.RawMessage // unknown ones beside the tokens
	top    map[string]json.RawMessage // unknown ones beside the login
}

// The names in the file.
const (
	keyLogin          = "claudeAiOauth"
	keyAccess         = "accessToken"
	keyRefresh        = "refreshToken"
	keyExpires        = "expiresAt"
	keyLoginExpires   = "refreshTokenExpiresAt"
	keyScopes         = "scopes"
	keySubscription   = "subscriptionType"
	keyRateLimitTier  = "rateLimitTier"
	keyAccount        = "accountUuid"
	keyOrganization   = "organizationUuid"
	scopeInference    = "user:inference"
	maxCredentialFile = 1 << 20
)

// Encode returns the credential file, as the CLI reads it. It reveals the tokens.
func (c Credentials) Encode() ([]byte, error) {
	login := maps.Clone(c.fields)
	if login == nil {
		login = map[string]json.RawMessage{}
	}
	put(login, keyAccess, c.AccessToken.Reveal())
	put(login, keyExpires, c.ExpiresAt.UnixMilli())
	scopes := c.Scopes
	if scopes == nil {
		scopes = []string{}
	}
	put(login, keyScopes, scopes)
	if !c.RefreshToken.IsZero() {
		put(login, keyRefresh, c.RefreshToken.Reveal())
	}
	if !c.LoginExpiresAt.IsZero() {
		put(login, keyLoginExpires, c.LoginExpiresAt.UnixMilli())
	}
	// The CLI itself writes null for a plan that it does not know.
	put(login, keySubscription, orNil(c.Subscription))
	put(login, keyRateLimitTier, orNil(c.RateLimitTier))
	if c.AccountUUID != "" {
		put(login, keyAccount, c.AccountUUID)
	}
	if c.OrganizationUUID != "" {
		put(login, keyOrganization, c.OrganizationUUID)
	}
	top := maps.Clone(c.top)
	if top == nil {
		top = map[string]json.RawMessage{}
	}
	put(top, keyLogin, login)
	b := mustMarshal(top)
	if len(b) > maxCredentialFile {
		return nil, fmt.Errorf("encoding the credential file: %w", errCredentialSize(len(b)))
	}
	return b, nil
}

// WithoutRefreshToken returns what may be handed to a sandbox that talks to the
// platform itself: the access token and the plan. Fields that we do not know
// (tokens of MCP servers live in one) stay behind.
func (c Credentials) WithoutRefreshToken() Credentials {
	c.RefreshToken = secret.Text{}
	c.LoginExpiresAt = time.Time{}
	c.fields, c.top = nil, nil
	return c
}

// Adopt returns c with what it lacks taken from the generation before it: a
// refresh answer knows nothing of the plan, and may leave out the refresh token
// when the old one stays good. A credential of another account is not mixed in.
func (c Credentials) Adopt(old Credentials) Credentials {
	if c.AccountUUID != "" && old.AccountUUID != "" && c.AccountUUID != old.AccountUUID {
		return c
	}
	if c.RefreshToken.IsZero() {
		c.RefreshToken = old.RefreshToken
	}
	if c.LoginExpiresAt.IsZero() {
		c.LoginExpiresAt = old.LoginExpiresAt
	}
	fill(&c.Subscription, old.Subscription)
	fill(&c.RateLimitTier, old.RateLimitTier)
	fill(&c.AccountUUID, old.AccountUUID)
	fill(&c.OrganizationUUID, old.OrganizationUUID)
	c.fields = adoptFields(c.fields, old.fields)
	c.top = adoptFields(c.top, old.top)
	return c
}

// Placeholder returns the login that a sandbox sees: the lease token in the
// place of the access token, valid until the given time, on the same plan as
// like (from which the CLI chooses its default model). It has no refresh token,
// so that the CLI never tries to refresh it, and names no account. Its only
// scope is inference: with user:profile the CLI (2.1.330) sends the lease token to
// the platform's profile endpoint, past ANTHROPIC_BASE_URL; without, everything
// goes to the gateway. [Canary] proves it.
func Placeholder(leaseToken secret.Text, like Credentials, until time.Time) Credentials {
	return Credentials{
		AccessToken:   leaseToken,
		ExpiresAt:     until,
		Scopes:        []string{scopeInference},
		Subscription:  like.Subscription,
		RateLimitTier: like.RateLimitTier,
	}
}

// adoptFields returns fields with those of old that it lacks or holds as null.
func adoptFields(fields, old map[string]json.RawMessage) map[string]json.RawMessage {
	merged := maps.Clone(old)
	if merged == nil {
		return fields
	}
	for k, v := range fields {
		if _, known := merged[k]; !known || string(v) != "null" {
			merged[k] = v
		}
	}
	return merged
}

func fill(s *string, from string) {
	if *s == "" {
		*s = from
	}
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func put(m map[string]json.RawMessage, key string, v any) { m[key] = mustMarshal(v) }

// mustMarshal encodes values that cannot fail: strings, numbers, and raw JSON
// that a parser has checked. Raw values keep their spelling.
func mustMarshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

package simulator

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// The scopes of a full sign-in and of a setup token (observed; the CLI asks for
// a few more, which are granted as asked).
var (
	FullScopes      = []string{"user:inference", "user:profile"}
	InferenceScopes = []string{"user:inference"}
)

// clientID is the CLI's (observed).
const clientID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"

const setupTokenTTL = 365 * 24 * time.Hour

// SignIn says whose login [Simulator.SignIn] mints. The zero value is the owner
// with every scope.
type SignIn struct {
	Account Account
	Scopes  []string // nil means FullScopes
	// AccessTTL and LoginTTL override the simulator's, if not zero. A negative one
	// gives a login that has expired already.
	AccessTTL, LoginTTL time.Duration
}

// Login is what a sign-in leaves with the client.
type Login struct {
	AccessToken, RefreshToken string
	ExpiresAt, LoginExpiresAt time.Time
	Scopes                    []string
	Account                   Account
	Credentials               []byte // the file .credentials.json, as the CLI writes it
}

// SignIn mints a login without the browser's steps. Every call starts a family of
// its own.
func (s *Simulator) SignIn(in SignIn) Login {
	if in.Scopes == nil {
		in.Scopes = FullScopes
	}
	if in.AccessTTL == 0 {
		in.AccessTTL = time.Duration(s.accessTTL.Load())
	}
	if in.LoginTTL == 0 {
		in.LoginTTL = s.cfg.LoginTTL
	}
	a := in.Account.withDefaults()
	p := s.ledger.open(a, clientID, slices.Clone(in.Scopes), in.AccessTTL, in.LoginTTL, false)
	s.count(func(c *Counters) { c.SignIns++ })
	return s.login(p, a)
}

func (s *Simulator) login(p pair, a Account) Login {
	l := Login{AccessToken: p.access.token, Scopes: slices.Clone(p.access.scopes), Account: a}
	if p.refresh != nil {
		l.RefreshToken = p.refresh.token
	}
	l.ExpiresAt, l.LoginExpiresAt = s.ledger.expiry(p)
	l.Credentials = credentials(l)
	return l
}

// credentials is the file as the CLI writes it after a sign-in (observed).
func credentials(l Login) []byte {
	b, err := json.Marshal(map[string]any{"claudeAiOauth": map[string]any{
		"accessToken":           l.AccessToken,
		"refreshToken":          l.RefreshToken,
		"expiresAt":             l.ExpiresAt.UnixMilli(),
		"refreshTokenExpiresAt": l.LoginExpiresAt.UnixMilli(),
		"scopes":                l.Scopes,
		"subscriptionType":      l.Account.Plan,
		"rateLimitTier":         l.Account.RateLimitTier,
		"accountUuid":           l.Account.UUID,
		"organizationUuid":      l.Account.OrganizationUUID,
	}})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return b
}

// SetupToken mints a static token that lives one year and is good for inference
// only.
func (s *Simulator) SetupToken() string {
	a := Account{}.withDefaults()
	p := s.ledger.open(a, clientID, InferenceScopes, setupTokenTTL, setupTokenTTL, true)
	return p.access.token
}

// RevokeLogin revokes the whole sign-in that token (access or refresh) belongs to,
// as the owner does on the account's page. It reports whether it was alive.
func (s *Simulator) RevokeLogin(token string) bool {
	ok := s.ledger.revoke(token)
	if ok {
		s.count(func(c *Counters) { c.FamiliesRevoked++ })
	}
	return ok
}

// RevokeAccess ends one access token; its refresh token stays good. It reports
// whether the token was alive.
func (s *Simulator) RevokeAccess(token string) bool { return s.ledger.kill(token) }

// ExpireAccess ends the life of every access token that can be refreshed, now.
func (s *Simulator) ExpireAccess() { s.ledger.expireAll() }

// Live reports whether the platform would accept the access token now.
func (s *Simulator) Live(accessToken string) bool {
	_, _, err := s.ledger.check(accessToken)
	return err == nil
}

// uuidOf returns a UUID that depends on its arguments only.
func uuidOf(kind, name string) string {
	h := sha256.Sum256([]byte(kind + "\x00" + name))
	h[6], h[8] = h[6]&0x0f|0x40, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

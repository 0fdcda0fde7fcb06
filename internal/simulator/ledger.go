package simulator

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Account is who signs in. Zero fields get a made-up value; accounts with the
// same Email have the same UUID.
type Account struct {
	UUID, OrganizationUUID string
	Email                  string // "" means owner@example.com
	Name                   string
	Plan                   string // as the credential file says it: "max", "pro", "team"; "" means max
	RateLimitTier          string // "" means default_claude_max_20x
}

func (a Account) withDefaults() Account {
	if a.Email == "" {
		a.Email = "owner@example.com"
	}
	if a.UUID == "" {
		a.UUID = uuidOf("account", a.Email)
	}
	if a.OrganizationUUID == "" {
		a.OrganizationUUID = uuidOf("organization", a.Email)
	}
	if a.Name == "" {
		a.Name = "Example Owner"
	}
	if a.Plan == "" {
		a.Plan = "max"
	}
	if a.RateLimitTier == "" {
		a.RateLimitTier = "default_claude_max_20x"
	}
	return a
}

// family is one sign-in and every token that came of it.
type family struct {
	account      Account
	clientID     string
	scopes       []string
	loginExpires time.Time
	revoked      bool
	access       *access // the only live one; nil if none is
}

type access struct {
	token   string
	family  *family
	scopes  []string
	expires time.Time
	dead    bool
}

type refresh struct {
	token     string
	family    *family
	spent     bool
	spentAt   time.Time
	successor *pair // what it was rotated to
}

// pair is what one grant gives. refresh is nil for setup tokens.
type pair struct {
	access  *access
	refresh *refresh
}

// code is an authorization code that waits for its exchange.
type code struct {
	account               Account
	clientID, redirectURI string
	challenge, state      string
	scopes                []string
	expires               time.Time
	used                  bool
	minted                *pair
}

// ledger knows every token ever issued. Tokens are forgotten never: a spent one
// must be recognised.
type ledger struct {
	now func() time.Time

	mu      sync.RWMutex // guards all below and the fields of what the maps hold
	rng     *rand.ChaCha8
	byToken map[string]*access
	refresh map[string]*refresh
	codes   map[string]*code
}

func newLedger(seed uint64, now func() time.Time) *ledger {
	return &ledger{
		now: now, rng: rand.NewChaCha8(seedBytes(seed, "tokens")),
		byToken: make(map[string]*access),
		refresh: make(map[string]*refresh),
		codes:   make(map[string]*code),
	}
}

func seedBytes(seed uint64, purpose string) (b [32]byte) {
	binary.LittleEndian.PutUint64(b[:], seed)
	copy(b[8:], purpose)
	return b
}

// The shapes of the platform's tokens, with "fake" in the middle.
const (
	accessPrefix  = "sk-ant-oat01-fake-"
	refreshPrefix = "sk-ant-ort01-fake-"
	codePrefix    = "fake-code-"
)

func (l *ledger) mintLocked(prefix string) string {
	var b [48]byte
	l.rng.Read(b[:])
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// open starts a family and issues its first pair.
func (l *ledger) open(a Account, clientID string, scopes []string, accessTTL, loginTTL time.Duration, static bool) pair {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.openLocked(a, clientID, scopes, accessTTL, loginTTL, static)
}

func (l *ledger) openLocked(a Account, clientID string, scopes []string, accessTTL, loginTTL time.Duration, static bool) pair {
	f := &family{account: a, clientID: clientID, scopes: scopes, loginExpires: l.now().Add(loginTTL)}
	p := pair{access: l.accessLocked(f, scopes, accessTTL)}
	if !static {
		p.refresh = l.refreshLocked(f)
	}
	return p
}

// accessLocked issues a new access token; the family's old one dies.
func (l *ledger) accessLocked(f *family, scopes []string, ttl time.Duration) *access {
	expires := l.now().Add(ttl)
	if expires.After(f.loginExpires) {
		expires = f.loginExpires
	}
	a := &access{token: l.mintLocked(accessPrefix), family: f, scopes: scopes, expires: expires}
	if f.access != nil {
		f.access.dead = true
	}
	f.access = a
	l.byToken[a.token] = a
	return a
}

func (l *ledger) refreshLocked(f *family) *refresh {
	r := &refresh{token: l.mintLocked(refreshPrefix), family: f}
	l.refresh[r.token] = r
	return r
}

// grantError is a refusal of the token endpoint, in OAuth's words.
type grantError struct {
	code, description string
	spentReplay       bool // a spent token or used code was shown again
	revokedFamily     bool // and that killed a family that was alive
}

func (e *grantError) Error() string { return e.code + ": " + e.description }

func invalidGrant(description string) *grantError {
	return &grantError{code: "invalid_grant", description: description}
}

// rotation is what a refresh came to.
type rotation struct {
	pair    pair
	rotated bool // false: within grace, or the refresh token was kept
	replay  bool // answered within grace
}

// rotate answers a refresh request. keep leaves the refresh token as it is.
func (l *ledger) rotate(token, clientID string, scopes []string, ttl, grace time.Duration, keep bool) (rotation, *grantError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.refresh[token]
	if r == nil {
		return rotation{}, invalidGrant("Refresh token not found or invalid")
	}
	f := r.family
	if f.clientID != clientID {
		return rotation{}, invalidGrant("Refresh token was issued to another client")
	}
	if r.spent {
		return l.replayLocked(r, grace)
	}
	if f.revoked {
		return rotation{}, invalidGrant("Refresh token has been revoked")
	}
	if !l.now().Before(f.loginExpires) {
		return rotation{}, invalidGrant("The sign-in has expired")
	}
	granted, bad := narrow(f.scopes, scopes)
	if bad != nil {
		return rotation{}, bad
	}
	p := pair{access: l.accessLocked(f, granted, ttl), refresh: r}
	if keep {
		return rotation{pair: p}, nil
	}
	p.refresh = l.refreshLocked(f)
	r.spent, r.spentAt, r.successor = true, l.now(), &p
	return rotation{pair: p, rotated: true}, nil
}

// replayLocked answers a spent token: with its successor while that is unspent
// and the grace lasts, else by revoking the family.
func (l *ledger) replayLocked(r *refresh, grace time.Duration) (rotation, *grantError) {
	f := r.family
	fresh := l.now().Sub(r.spentAt) < grace && !r.successor.refresh.spent
	if fresh && !f.revoked {
		return rotation{pair: *r.successor, replay: true}, nil
	}
	e := invalidGrant("Refresh token not found or invalid")
	e.spentReplay, e.revokedFamily = true, !f.revoked
	l.revokeLocked(f)
	return rotation{}, e
}

func (l *ledger) revokeLocked(f *family) {
	f.revoked = true
	if f.access != nil {
		f.access.dead = true
		f.access = nil
	}
}

// narrow returns the scopes that a refresh gets: all, if it asks for none.
//
// Scopes that the sign-in did not have are invalid_scope, on which the CLI tries
// once more with fewer (observed).
func narrow(have, want []string) ([]string, *grantError) {
	if len(want) == 0 {
		return have, nil
	}
	for _, s := range want {
		if !slices.Contains(have, s) {
			return nil, &grantError{code: "invalid_scope", description: "The scope " + s + " was not granted at sign-in"}
		}
	}
	return want, nil
}

// The ways in which an access token is refused.
var (
	errNoToken      = errors.New("no bearer token")
	errUnknownToken = errors.New("Invalid bearer token")
	errExpiredToken = errors.New("OAuth token has expired. Please obtain a new token or refresh your existing token.")
	errDeadToken    = errors.New("OAuth access token has been revoked.")
)

// check returns the live access token's account and scopes.
func (l *ledger) check(token string) (Account, []string, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	a := l.byToken[token]
	switch {
	case token == "":
		return Account{}, nil, errNoToken
	case a == nil:
		return Account{}, nil, errUnknownToken
	case a.dead || a.family.revoked:
		return Account{}, nil, errDeadToken
	case !l.now().Before(a.expires):
		return Account{}, nil, errExpiredToken
	}
	return a.family.account, a.scopes, nil
}

// authorize stores what the owner approved and returns its code.
func (l *ledger) authorize(c code) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.expires = l.now().Add(10 * time.Minute)
	token := l.mintLocked(codePrefix)
	l.codes[token] = &c
	return token
}

// exchange turns a code into a family. verify checks the code's binding (client,
// redirect, PKCE) and says how long the tokens live; static means that there is
// no refresh token.
func (l *ledger) exchange(token string, verify func(*code) (accessTTL, loginTTL time.Duration, static bool, err *grantError)) (pair, Account, *grantError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.codes[token]
	if c == nil {
		return pair{}, Account{}, invalidGrant("Invalid authorization code")
	}
	if c.used {
		e := invalidGrant("The authorization code has been used")
		if c.minted != nil {
			e.spentReplay, e.revokedFamily = true, !c.minted.access.family.revoked
			l.revokeLocked(c.minted.access.family)
		}
		return pair{}, Account{}, e
	}
	if !l.now().Before(c.expires) {
		return pair{}, Account{}, invalidGrant("The authorization code has expired")
	}
	c.used = true // also when it fails below: a code is tried once
	accessTTL, loginTTL, static, bad := verify(c)
	if bad != nil {
		return pair{}, Account{}, bad
	}
	p := l.openLocked(c.account, c.clientID, c.scopes, accessTTL, loginTTL, static)
	c.minted = &p
	return p, c.account, nil
}

// revoke kills the family that an access or refresh token belongs to, and reports
// whether one was alive.
func (l *ledger) revoke(token string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var f *family
	if a := l.byToken[token]; a != nil {
		f = a.family
	} else if r := l.refresh[token]; r != nil {
		f = r.family
	}
	if f == nil || f.revoked {
		return false
	}
	l.revokeLocked(f)
	return true
}

// kill ends one access token and leaves its family alone.
func (l *ledger) kill(token string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.byToken[token]
	if a == nil || a.dead {
		return false
	}
	a.dead = true
	return true
}

// expireAll ends the life of every live access token now. Setup tokens stay.
func (l *ledger) expireAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.refresh {
		if a := r.family.access; a != nil {
			a.expires = l.now()
		}
	}
}

// expiry returns when an access token's and its sign-in's life end.
func (l *ledger) expiry(p pair) (access, login time.Time) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return p.access.expires, p.access.family.loginExpires
}

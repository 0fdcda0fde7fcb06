package simulator

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// manualRedirect is where the CLI has the code shown when no browser can reach it
// (observed).
const manualRedirect = "https://" + HostPlatform + "/oauth/code/callback"

// maxGrant bounds a body of the token endpoint.
const maxGrant = 64 << 10

// grantRequest is the JSON that the CLI posts (observed: JSON, no client secret;
// expires_in comes with setup-token only, and a refresh names its scopes).
type grantRequest struct {
	GrantType    string `json:"grant_type"`
	ClientID     string `json:"client_id"`
	Code         string `json:"code"`
	State        string `json:"state"`
	RedirectURI  string `json:"redirect_uri"`
	CodeVerifier string `json:"code_verifier"`
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope"`
	ExpiresIn    int64  `json:"expires_in"`
}

// grantAnswer is what the CLI reads of the answer (observed). It takes absent
// fields for "as before".
type grantAnswer struct {
	TokenType             string            `json:"token_type"`
	AccessToken           string            `json:"access_token"`
	ExpiresIn             int64             `json:"expires_in"`
	RefreshToken          string            `json:"refresh_token,omitempty"`
	RefreshTokenExpiresIn int64             `json:"refresh_token_expires_in,omitempty"`
	Scope                 string            `json:"scope"`
	Organization          map[string]string `json:"organization"`
	Account               map[string]string `json:"account"`
}

func (s *Simulator) platformHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/oauth/token", s.endpoint(EndpointToken, func(c *Counters) { c.TokenRequests++ }, s.token))
	mux.Handle("GET /oauth/code/callback", http.HandlerFunc(codePage))
	mux.Handle("GET /oauth/code/success", http.HandlerFunc(successPage))
	mux.Handle("/", s.authorizeHandler())
	return mux
}

// token is the token endpoint.
func (s *Simulator) token(_ http.ResponseWriter, r *http.Request, f *Fault) *reply {
	body, err := readBody(r, maxGrant)
	if err != nil {
		panic(http.ErrAbortHandler) // cut or endless: there is nothing to commit
	}
	var in grantRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return s.refuseGrant(&grantError{code: "invalid_request", description: "The body is not JSON"})
	}
	if f.is(FaultInvalidGrant) {
		return s.refuseGrant(invalidGrant("Refresh token not found or invalid"))
	}
	switch in.GrantType {
	case "refresh_token":
		return s.refresh(in, f)
	case "authorization_code":
		return s.exchange(in, f)
	}
	return s.refuseGrant(&grantError{code: "unsupported_grant_type", description: "No grant type " + in.GrantType})
}

func (s *Simulator) refresh(in grantRequest, f *Fault) *reply {
	keep := s.cfg.OmitRefreshToken || f.is(FaultOmitRefreshToken)
	ttl := time.Duration(s.accessTTL.Load())
	rot, bad := s.ledger.rotate(in.RefreshToken, in.ClientID, strings.Fields(in.Scope), ttl, s.cfg.Grace, keep)
	if bad != nil {
		return s.refuseGrant(bad)
	}
	s.count(func(c *Counters) {
		c.Refreshes++
		if rot.rotated {
			c.Rotations++
		}
		if rot.replay {
			c.GraceReplays++
		}
	})
	s.log.Info("refresh", "rotated", rot.rotated, "within_grace", rot.replay)
	return s.answerGrant(rot.pair, !keep, f)
}

// exchange turns a code into a login. Asked for an expiry, it makes a setup token,
// for inference only and without a refresh token (observed: setup-token asks for
// the scope user:inference and 31536000 seconds).
func (s *Simulator) exchange(in grantRequest, f *Fault) *reply {
	verify := func(c *code) (access, login time.Duration, static bool, err *grantError) {
		switch {
		case c.clientID != in.ClientID:
			return 0, 0, false, invalidGrant("The code was issued to another client")
		case c.redirectURI != in.RedirectURI:
			return 0, 0, false, invalidGrant("redirect_uri does not match")
		case c.state != in.State:
			return 0, 0, false, invalidGrant("state does not match")
		case !provesChallenge(in.CodeVerifier, c.challenge):
			return 0, 0, false, invalidGrant("code_verifier does not match")
		}
		if in.ExpiresIn > 0 {
			d := min(time.Duration(in.ExpiresIn)*time.Second, setupTokenTTL)
			return d, d, true, nil
		}
		return time.Duration(s.accessTTL.Load()), s.cfg.LoginTTL, false, nil
	}
	if in.ExpiresIn < 0 || in.ExpiresIn > int64(setupTokenTTL/time.Second) {
		return s.refuseGrant(&grantError{code: "invalid_request", description: "expires_in is out of range"})
	}
	p, _, bad := s.ledger.exchange(in.Code, verify)
	if bad != nil {
		return s.refuseGrant(bad)
	}
	s.count(func(c *Counters) { c.CodeExchanges++ })
	s.log.Info("sign-in", "setup_token", p.refresh == nil)
	return s.answerGrant(p, true, f)
}

// provesChallenge checks PKCE with S256, the only method there is.
func provesChallenge(verifier, challenge string) bool {
	sum := sha256.Sum256([]byte(verifier))
	got := base64.RawURLEncoding.EncodeToString(sum[:])
	return len(verifier) >= 43 && len(verifier) <= 128 && subtle.ConstantTimeCompare([]byte(got), []byte(challenge)) == 1
}

func (s *Simulator) answerGrant(p pair, withRefresh bool, f *Fault) *reply {
	access, login := s.ledger.expiry(p)
	fam := p.access.family
	a := grantAnswer{
		TokenType:    "Bearer",
		AccessToken:  p.access.token,
		ExpiresIn:    int64(access.Sub(s.now()).Round(time.Second) / time.Second),
		Scope:        strings.Join(p.access.scopes, " "),
		Organization: map[string]string{"uuid": fam.account.OrganizationUUID, "name": organizationName(fam.account)},
		Account:      map[string]string{"uuid": fam.account.UUID, "email_address": fam.account.Email},
	}
	if f.is(FaultWrongExpiry) {
		a.ExpiresIn += int64(f.Delay / time.Second)
	}
	if p.refresh != nil && withRefresh {
		a.RefreshToken = p.refresh.token
		a.RefreshTokenExpiresIn = int64(login.Sub(s.now()).Round(time.Second) / time.Second)
	}
	return jsonReply(http.StatusOK, a)
}

func organizationName(a Account) string { return a.Email + "'s Organization" }

// refuseGrant answers in OAuth's shape. The CLI tells invalid_grant by the field
// error, with status 400 or 401 (observed).
func (s *Simulator) refuseGrant(e *grantError) *reply {
	s.count(func(c *Counters) {
		if e.code == "invalid_grant" {
			c.InvalidGrants++
		}
		if e.spentReplay {
			c.SpentReplays++
		}
		if e.revokedFamily {
			c.FamiliesRevoked++
		}
	})
	s.log.Info("refused a grant", "error", e.code, "why", e.description, "spent_replay", e.spentReplay)
	return jsonReply(http.StatusBadRequest, map[string]string{"error": e.code, "error_description": e.description})
}

package simulator_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

const clientID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"

// grant is an answer of the token endpoint.
type grant struct {
	Status                int    `json:"-"`
	AccessToken           string `json:"access_token"`
	RefreshToken          string `json:"refresh_token"`
	ExpiresIn             int64  `json:"expires_in"`
	RefreshTokenExpiresIn int64  `json:"refresh_token_expires_in"`
	Scope                 string `json:"scope"`
	Error                 string `json:"error"`
}

// client returns a client that is closed with the test.
func client(t testing.TB, s *simulator.Simulator) *http.Client {
	c := s.Client()
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// ask makes one request and reads the whole answer.
func ask(c *http.Client, method, target, token string, body any) (*http.Response, []byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequest(method, target, bytes.NewReader(b))
	if err != nil {
		return nil, nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Anthropic-Beta", "claude-code-20250219,oauth-2025-04-20")
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, got, err
}

func tryToken(c *http.Client, form map[string]any) (grant, error) {
	if form["client_id"] == nil {
		form["client_id"] = clientID
	}
	resp, b, err := ask(c, "POST", "https://platform.claude.com/v1/oauth/token", "", form)
	if err != nil {
		return grant{}, err
	}
	g := grant{Status: resp.StatusCode}
	if resp.StatusCode >= 500 || resp.StatusCode == 429 {
		return g, nil // another shape
	}
	return g, json.Unmarshal(b, &g)
}

func token(t *testing.T, c *http.Client, form map[string]any) grant {
	t.Helper()
	g, err := tryToken(c, form)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func refresh(t *testing.T, c *http.Client, refreshToken string) grant {
	t.Helper()
	return token(t, c, map[string]any{"grant_type": "refresh_token", "refresh_token": refreshToken})
}

func profile(t *testing.T, c *http.Client, access string) int {
	t.Helper()
	resp, _, err := ask(c, "GET", "https://api.anthropic.com/api/oauth/profile", access, nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

func TestRotationIsSingleUseAndKillsTheOldAccessToken(t *testing.T) {
	s, _ := start(t, simulator.Config{AccessTTL: time.Hour, LoginTTL: 48 * time.Hour})
	c := client(t, s)
	old := s.SignIn(simulator.SignIn{})
	if got := profile(t, c, old.AccessToken); got != 200 {
		t.Fatalf("profile with a fresh token: %d", got)
	}
	g := refresh(t, c, old.RefreshToken)
	if g.Status != 200 || g.RefreshToken == old.RefreshToken || g.AccessToken == old.AccessToken {
		t.Fatalf("refresh: %+v", g)
	}
	if g.ExpiresIn != 3600 || g.RefreshTokenExpiresIn != 48*3600 || g.Scope != "user:inference user:profile" {
		t.Errorf("lifetimes or scope: %+v", g)
	}
	if got := profile(t, c, old.AccessToken); got != 401 {
		t.Errorf("the old access token is answered %d; want 401", got)
	}
	if got := profile(t, c, g.AccessToken); got != 200 {
		t.Errorf("the new access token is answered %d; want 200", got)
	}
	if n := s.Counters(); n.Rotations != 1 || n.TokenRequests != 1 || n.Unauthorized != 1 {
		t.Errorf("counters: %+v", n)
	}
}

func TestReuseRevokesTheFamily(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	old, other := s.SignIn(simulator.SignIn{}), s.SignIn(simulator.SignIn{})
	g := refresh(t, c, old.RefreshToken)
	if g := refresh(t, c, old.RefreshToken); g.Status != 400 || g.Error != "invalid_grant" {
		t.Errorf("replay of a spent token: %+v", g)
	}
	if s.Live(g.AccessToken) {
		t.Error("the access token outlived its family")
	}
	if g := refresh(t, c, g.RefreshToken); g.Error != "invalid_grant" {
		t.Errorf("the family's live refresh token: %+v", g)
	}
	if n := s.Counters(); n.SpentReplays != 1 || n.FamiliesRevoked != 1 || n.InvalidGrants != 2 {
		t.Errorf("counters: %+v", n)
	}
	if !s.Live(other.AccessToken) {
		t.Error("another family was revoked too")
	}
}

func TestGraceAnswersTheSamePair(t *testing.T) {
	s, _ := start(t, simulator.Config{Grace: 5 * time.Second})
	c := client(t, s)
	old := s.SignIn(simulator.SignIn{})
	first, second := refresh(t, c, old.RefreshToken), refresh(t, c, old.RefreshToken)
	if second.Status != 200 || first.RefreshToken != second.RefreshToken || first.AccessToken != second.AccessToken {
		t.Errorf("within grace: %+v, then %+v", first, second)
	}
	if n := s.Counters(); n.Rotations != 1 || n.GraceReplays != 1 || n.SpentReplays != 0 {
		t.Errorf("counters: %+v", n)
	}
	s.SetClockSkew(6 * time.Second)
	if g := refresh(t, c, old.RefreshToken); g.Error != "invalid_grant" {
		t.Errorf("after grace: %+v", g)
	}
	if n := s.Counters(); n.SpentReplays != 1 || n.FamiliesRevoked != 1 {
		t.Errorf("counters: %+v", n)
	}
}

func TestGraceEndsWhenTheSuccessorIsSpent(t *testing.T) {
	s, _ := start(t, simulator.Config{Grace: time.Hour})
	c := client(t, s)
	old := s.SignIn(simulator.SignIn{})
	g := refresh(t, c, old.RefreshToken)
	refresh(t, c, g.RefreshToken)
	if g := refresh(t, c, old.RefreshToken); g.Error != "invalid_grant" || s.Counters().SpentReplays != 1 {
		t.Errorf("a token two rotations old: %+v", g)
	}
}

func TestLoginEndsAtItsCapHoweverOftenItIsRefreshed(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	l := s.SignIn(simulator.SignIn{})
	s.SetClockSkew(29*24*time.Hour + 20*time.Hour)
	g := refresh(t, c, l.RefreshToken)
	if g.Status != 200 || g.ExpiresIn > 4*3600 || g.RefreshTokenExpiresIn > 4*3600 {
		t.Errorf("refresh four hours before the cap: %+v", g)
	}
	s.SetClockSkew(30*24*time.Hour + time.Minute)
	if s.Live(g.AccessToken) {
		t.Error("the access token outlived the sign-in")
	}
	if g := refresh(t, c, g.RefreshToken); g.Error != "invalid_grant" || s.Counters().SpentReplays != 0 {
		t.Errorf("refresh after the cap: %+v", g)
	}
}

func TestOmittedRefreshTokenIsNotRotated(t *testing.T) {
	s, _ := start(t, simulator.Config{OmitRefreshToken: true})
	c := client(t, s)
	l := s.SignIn(simulator.SignIn{})
	for range 2 {
		if g := refresh(t, c, l.RefreshToken); g.Status != 200 || g.RefreshToken != "" || !s.Live(g.AccessToken) {
			t.Fatalf("refresh: %+v", g)
		}
	}
	if n := s.Counters(); s.Live(l.AccessToken) || n.Rotations != 0 || n.Refreshes != 2 {
		t.Errorf("counters: %+v", n)
	}
}

func TestAccessTokensExpire(t *testing.T) {
	s, _ := start(t, simulator.Config{AccessTTL: 2 * time.Second})
	c := client(t, s)
	l, setup := s.SignIn(simulator.SignIn{}), s.SetupToken()
	s.SetClockSkew(3 * time.Second)
	if s.Live(l.AccessToken) || profile(t, c, l.AccessToken) != 401 {
		t.Error("the token is live after its expiry")
	}
	s.SetAccessTTL(time.Hour)
	g := refresh(t, c, l.RefreshToken)
	if !s.Live(g.AccessToken) || g.ExpiresIn != 3600 {
		t.Errorf("after SetAccessTTL: %+v", g)
	}
	s.ExpireAccess()
	if s.Live(g.AccessToken) || !s.Live(setup) {
		t.Error("ExpireAccess must end the login's access token and leave the setup token")
	}
	if g := refresh(t, c, g.RefreshToken); g.Status != 200 {
		t.Errorf("refresh after ExpireAccess: %+v", g)
	}
}

func TestRevocation(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	l := s.SignIn(simulator.SignIn{})
	if !s.RevokeAccess(l.AccessToken) || s.Live(l.AccessToken) || s.RevokeAccess(l.AccessToken) {
		t.Error("RevokeAccess")
	}
	g := refresh(t, c, l.RefreshToken)
	if g.Status != 200 {
		t.Fatalf("RevokeAccess took the refresh token too: %+v", g)
	}
	if !s.RevokeLogin(g.AccessToken) || s.RevokeLogin(g.RefreshToken) || s.RevokeLogin("fake-nothing") {
		t.Error("RevokeLogin")
	}
	if g := refresh(t, c, g.RefreshToken); g.Error != "invalid_grant" || s.Live(g.AccessToken) {
		t.Errorf("after RevokeLogin: %+v", g)
	}
}

func TestSetupTokenIsGoodForInferenceOnly(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	setup := s.SetupToken()
	if got := profile(t, c, setup); got != 403 {
		t.Errorf("profile with a setup token: %d; want 403", got)
	}
	if resp, _ := say(t, c, setup, "hi"); resp.StatusCode != 200 {
		t.Errorf("messages with a setup token: %d", resp.StatusCode)
	}
	s.SetClockSkew(364 * 24 * time.Hour)
	if !s.Live(setup) {
		t.Error("the setup token died within its year")
	}
	s.SetClockSkew(366 * 24 * time.Hour)
	if s.Live(setup) {
		t.Error("the setup token outlived its year")
	}
}

func TestProfileSaysThePlan(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	l := s.SignIn(simulator.SignIn{Account: simulator.Account{Email: "alice@example.com", Plan: "pro", RateLimitTier: "tier"}})
	_, b, err := ask(c, "GET", "https://api.anthropic.com/api/oauth/profile", l.AccessToken, nil)
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Account      struct{ UUID, Email string }
		Organization struct {
			Type string `json:"organization_type"`
			Tier string `json:"rate_limit_tier"`
		}
	}
	if err := json.Unmarshal(b, &p); err != nil || p.Account.UUID != l.Account.UUID || p.Account.Email != "alice@example.com" ||
		p.Organization.Type != "claude_pro" || p.Organization.Tier != "tier" {
		t.Errorf("profile %s: %v", b, err)
	}
}

func TestRefreshScopes(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	l := s.SignIn(simulator.SignIn{})
	more := map[string]any{"grant_type": "refresh_token", "refresh_token": l.RefreshToken, "scope": "user:inference user:more"}
	if g := token(t, c, more); g.Error != "invalid_scope" {
		t.Errorf("more scopes than granted: %+v", g)
	}
	fewer := map[string]any{"grant_type": "refresh_token", "refresh_token": l.RefreshToken, "scope": "user:inference"}
	g := token(t, c, fewer)
	if g.Scope != "user:inference" || profile(t, c, g.AccessToken) != 403 {
		t.Errorf("fewer scopes: %+v", g)
	}
}

// authorizeURL is what the CLI prints, for this verifier.
func authorizeURL(verifier string, set map[string]string) string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"code": {"true"}, "client_id": {clientID}, "response_type": {"code"},
		"redirect_uri": {"https://platform.claude.com/oauth/code/callback"}, "scope": {"user:profile user:inference"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}, "state": {"fake-state"},
	}
	for k, v := range set {
		q.Set(k, v)
	}
	return "https://claude.ai/oauth/authorize?" + q.Encode()
}

func TestSignInByCode(t *testing.T) {
	verifier := strings.Repeat("v", 43)
	for name, test := range map[string]struct {
		change map[string]any
		want   string // error; "" is success
	}{
		"as it should be":   {nil, ""},
		"wrong verifier":    {map[string]any{"code_verifier": strings.Repeat("w", 43)}, "invalid_grant"},
		"short verifier":    {map[string]any{"code_verifier": "v"}, "invalid_grant"},
		"no verifier":       {map[string]any{"code_verifier": ""}, "invalid_grant"},
		"other state":       {map[string]any{"state": "fake-other"}, "invalid_grant"},
		"other redirect":    {map[string]any{"redirect_uri": "http://localhost:1/callback"}, "invalid_grant"},
		"other client":      {map[string]any{"client_id": "other"}, "invalid_grant"},
		"unknown code":      {map[string]any{"code": "fake-code-none"}, "invalid_grant"},
		"endless token":     {map[string]any{"expires_in": 1 << 40}, "invalid_request"},
		"other grant type":  {map[string]any{"grant_type": "password"}, "unsupported_grant_type"},
		"for a setup token": {map[string]any{"expires_in": 31536000}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := start(t, simulator.Config{})
			c := client(t, s)
			pasted, err := s.Approve(t.Context(), authorizeURL(verifier, nil))
			if err != nil {
				t.Fatal(err)
			}
			code, state, _ := strings.Cut(pasted, "#")
			form := map[string]any{
				"grant_type": "authorization_code", "code": code, "state": state, "code_verifier": verifier,
				"redirect_uri": "https://platform.claude.com/oauth/code/callback",
			}
			for k, v := range test.change {
				form[k] = v
			}
			g := token(t, c, form)
			if g.Error != test.want || test.want == "" != s.Live(g.AccessToken) {
				t.Errorf("exchange: %+v; want error %q", g, test.want)
			}
			if static := form["expires_in"] != nil; test.want == "" && static != (g.RefreshToken == "") {
				t.Errorf("a refresh token comes with a login only: %+v", g)
			}
		})
	}
}

func TestCodeIsSingleUseAndExpires(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	verifier := strings.Repeat("v", 43)
	exchange := func(pasted string) grant {
		code, state, _ := strings.Cut(pasted, "#")
		return token(t, c, map[string]any{
			"grant_type": "authorization_code", "code": code, "state": state, "code_verifier": verifier,
			"redirect_uri": "https://platform.claude.com/oauth/code/callback",
		})
	}
	pasted, err := s.Approve(t.Context(), authorizeURL(verifier, nil))
	if err != nil {
		t.Fatal(err)
	}
	g := exchange(pasted)
	if again := exchange(pasted); again.Error != "invalid_grant" || s.Live(g.AccessToken) {
		t.Errorf("a used code: %+v; its login must be revoked", again)
	}
	late, err := s.ApproveAs(t.Context(), authorizeURL(verifier, nil), "bob@example.com")
	if err != nil {
		t.Fatal(err)
	}
	s.SetClockSkew(11 * time.Minute)
	if g := exchange(late); g.Error != "invalid_grant" {
		t.Errorf("an old code: %+v", g)
	}
}

func TestAuthorizePageRefuses(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	for name, set := range map[string]map[string]string{
		"plain challenge":     {"code_challenge_method": "plain"},
		"short challenge":     {"code_challenge": "abc"},
		"unknown client":      {"client_id": "someone"},
		"foreign redirect":    {"redirect_uri": "https://attacker.example/callback"},
		"look-alike redirect": {"redirect_uri": "http://localhost.attacker.example/callback"},
		"no state":            {"state": ""},
		"no scope":            {"scope": ""},
		"token response":      {"response_type": "token"},
	} {
		if _, err := s.Approve(t.Context(), authorizeURL(strings.Repeat("v", 43), set)); !errors.Is(err, hub.ErrRefused) {
			t.Errorf("%s: %v; want a refusal", name, err)
		}
	}
	if _, err := s.Approve(t.Context(), authorizeURL(strings.Repeat("v", 43), map[string]string{"redirect_uri": "http://localhost:54321/callback"})); err != nil {
		t.Errorf("the CLI's own listener: %v", err)
	}
	if _, err := s.Approve(context.Background(), "https://attacker.example/oauth/authorize"); err == nil {
		t.Error("approved at a host that is not played")
	}
}

func TestSameSeedSameTokens(t *testing.T) {
	a, _ := start(t, simulator.Config{Seed: 7})
	b, _ := start(t, simulator.Config{Seed: 7})
	first, second := a.SetupToken(), a.SetupToken()
	if first != b.SetupToken() || first == second {
		t.Error("tokens do not follow the seed")
	}
}

package simulator

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// The paths of the authorize page: the subscription's, its older one, and the
// console's (observed in that order of use).
var authorizePaths = []string{"/cai/oauth/authorize", "/oauth/authorize"}

func (s *Simulator) authorizeHandler() http.Handler {
	mux := http.NewServeMux()
	for _, p := range authorizePaths {
		count := func(c *Counters) { c.AuthorizePages++ }
		mux.Handle("GET "+p, s.endpoint(EndpointAuthorize, count, s.authorizePage))
		mux.Handle("POST "+p, s.endpoint(EndpointAuthorize, func(*Counters) {}, s.approve))
	}
	return mux
}

// authorizeRequest reads and checks what the CLI put into the authorize URL.
func authorizeRequest(q url.Values) (code, error) {
	c := code{
		clientID:    q.Get("client_id"),
		redirectURI: q.Get("redirect_uri"),
		challenge:   q.Get("code_challenge"),
		state:       q.Get("state"),
		scopes:      strings.Fields(q.Get("scope")),
	}
	digest, err := base64.RawURLEncoding.DecodeString(c.challenge)
	switch {
	case q.Get("response_type") != "code":
		return c, errors.New("response_type must be code")
	case c.clientID != clientID:
		return c, errors.New("unknown client_id")
	case c.redirectURI != manualRedirect && !isLoopbackRedirect(c.redirectURI):
		return c, errors.New("redirect_uri is not registered")
	case q.Get("code_challenge_method") != "S256" || err != nil || len(digest) != 32:
		return c, errors.New("code_challenge must be an S256 challenge")
	case c.state == "":
		return c, errors.New("state is missing")
	case len(c.scopes) == 0:
		return c, errors.New("scope is missing")
	}
	return c, nil
}

// isLoopbackRedirect allows the CLI's own listener (observed:
// http://localhost:<port>/callback).
func isLoopbackRedirect(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "http" && u.Path == "/callback" && isLoopbackHost(u.Host)
}

var authorizeTemplate = template.Must(template.New("").Parse(`<!doctype html>
<title>Authorize (simulator)</title>
<h1>Claude Code would like to connect</h1>
<p>This is the simulator, not the real platform. It asks for: {{range .}}<code>{{.}}</code> {{end}}</p>
<form method="post"><label>Account <input name="email" value="owner@example.com"></label>
<button name="decision" value="approve">Authorize</button> <button name="decision" value="deny">Decline</button></form>
`))

func (s *Simulator) authorizePage(_ http.ResponseWriter, r *http.Request, _ *Fault) *reply {
	c, err := authorizeRequest(r.URL.Query())
	if err != nil {
		return htmlReply(http.StatusBadRequest, template.Must(template.New("").Parse(`<h1>Invalid request</h1><p>{{.}}</p>`)), err.Error())
	}
	return htmlReply(http.StatusOK, authorizeTemplate, c.scopes)
}

// approve is the page's button: it makes the code and sends the browser on.
func (s *Simulator) approve(_ http.ResponseWriter, r *http.Request, _ *Fault) *reply {
	c, err := authorizeRequest(r.URL.Query())
	if err != nil {
		return htmlReply(http.StatusBadRequest, template.Must(template.New("").Parse(`<h1>Invalid request</h1><p>{{.}}</p>`)), err.Error())
	}
	body, err := readBody(r, maxGrant)
	form, err2 := url.ParseQuery(string(body))
	if err != nil || err2 != nil {
		return apiError(http.StatusBadRequest, "invalid_request_error", "the form is broken")
	}
	q := url.Values{"state": {c.state}}
	if form.Get("decision") == "approve" {
		c.account = Account{Email: form.Get("email")}.withDefaults()
		q.Set("code", s.ledger.authorize(c))
	} else {
		q.Set("error", "access_denied")
	}
	return &reply{status: http.StatusFound, header: http.Header{"Location": {c.redirectURI + "?" + q.Encode()}}}
}

func htmlReply(status int, t *template.Template, data any) *reply {
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		panic(err) // the templates are constants of this file
	}
	return &reply{status: status, header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}, body: []byte(b.String())}
}

var codeTemplate = template.Must(template.New("").Parse(`<!doctype html>
<title>Authorization code (simulator)</title>
{{if .Code}}<p>Paste this into Claude Code:</p><pre id="code">{{.Code}}#{{.State}}</pre>{{else}}<p>You declined.</p>{{end}}
`))

// codePage shows what the owner pastes into the CLI.
func codePage(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	codeTemplate.Execute(w, struct{ Code, State string }{q.Get("code"), q.Get("state")})
}

func successPage(w http.ResponseWriter, _ *http.Request) {
	io.WriteString(w, "You are signed in. You can close this page. (simulator)\n")
}

// Approve does what the owner does in the browser: it opens the authorize URL
// that the CLI printed, through the proxy, approves as owner@example.com, and
// returns the "code#state" that the page shows for pasting.
func (s *Simulator) Approve(ctx context.Context, authorizeURL string) (string, error) {
	return s.ApproveAs(ctx, authorizeURL, "")
}

// ApproveAs is Approve by another account.
func (s *Simulator) ApproveAs(ctx context.Context, authorizeURL, email string) (string, error) {
	client := s.Client()
	defer client.CloseIdleConnections()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	if err := browse(ctx, client, http.MethodGet, authorizeURL, nil, nil); err != nil {
		return "", fmt.Errorf("opening the authorize page: %w", err)
	}
	var location string
	form := url.Values{"decision": {"approve"}, "email": {email}}
	if err := browse(ctx, client, http.MethodPost, authorizeURL, form, &location); err != nil {
		return "", fmt.Errorf("approving: %w", err)
	}
	u, err := url.Parse(location)
	if err != nil {
		return "", fmt.Errorf("the page leads nowhere: %w", err)
	}
	q := u.Query()
	return q.Get("code") + "#" + q.Get("state"), nil
}

// browse makes one request of a browser and insists on a page or, if location is
// given, on a redirect.
func browse(ctx context.Context, c *http.Client, method, target string, form url.Values, location *string) error {
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if location == nil && resp.StatusCode == http.StatusOK {
		return nil
	}
	if location != nil && resp.StatusCode == http.StatusFound {
		*location = resp.Header.Get("Location")
		return nil
	}
	return fmt.Errorf("%w: status %d: %s", hub.ErrRefused, resp.StatusCode, page)
}

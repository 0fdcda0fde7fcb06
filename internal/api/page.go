package api

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// OperatorRequest asks for a link that makes a browser the operator's. It is the
// body of POST /api/v1/operator.
type OperatorRequest struct {
	Profile hub.ProfileName `json:"profile,omitempty"` // whose sign-in the link leads to; empty: the list of profiles
}

// OperatorLink is the answer to POST /api/v1/operator. Whoever opens the link
// first is the operator: handing it out is what the call is for.
type OperatorLink struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// SignInRequest asks for a sign-in through the daemon's page, or to look on at the
// one that is under way for this profile. It is the body of POST /api/v1/sign-ins.
type SignInRequest struct {
	Profile hub.ProfileName `json:"profile"`
	Timeout time.Duration   `json:"timeout,omitempty"` // nanoseconds; zero: 10 minutes
	In      string          `json:"in,omitempty"`      // where the CLI runs; empty: the daemon's choice
}

// SignInState is how far a sign-in has come.
type SignInState string

// The states of a sign-in. The last four are its ends.
const (
	SignInNone      SignInState = "none"      // there is none
	SignInStarting  SignInState = "starting"  // the CLI makes a link
	SignInLink      SignInState = "link"      // the owner opens the link; a code is awaited
	SignInChecking  SignInState = "checking"  // the CLI has the code
	SignInCapturing SignInState = "capturing" // the CLI has the login, and the hub takes it
	SignInStopping  SignInState = "stopping"  // somebody has cancelled it, and the CLI is being ended
	SignInDone      SignInState = "done"
	SignInCancelled SignInState = "cancelled"
	SignInExpired   SignInState = "expired"
	SignInFailed    SignInState = "failed"
)

// Ended reports whether a sign-in in this state is over.
func (s SignInState) Ended() bool {
	return s == SignInDone || s == SignInCancelled || s == SignInExpired || s == SignInFailed
}

// SignIn is where a sign-in stands. It holds neither a code nor a token.
type SignIn struct {
	ID      string          `json:"id,omitempty"`
	Profile hub.ProfileName `json:"profile"`
	State   SignInState     `json:"state"`
	Step    int             `json:"step,omitempty"`    // grows with each change
	Link    string          `json:"link,omitempty"`    // for the owner's browser
	Trouble string          `json:"trouble,omitempty"` // why the last code was not taken
	Note    string          `json:"note,omitempty"`    // what else the owner should know, such as where the CLI runs
	Expires time.Time       `json:"expires,omitzero"`  // when it is given up
	Ended   time.Time       `json:"ended,omitzero"`

	// When it is done.
	Plan         string         `json:"plan,omitempty"`
	LoginExpires time.Time      `json:"login_expires,omitzero"`
	Generation   hub.Generation `json:"generation,omitempty"`
	Files        int            `json:"files,omitempty"`
	Warnings     []string       `json:"warnings,omitempty"`

	Error *Error `json:"error,omitempty"` // when it has ended without a login
}

// Err is nil for a sign-in that is done or under way, and why it failed otherwise.
func (s SignIn) Err() error {
	if s.Error == nil {
		return nil
	}
	return s.Error.asError()
}

// SignInLine is one line of the answer to POST /api/v1/sign-ins: each state as it
// comes. An error says that there is no sign-in at all.
type SignInLine struct {
	SignIn *SignIn `json:"sign_in,omitempty"`
	Error  *Error  `json:"error,omitempty"`
}

// Operator asks for a link to the daemon's page. The error is hub.ErrNotFound if
// the daemon serves no page.
func (c *Client) Operator(ctx context.Context, req OperatorRequest) (OperatorLink, error) {
	var link OperatorLink
	resp, err := c.do(ctx, http.MethodPost, "/operator", req)
	if err != nil {
		return link, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&link); err != nil {
		return link, fmt.Errorf("reading the daemon's answer: %w", err)
	}
	return link, nil
}

// SignIn starts a sign-in, or looks on at the one that there is, calls each with
// every state, and returns the last. Cancelling ctx cancels a sign-in that this
// call has started, and no other.
func (c *Client) SignIn(ctx context.Context, req SignInRequest, each func(SignIn)) (SignIn, error) {
	var last SignIn
	resp, err := c.do(ctx, http.MethodPost, "/sign-ins", req)
	if err != nil {
		return last, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 4<<10), 1<<20)
	for lines.Scan() {
		var line SignInLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return last, fmt.Errorf("reading the daemon's answer: %w", err)
		}
		switch {
		case line.Error != nil:
			return last, line.Error.asError()
		case line.SignIn != nil:
			last = *line.SignIn
			each(last)
		}
		if last.State.Ended() {
			return last, last.Err()
		}
	}
	if ctx.Err() != nil {
		return last, fmt.Errorf("%w: the daemon was told to stop the sign-in", hub.ErrCancelled)
	}
	err = cmp.Or(lines.Err(), io.ErrUnexpectedEOF)
	return last, hub.Hint(fmt.Errorf("the daemon's answer broke off: %w", err), "see with `claude-hub status` whether there is a login")
}

package gateway

import (
	"encoding/json"
	"time"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
)

// RefusalKind says what kind of thing stood in a request's way.
type RefusalKind string

// The kinds of refusals that a run's verdict can rest on.
const (
	RefusedLimit         RefusalKind = "limit"          // a limit of the lease, or its end
	RefusedParked        RefusalKind = "parked"         // the plan's window is used up
	RefusedLoginRequired RefusalKind = "login-required" // only the owner can mend it
)

// Refusal is why a request was refused.
type Refusal struct {
	Kind   RefusalKind
	Reason string    // one line for a person
	Until  time.Time // of RefusedParked: when to try again
}

// Refusal returns why the last request was refused, or nil if none was, or if a
// request that began after it went well.
func (e *Endpoint) Refusal() *Refusal {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refusal.Kind == "" {
		return nil
	}
	r := e.refusal
	return &r
}

// note remembers r as what came of the request with that number; the zero
// Refusal means that it went well. What came of an earlier request than the one
// remembered is of no interest.
func (e *Endpoint) note(number uint64, r Refusal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if number >= e.refused {
		e.refused, e.refusal = number, r
	}
}

// fault is an answer of the gateway's own.
type fault struct {
	status  int
	kind    string // in the API's words
	message string
	refusal Refusal // if its Kind is not empty
}

// The statuses are chosen by what the CLI makes of them: after 402 and 403 it
// stops at once and shows the message, the latter as "Failed to authenticate".
// After 502 and 503 it tries again for a while.
func badRequest(message string) *fault {
	return &fault{400, "invalid_request_error", message, Refusal{}}
}
func denied(message string) *fault   { return &fault{403, "permission_error", message, Refusal{}} }
func badToken(message string) *fault { return &fault{401, "authentication_error", message, Refusal{}} }
func unavailable(message string) *fault {
	return &fault{503, "api_error", message, Refusal{}}
}

func limited(reason string) *fault {
	return &fault{402, "billing_error", reason, Refusal{Kind: RefusedLimit, Reason: reason}}
}

func loginRequired(reason string) *fault {
	return &fault{403, "permission_error", reason + "; the owner must run `claude-hub login`", Refusal{Kind: RefusedLoginRequired, Reason: reason}}
}

// write answers in the API's error shape. Nobody waits for what can't be written:
// the client has left.
func (f *fault) write(c *wire.Conn) {
	var text struct {
		Type  string `json:"type"`
		Error struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		} `json:"error"`
	}
	text.Type, text.Error.Type, text.Error.Message = "error", f.kind, "claude-hub: "+f.message
	b, err := json.Marshal(text)
	if err != nil { // strings always marshal
		panic(err)
	}
	fields := refusalFields
	if f.status == 502 || f.status == 503 { // it may be better soon
		fields = jsonFields
	}
	c.Answer(f.status, fields, b)
}

var (
	jsonFields = []wire.Field{
		{Name: []byte("Content-Type"), Value: []byte("application/json")},
		{Name: []byte("X-Content-Type-Options"), Value: []byte("nosniff")},
	}
	refusalFields = append([]wire.Field{{Name: []byte("X-Should-Retry"), Value: []byte("false")}}, jsonFields...)
)

// hello answers the CLI's question whether somebody is there, which it asks
// without a token and before its first request.
func hello(c *wire.Conn, r *wire.Request) {
	text := []byte(`{"message":"hello"}`)
	if string(r.Method) == "HEAD" {
		text = nil
	}
	c.Answer(200, jsonFields, text)
}

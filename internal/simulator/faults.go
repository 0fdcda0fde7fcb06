package simulator

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Endpoint names one of the platform's doors.
type Endpoint string

// The endpoints. EndpointAny stands in a fault for all but EndpointConnect, which
// is the proxy's CONNECT.
const (
	EndpointAny         Endpoint = ""
	EndpointToken       Endpoint = "token"
	EndpointAuthorize   Endpoint = "authorize"
	EndpointProfile     Endpoint = "profile"
	EndpointMessages    Endpoint = "messages"
	EndpointCountTokens Endpoint = "count_tokens"
	EndpointHello       Endpoint = "hello"
	EndpointModels      Endpoint = "models"
	EndpointOther       Endpoint = "other" // a path of the API host that is not played
	EndpointConnect     Endpoint = "connect"
)

var endpoints = []Endpoint{
	EndpointAny, EndpointToken, EndpointAuthorize, EndpointProfile, EndpointMessages,
	EndpointCountTokens, EndpointHello, EndpointModels, EndpointOther, EndpointConnect,
}

// FaultKind says what goes wrong.
type FaultKind string

// Faults before anything is done: no token is rotated or minted.
const (
	FaultSlowStart    FaultKind = "slow-start"   // waits Delay, then goes on as ever
	FaultHang         FaultKind = "hang"         // reads the request and never answers
	FaultDrop         FaultKind = "drop"         // closes the connection
	FaultStatus       FaultKind = "status"       // answers Status, Type, Message, RetryAfter
	FaultUnauthorized FaultKind = "unauthorized" // 401 authentication_error
	FaultRevoked      FaultKind = "revoked"      // 403 permission_error, in the words that mean a revoked token
	FaultPlanLimit    FaultKind = "plan-limit"   // 429 with rejecting window headers, until RetryAfter from now (1 hour if zero)
	FaultRateLimit    FaultKind = "rate-limit"   // 429 with Retry-After and no window headers
	FaultOverloaded   FaultKind = "overloaded"   // 529 overloaded_error
	FaultServerError  FaultKind = "server-error" // 500 api_error
	FaultBadGateway   FaultKind = "bad-gateway"  // 502 with a page of HTML
	// FaultEarlyAnswer answers before the request's body has been read: messages
	// with its ordinary answer to an empty prompt, everything else with Status
	// (503 if zero).
	FaultEarlyAnswer  FaultKind = "early-answer"
	FaultInvalidGrant FaultKind = "invalid-grant" // the token endpoint refuses a good token
)

// Faults after the fact: what was asked for is done, and a rotation committed,
// before anything of these shows. On a stream, the lost and broken ones strike
// before its first byte.
const (
	FaultSlow             FaultKind = "slow"               // answers after Delay
	FaultLostReply        FaultKind = "lost-reply"         // closes the connection without a byte
	FaultLostHang         FaultKind = "lost-hang"          // never answers, and keeps the connection
	FaultHalfReply        FaultKind = "half-reply"         // closes after half the body
	FaultBrokenJSON       FaultKind = "broken-json"        // 200 with half the body, complete as HTTP
	FaultErrorAfterCommit FaultKind = "error-after-commit" // 500
	FaultSlowBytes        FaultKind = "slow-bytes"         // a byte (on a stream: an event) every Delay
)

// Faults of a token endpoint's answer.
const (
	FaultOmitRefreshToken FaultKind = "omit-refresh-token" // rotates nothing, answers without a refresh token
	FaultWrongExpiry      FaultKind = "wrong-expiry"       // expires_in is off by Delay, which may be negative
)

// Faults in the middle of a stream, after its first After events.
const (
	FaultCutStream   FaultKind = "cut-stream"   // closes the connection within an event
	FaultPingStall   FaultKind = "ping-stall"   // nothing but a ping every Every (1 s if zero) for Delay, then the rest
	FaultSilentStall FaultKind = "silent-stall" // nothing at all for Delay, then the rest
	FaultStreamError FaultKind = "stream-error" // an overloaded_error event ends the stream
)

var faultKinds = []FaultKind{
	FaultSlowStart, FaultHang, FaultDrop, FaultStatus, FaultUnauthorized, FaultRevoked, FaultPlanLimit,
	FaultRateLimit, FaultOverloaded, FaultServerError, FaultBadGateway, FaultEarlyAnswer, FaultInvalidGrant,
	FaultSlow, FaultLostReply, FaultLostHang, FaultHalfReply, FaultBrokenJSON, FaultErrorAfterCommit,
	FaultSlowBytes, FaultOmitRefreshToken, FaultWrongExpiry, FaultCutStream, FaultPingStall,
	FaultSilentStall, FaultStreamError,
}

// Fault is one thing that goes wrong.
type Fault struct {
	Endpoint Endpoint  `json:"endpoint"` // where; EndpointAny everywhere but the proxy
	Kind     FaultKind `json:"kind"`
	Times    int       `json:"times"` // how many requests it strikes; 0 means until cleared
	Skip     int       `json:"skip"`  // how many requests pass before the first
	// Probability that a request, past Skip, is struck. 0 means each one is.
	Probability float64       `json:"probability"`
	Delay       time.Duration `json:"delay"`       // see the kinds; 0 means none
	Every       time.Duration `json:"every"`       // of pings
	After       int           `json:"after"`       // events of a stream that pass
	Status      int           `json:"status"`      // of FaultStatus and FaultEarlyAnswer
	Type        string        `json:"type"`        // of FaultStatus's error; "" means api_error
	Message     string        `json:"message"`     // of FaultStatus's error
	RetryAfter  time.Duration `json:"retry_after"` // in whole seconds; 0 means no header
}

// check refuses faults that could never strike.
func (f Fault) check() error {
	switch {
	case !slices.Contains(endpoints, f.Endpoint):
		return fmt.Errorf("%w: no endpoint %q", hub.ErrInvalid, f.Endpoint)
	case !slices.Contains(faultKinds, f.Kind):
		return fmt.Errorf("%w: no fault %q", hub.ErrInvalid, f.Kind)
	case f.Times < 0, f.Skip < 0, f.After < 0, f.Every < 0, f.RetryAfter < 0, !(f.Probability >= 0 && f.Probability <= 1):
		return fmt.Errorf("%w: a number of fault %q is out of range", hub.ErrInvalid, f.Kind)
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("%w: status %d", hub.ErrInvalid, f.Status)
	}
	return nil
}

// faults holds what has been injected, in order: the first that strikes wins.
type faults struct {
	mu    sync.Mutex // guards all below
	rng   *rand.Rand
	armed []*armed
}

type armed struct {
	Fault
	left int // strikes to go; meaningless if Times is 0
}

func newFaults(seed uint64) *faults {
	return &faults{rng: rand.New(rand.NewChaCha8(seedBytes(seed, "faults")))}
}

// Inject arms a fault. Faults of one endpoint are tried in the order of their
// arrival, and one request is struck by one at most. A fault with an unknown
// endpoint or kind is a mistake of the program and panics.
func (s *Simulator) Inject(f Fault) {
	if err := f.check(); err != nil {
		panic(err)
	}
	s.faults.add(f)
}

// ClearFaults disarms every fault. Requests already struck stay so.
func (s *Simulator) ClearFaults() { s.faults.clear() }

func (fs *faults) add(f Fault) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.armed = append(fs.armed, &armed{Fault: f, left: f.Times})
}

func (fs *faults) clear() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.armed = nil
}

// list returns the armed faults, with Times and Skip as they stand.
func (fs *faults) list() []Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := make([]Fault, 0, len(fs.armed))
	for _, a := range fs.armed {
		f := a.Fault
		f.Times = a.left
		out = append(out, f)
	}
	return out
}

// take returns the fault that strikes this request of e, or nil.
func (fs *faults) take(e Endpoint) *Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i, a := range fs.armed {
		if a.Endpoint != e && (a.Endpoint != EndpointAny || e == EndpointConnect) {
			continue
		}
		if a.Skip > 0 {
			a.Skip--
			continue
		}
		if a.Probability > 0 && fs.rng.Float64() >= a.Probability {
			continue
		}
		f := a.Fault
		if a.Times > 0 {
			if a.left--; a.left == 0 {
				fs.armed = slices.Delete(fs.armed, i, i+1)
			}
		}
		return &f
	}
	return nil
}

func (f *Fault) is(kind FaultKind) bool { return f != nil && f.Kind == kind }

// before does what f does before anything else, and reports whether the request
// is to be handled further.
func (s *Simulator) before(f *Fault, w http.ResponseWriter, r *http.Request) bool {
	s.count(func(c *Counters) { c.Faults++ })
	switch f.Kind {
	case FaultSlowStart:
		bufferBody(r)
		if !s.sleep(r.Context(), f.Delay) {
			panic(http.ErrAbortHandler)
		}
		return true
	case FaultHang:
		bufferBody(r)
		s.hang(r.Context())
		panic(http.ErrAbortHandler)
	case FaultDrop:
		panic(http.ErrAbortHandler)
	}
	rep, ok := s.refusal(f)
	if ok {
		rep.write(w, s.now())
	}
	return !ok
}

// refusal is the answer of the faults that just refuse.
func (s *Simulator) refusal(f *Fault) (*reply, bool) {
	var rep *reply
	switch f.Kind {
	case FaultStatus:
		rep = apiError(f.Status, f.Type, f.Message)
	case FaultUnauthorized:
		rep = apiError(http.StatusUnauthorized, "authentication_error", errExpiredToken.Error())
	case FaultRevoked:
		rep = apiError(http.StatusForbidden, "permission_error",
			"OAuth token has been revoked. Please obtain a new token or refresh your existing token.")
	case FaultPlanLimit:
		d := f.RetryAfter
		if d == 0 {
			d = time.Hour
		}
		return s.planLimit(s.now().Add(d)), true
	case FaultRateLimit:
		rep = apiError(http.StatusTooManyRequests, "rate_limit_error", "Rate limited. Please try again later.")
	case FaultOverloaded:
		rep = apiError(529, "overloaded_error", "Overloaded")
	case FaultServerError:
		rep = apiError(http.StatusInternalServerError, "api_error", "Internal server error")
	case FaultBadGateway:
		rep = &reply{status: http.StatusBadGateway, header: http.Header{"Content-Type": {"text/html"}},
			body: []byte("<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>")}
	default:
		return nil, false
	}
	rep.retryAfter(f.RetryAfter)
	return rep, true
}

package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/lease"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/usage"
)

// ServeHTTP answers one request of the endpoint's run.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !e.enter() {
		panic(http.ErrAbortHandler)
	}
	defer e.handlers.Done()
	to, f := e.routeOf(r)
	if f == nil && to == routeHello {
		hello(w)
		return
	}
	number := e.began.Add(1)
	if f == nil {
		f = e.authorize(r)
	}
	if f == nil {
		f = e.forward(w, r, to, number)
	}
	if f != nil {
		e.refuse(w, f, number)
	}
}

// hello answers the CLI's question whether somebody is there, which it asks
// without a token and before its first request.
func hello(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"message":"hello"}`) // nothing of a HEAD's is sent
}

func (e *Endpoint) refuse(w http.ResponseWriter, f *fault, number uint64) {
	if f.refusal.Kind != "" {
		e.note(number, f.refusal)
	}
	e.g.log.Info("the gateway refused a request", "run", e.lease.Run(), "status", f.status, "reason", f.message)
	f.write(w)
}

// forward sends the request on and relays the answer. A fault means that nothing
// has been answered yet.
func (e *Endpoint) forward(w http.ResponseWriter, r *http.Request, to route, number uint64) *fault {
	b, f := e.readBody(w, r)
	if f != nil {
		return f
	}
	model, err := usage.RequestModel(b.bytes())
	if err != nil {
		b.release()
		return badRequest("claude-hub: " + err.Error())
	}
	x := &exchange{e: e, w: w, number: number, model: model, size: b.n}
	if f := x.admit(r.Context(), to); f != nil {
		b.release()
		return f
	}
	defer x.end()
	res, f := e.exchange(r, b)
	b.release() // from here on nobody sends it again
	if f != nil {
		return f
	}
	defer res.Body.Close()
	return x.relay(res)
}

// exchange is one request that was admitted, and its answer.
type exchange struct {
	e      *Endpoint
	w      http.ResponseWriter
	number uint64
	model  string
	size   int            // of the request's body
	lease  *lease.Request // nil for a request that is not metered
	sent   bool
	meter  *usage.Meter
}

func (x *exchange) admit(ctx context.Context, to route) *fault {
	var err error
	if to == routeMessages {
		x.lease, err = x.e.lease.Begin(ctx, x.model)
	} else {
		err = x.e.lease.Admit(x.model)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hub.ErrRefused):
		return limited(err.Error())
	default:
		return unavailable("claude-hub: the request ended while it waited for its turn")
	}
}

func (x *exchange) end() {
	if x.lease != nil {
		x.lease.End()
	}
}

// exchange gets an answer from the upstream, with a second try if the access
// token turns out to be dead.
func (e *Endpoint) exchange(r *http.Request, b *body) (*http.Response, *fault) {
	ctx := r.Context()
	stale := hub.Generation(0)
	for {
		token, generation, err := e.g.tokens.AccessToken(ctx, e.lease.Profile(), stale)
		if err != nil {
			return nil, e.noToken(err)
		}
		if stale != 0 && generation <= stale {
			return nil, loginRequired("the platform does not accept this profile's login")
		}
		res, err := e.g.transport.RoundTrip(e.outgoing(r, b, token))
		if err != nil {
			return nil, e.noAnswer(ctx, err)
		}
		if res.StatusCode != http.StatusUnauthorized {
			return res, nil
		}
		discard(res)
		if stale != 0 {
			return nil, loginRequired("the platform refused this profile's login, and the renewed one too")
		}
		stale = generation
	}
}

// outgoing writes the request anew for the upstream.
func (e *Endpoint) outgoing(r *http.Request, b *body, token secret.Text) *http.Request {
	u := *e.g.upstream
	u.Path, u.RawQuery = r.URL.Path, r.URL.RawQuery
	header := make(http.Header, len(r.Header)+2)
	copyHeader(header, r.Header, notForwarded)
	header["Authorization"] = []string{"Bearer " + token.Reveal()}
	if len(header["User-Agent"]) == 0 {
		header["User-Agent"] = nil // or the transport would make one up
	}
	out := &http.Request{
		Method: r.Method, URL: &u, Host: u.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(b.n), Body: b.open(),
		GetBody: func() (io.ReadCloser, error) { return b.open(), nil },
	}
	return out.WithContext(r.Context())
}

// discard reads the little that an error's body has, so that the connection can
// be used again.
func discard(res *http.Response) {
	io.CopyN(io.Discard, res.Body, 64<<10) // a shorter one is as good
	res.Body.Close()
}

func (e *Endpoint) noToken(err error) *fault {
	switch {
	case e.lease.Err() != nil:
		return limited(e.lease.Err().Error())
	case errors.Is(err, hub.ErrLoginRequired):
		return loginRequired("the profile's login has ended")
	}
	e.g.log.Warn("no access token for a request", "run", e.lease.Run(), "profile", e.lease.Profile(), "err", err)
	return unavailable("claude-hub: there is no access token for the moment")
}

func (e *Endpoint) noAnswer(ctx context.Context, err error) *fault {
	if e.lease.Err() != nil {
		return limited(e.lease.Err().Error())
	}
	if ctx.Err() == nil {
		e.g.log.Warn("no answer from the upstream", "run", e.lease.Run(), "err", err)
	}
	return &fault{502, "api_error", "claude-hub: no answer from " + e.g.upstream.Host, Refusal{}}
}

// parked is the refusal that an answer of the platform means, if it means one.
func parked(status int, w usage.Windows, now time.Time) Refusal {
	until := w.ParkedUntil(now)
	if status != http.StatusTooManyRequests || until.IsZero() {
		return Refusal{}
	}
	return Refusal{Kind: RefusedParked, Until: until, Reason: fmt.Sprintf("the plan's window is used up until %s", until.UTC().Format(time.RFC3339))}
}

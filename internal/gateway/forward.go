package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/lease"
	"github.com/claude-hub/claude-hub/internal/usage"
)

// exchange is one request and its answer.
type exchange struct {
	e      *Endpoint
	c      *wire.Conn
	number uint64 // of the endpoint's requests, in order
	to     route
	head   []byte // the outgoing head behind its Authorization, up to the body's length
	buffer *[]byte
	model  string
	body   *body
	size   int            // of the body
	lease  *lease.Request // nil for a request that is not metered
	sent   bool           // the last attempt may have been worked on, and was not answered
	meter  *usage.Meter
}

// handle answers one request of the endpoint's run.
func (e *Endpoint) handle(c *wire.Conn, r *wire.Request) {
	to, f := e.routeOf(r)
	if f == nil && to == routeHello {
		hello(c, r)
		return
	}
	x := &exchange{e: e, c: c, to: to, number: e.began.Add(1)}
	if f == nil {
		f = e.authorize(r)
	}
	if f == nil {
		f = x.forward(r)
	}
	if f != nil {
		x.refuse(f)
	}
}

// malformed answers what is no request.
func (e *Endpoint) malformed(c *wire.Conn, err error) {
	f := badRequest("malformed request: " + err.Error())
	switch {
	case errors.Is(err, wire.ErrVersion):
		f.status = 505
	case errors.Is(err, wire.ErrLongHead):
		f.status = 431
	}
	e.g.log.Info("the gateway refused a request", "run", e.lease.Run(), "status", f.status, "reason", f.message)
	f.write(c)
}

func (x *exchange) refuse(f *fault) {
	if f.refusal.Kind != "" {
		x.e.note(x.number, f.refusal)
	}
	x.e.g.log.Info("the gateway refused a request", "run", x.e.lease.Run(), "status", f.status, "reason", f.message)
	f.write(x.c)
}

// forward sends the request on and relays the answer. A fault means that nothing
// has been answered yet.
func (x *exchange) forward(r *wire.Request) *fault {
	for _, field := range r.Fields {
		if field.Is("content-encoding") && string(field.Value) != "identity" {
			return &fault{415, "invalid_request_error", "an encoded request body is not taken", Refusal{}}
		}
	}
	x.pack(r)
	b, f := x.e.readBody(x.c, r.Length)
	if f != nil {
		freeBuffer(x.buffer)
		return f
	}
	x.body, x.size = b, b.n
	defer func() {
		if x.lease != nil {
			x.lease.End()
		}
	}()
	answer, f := x.ask()
	b.release() // from here on nobody sends it again
	freeBuffer(x.buffer)
	if f != nil {
		return f
	}
	defer answer.body.Close()
	return x.relay(answer)
}

// pack writes what of the head is the same in each attempt. It must be done
// before the body is read, which overwrites the fields.
func (x *exchange) pack(r *wire.Request) {
	x.buffer = newBuffer(smallHead)
	b := append((*x.buffer)[:0], r.Method...)
	b = append(append(b, ' '), r.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, x.e.g.upstream.Host...)
	b = append(b, "\r\nAccept-Encoding: identity"...) // metering reads the answer
	for _, f := range passing(r.Fields, notForwarded) {
		b = append(append(b, "\r\n"...), f.Name...)
		b = append(append(b, ": "...), f.Value...)
	}
	x.head = b
	*x.buffer = b[:cap(b)]
}

// smallHead is enough for the CLI's heads, the access token included.
const smallHead = 4 << 10

// ask admits the request and gets its answer.
func (x *exchange) ask() (answer, *fault) {
	asked, err := usage.ParseRequest(x.body.bytes())
	switch {
	case err != nil:
		return answer{}, badRequest(err.Error())
	case asked.Remote != "" && !x.e.remote:
		return answer{}, denied("a run has no network, and may not have the platform reach out for it: " + asked.Remote)
	}
	x.model = asked.Model
	if f := x.admit(); f != nil {
		return answer{}, f
	}
	// What is under way counts by an estimate, so that many requests at once don't
	// all slip in below a limit.
	x.charge(usage.Unanswered(x.size).Usage(x.model))
	a, f := x.send()
	if f != nil && !x.sent || f == nil && a.head.Status >= 300 {
		x.charge(hub.Usage{})
	}
	return a, f
}

// charge sets what the request has used so far.
func (x *exchange) charge(u hub.Usage) {
	if x.lease != nil {
		x.lease.Record("", u)
	}
}

func (x *exchange) admit() *fault {
	var err error
	if x.to == routeMessages {
		x.lease, err = x.e.lease.Begin(x.c.Context(), x.model)
	} else {
		err = x.e.lease.Admit(x.model)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hub.ErrRefused):
		return limited(err.Error())
	default:
		return unavailable("the request ended while it waited for its turn")
	}
}

// send gets an answer from the upstream, with a second try if the access token
// turns out to be dead.
func (x *exchange) send() (answer, *fault) {
	ctx, e := x.c.Context(), x.e
	stale := hub.Generation(0)
	for {
		token, generation, err := e.g.tokens.AccessToken(ctx, e.lease.Profile(), stale)
		switch {
		case err != nil:
			return answer{}, e.noToken(err)
		case stale != 0 && generation <= stale:
			return answer{}, loginRequired("the platform does not accept this profile's login")
		case !plainToken(token.Reveal()):
			return answer{}, e.noToken(errors.New("the access token has characters that no header takes"))
		}
		a, err := e.g.send(ctx, x.parcel(token.Reveal()))
		if err != nil {
			return answer{}, x.noAnswer(ctx, err)
		}
		if !rejected(&a) {
			return a, nil
		}
		a.body.Close()
		if stale != 0 {
			return answer{}, e.refusedTwice(ctx, generation)
		}
		stale = generation
	}
}

// refusedTwice says what it means that the renewed access token was refused, too:
// either it has been renewed again meanwhile, which short-lived tokens and other
// processes can bring about, or the login is no good.
func (e *Endpoint) refusedTwice(ctx context.Context, generation hub.Generation) *fault {
	if _, newer, err := e.g.tokens.AccessToken(ctx, e.lease.Profile(), 0); err == nil && newer > generation {
		return unavailable("the access token was renewed twice while the request was under way")
	}
	return loginRequired("the platform refused this profile's login, and the renewed one too")
}

// parcel is one attempt with that access token.
func (x *exchange) parcel(token string) *wire.Parcel {
	buffer, body := newBuffer(len(x.head)+len(token)+128), x.body
	b := append((*buffer)[:0], x.head...)
	b = append(append(b, "\r\nAuthorization: Bearer "...), token...)
	b = fmt.Appendf(b, "\r\nContent-Length: %d\r\n\r\n", x.size)
	body.hold()
	return &wire.Parcel{Head: b, Body: body.bytes(), Done: func() {
		freeBuffer(buffer)
		body.release()
	}}
}

// plainToken reports whether s can stand in a header.
func plainToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return s != ""
}

func (e *Endpoint) noToken(err error) *fault {
	switch {
	case e.lease.Err() != nil:
		return limited(e.lease.Err().Error())
	case errors.Is(err, hub.ErrLoginRequired):
		return loginRequired("the profile's login has ended")
	}
	e.g.log.Warn("no access token for a request", "run", e.lease.Run(), "profile", e.lease.Profile(), "err", err)
	return unavailable("there is no access token for the moment")
}

func (x *exchange) noAnswer(ctx context.Context, err error) *fault {
	x.sent = !errors.Is(err, wire.ErrNotSent)
	if err := x.e.lease.Err(); err != nil {
		return limited(err.Error())
	}
	if ctx.Err() == nil {
		x.e.g.log.Warn("no answer from the upstream", "run", x.e.lease.Run(), "err", err)
	}
	return &fault{502, "api_error", "no answer from " + x.e.g.upstream.Host, Refusal{}}
}

// parked is the refusal that an answer of the platform means, if it means one.
func parked(status int, w usage.Windows, now time.Time) Refusal {
	until := w.ParkedUntil(now)
	if status != 429 || until.IsZero() {
		return Refusal{}
	}
	return Refusal{Kind: RefusedParked, Until: until, Reason: "the plan's window is used up until " + until.UTC().Format(time.RFC3339)}
}

package gateway

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/usage"
)

// Sizes of the buffers that answers are copied with. A stream's is held while
// nothing comes, so it is small.
const (
	streamBuffer   = 4 << 10
	documentBuffer = 32 << 10
)

// relay passes the answer on. A fault means that nothing of it has gone out.
func (x *exchange) relay(res *http.Response) *fault {
	if res.StatusCode < 200 || res.StatusCode >= 300 && res.StatusCode < 400 {
		x.e.g.log.Error("the upstream answered with a redirect or another protocol", "run", x.e.lease.Run(), "status", res.StatusCode)
		return &fault{502, "api_error", "claude-hub: the upstream answered with a redirect, which is not followed", Refusal{}}
	}
	x.learn(res)
	h := x.w.Header()
	copyHeader(h, res.Header, notReturned)
	if len(res.Header["Date"]) == 0 {
		h["Date"] = nil // or the server would make one up
	}
	x.w.WriteHeader(res.StatusCode)
	if res.StatusCode < 300 && x.lease != nil {
		x.meter = usage.NewMeter(res.Header, x.size)
	}
	err := x.copy(res)
	x.settle()
	if err != nil {
		panic(http.ErrAbortHandler) // an end would look like the answer's own
	}
	return nil
}

// learn takes note of what the headers say about the plan.
func (x *exchange) learn(res *http.Response) {
	windows := usage.ParseWindows(res.Header)
	if windows.Told() && x.e.g.onWindows != nil {
		x.e.g.onWindows(x.e.lease.Profile(), windows)
	}
	switch refusal := parked(res.StatusCode, windows, time.Now()); {
	case refusal.Kind != "":
		x.e.note(x.number, refusal)
	case res.StatusCode < 300 && x.lease != nil:
		x.e.note(x.number, Refusal{})
	}
}

// copy passes the body on as it comes.
func (x *exchange) copy(res *http.Response) error {
	size, flush := documentBuffer, res.ContentLength < 0
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		size, flush = streamBuffer, true
	}
	buffer := newBuffer(size)
	defer freeBuffer(buffer)
	rc := http.NewResponseController(x.w)
	if early, ok := res.Body.(interface{ Buffered() int }); flush && (!ok || early.Buffered() == 0) {
		if err := rc.Flush(); err != nil { // the header, should the first event take long
			return err
		}
	}
	for {
		n, err := res.Body.Read(*buffer)
		if n > 0 {
			if _, err := x.w.Write((*buffer)[:n]); err != nil {
				return err
			}
			if flush {
				if err := rc.Flush(); err != nil {
					return err
				}
			}
			x.measure((*buffer)[:n])
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// measure reads bytes that have gone out already.
func (x *exchange) measure(p []byte) {
	if x.meter == nil {
		return
	}
	before := x.meter.Tokens()
	x.meter.Write(p)
	if now := x.meter.Tokens(); now != before {
		x.record(now)
	}
}

func (x *exchange) record(t usage.Tokens) {
	model := x.meter.Model()
	if model == "" {
		model = x.model
	}
	x.lease.Record(model, t.Usage(model))
}

// settle records the whole.
func (x *exchange) settle() {
	if x.meter != nil {
		x.record(x.meter.Finish())
	}
}

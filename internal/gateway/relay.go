package gateway

import (
	"errors"
	"io"
	"time"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
	"github.com/claude-hub/claude-hub/internal/usage"
)

// outBuffer is the size of what is written at a time.
const outBuffer = 8 << 10

// relay passes the answer on. A fault means that nothing of it has gone out.
func (x *exchange) relay(a answer) *fault {
	head := a.head
	if head.Status >= 300 && head.Status < 400 {
		x.e.g.log.Error("the upstream answered with a redirect", "run", x.e.lease.Run(), "status", head.Status)
		return &fault{502, "api_error", "the upstream answered with a redirect, which is not followed", Refusal{}}
	}
	x.learn(head)
	if head.Status < 300 && x.lease != nil {
		x.meter = usage.NewMeter(field(head.Fields, "content-type"), field(head.Fields, "content-encoding"), x.size)
	}
	r := relaying{x: x, a: a, chunked: head.Length < 0}
	r.begin(wire.Reply{Status: head.Status, Fields: passing(head.Fields, notReturned), Length: max(head.Length, -1)})
	if r.copy() == nil {
		x.c.Finish() // else an end would look like the answer's own
	}
	if x.meter != nil {
		x.record(x.meter.Finish())
	}
	return nil
}

func field(fields []wire.Field, name string) string {
	for _, f := range fields {
		if f.Is(name) {
			return string(f.Value)
		}
	}
	return ""
}

// learn takes note of what the head says about the plan.
func (x *exchange) learn(head wire.Answer) {
	windows := usage.ParseWindows(func(name string) string { return field(head.Fields, name) })
	if windows.Told() && x.e.g.onWindows != nil {
		x.e.g.onWindows(x.e.lease.Profile(), windows)
	}
	switch refusal := parked(head.Status, windows, time.Now()); {
	case refusal.Kind != "":
		x.e.note(x.number, refusal)
	case head.Status < 300 && x.lease != nil:
		x.e.note(x.number, Refusal{})
	}
}

// relaying is an answer on its way. While it waits for more it holds no buffer.
type relaying struct {
	x       *exchange
	a       answer
	chunked bool
	buffer  *[]byte
	pending []byte // what goes out with the next write
}

func (r *relaying) begin(reply wire.Reply) {
	r.buffer = newBuffer(outBuffer)
	r.pending = r.x.c.Begin((*r.buffer)[:0], reply)
}

// copy passes the body on: what has come goes out before anything is waited for,
// and is measured after it has gone.
func (r *relaying) copy() error {
	defer func() { r.free() }()
	for {
		if len(r.pending) > 0 && !r.a.body.Ready() { // the head, should the first event take long
			if err := r.flush(nil); err != nil {
				return err
			}
		}
		p, err := r.a.body.Next()
		if err != nil {
			return r.end(err)
		}
		direct := r.add(p)
		if direct != nil || len(r.pending) >= outBuffer/2 || !r.a.body.Ready() {
			if err := r.flush(direct); err != nil {
				return err
			}
		}
		r.x.measure(p)
	}
}

// add puts p with what is pending, or returns it if it is better written as it
// is.
func (r *relaying) add(p []byte) []byte {
	if !r.chunked && len(p) > outBuffer/4 {
		return p
	}
	if r.buffer == nil {
		r.buffer = newBuffer(outBuffer)
		r.pending = (*r.buffer)[:0]
	}
	if r.chunked {
		r.pending = wire.AppendChunk(r.pending, p)
	} else {
		r.pending = append(r.pending, p...)
	}
	return nil
}

// flush writes what is pending, and p behind it.
func (r *relaying) flush(p []byte) error {
	err := r.x.c.WriteAll(r.pending, p)
	r.free()
	return err
}

func (r *relaying) free() {
	if r.buffer != nil {
		freeBuffer(r.buffer)
		r.buffer, r.pending = nil, nil
	}
}

// end writes what is left to be written when the answer has ended with err.
func (r *relaying) end(err error) error {
	whole := errors.Is(err, io.EOF)
	if whole && r.chunked {
		r.pending = append(r.pending, wire.LastChunk...)
	}
	if len(r.pending) > 0 {
		err = errors.Join(r.x.c.WriteAll(r.pending, nil), err)
	}
	if whole {
		return nil
	}
	return err
}

// measure reads bytes that have gone out already, or go with the next write.
func (x *exchange) measure(p []byte) {
	if x.meter == nil {
		return
	}
	before := x.meter.Tokens()
	x.meter.Feed(p)
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

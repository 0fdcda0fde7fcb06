package simulator

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// answer is one answer of the model, on its way.
type answer struct {
	id, model string
	turn      turn
	toolID    string
	usage     usage
	stop      string
}

var answerIDs atomic.Uint64

func (s *Simulator) newAnswer(in messageRequest, t turn) *answer {
	n := strconv.FormatUint(answerIDs.Add(1), 10)
	a := &answer{id: "msg_fake" + n, toolID: "toolu_fake" + n, model: in.Model, turn: t, stop: t.stop}
	if a.stop == "" {
		a.stop = "end_turn"
		if t.tool != nil {
			a.stop = "tool_use"
		}
	}
	if t.usage != nil {
		a.usage = *t.usage
		return a
	}
	a.usage = usage{Input: tokensOf(in.size), Output: 1}
	for _, p := range t.parts {
		a.usage.Output += tokensOf(len(p.text))
		if p.count > 0 && !p.pings {
			a.usage.Output += int64(p.count)
		}
	}
	if t.tool != nil {
		a.usage.Output += tokensOf(len(t.tool.input))
	}
	return a
}

// finished accounts for an answer that was given in full.
func (s *Simulator) finished(a *answer) {
	s.windows.use()
	s.count(func(c *Counters) {
		c.Answered++
		if a.turn.tool != nil {
			c.ToolUses++
		}
	})
}

// header sets what every answer of a model carries.
func (s *Simulator) header(h http.Header) {
	now := s.now()
	s.windows.at(now).header(h)
	h.Set("Date", now.UTC().Format(http.TimeFormat))
	h.Set("Request-Id", newRequestID())
}

// whole is the answer in one piece, for clients that do not stream. It reports
// false if the client left.
func (s *Simulator) whole(r *http.Request, a *answer) (*reply, bool) {
	var text strings.Builder
	for _, p := range a.turn.parts {
		text.WriteString(p.text)
		for range max(p.count, 1) {
			if !s.sleep(r.Context(), p.every) {
				return nil, false
			}
			if p.count > 0 && !p.pings {
				text.WriteString(stamp())
			}
		}
	}
	var blocks []any
	if text.Len() > 0 || a.turn.tool == nil {
		blocks = append(blocks, map[string]string{"type": "text", "text": text.String()})
	}
	if t := a.turn.tool; t != nil {
		blocks = append(blocks, map[string]any{"type": "tool_use", "id": a.toolID, "name": t.name, "input": t.input})
	}
	m := a.envelope(blocks)
	m["stop_reason"], m["usage"] = a.stop, a.usage
	rep := jsonReply(http.StatusOK, m)
	s.header(rep.header)
	return rep, true
}

func (a *answer) envelope(blocks []any) map[string]any {
	return map[string]any{
		"id": a.id, "type": "message", "role": "assistant", "model": a.model,
		"content": blocks, "stop_reason": nil, "stop_sequence": nil,
	}
}

// stamp is a delta that says when it was sent, for those who measure delays.
func stamp() string { return strconv.FormatInt(time.Now().UnixNano(), 10) + " " }

// stream sends a as server-sent events.
func (s *Simulator) stream(w http.ResponseWriter, r *http.Request, f *Fault, a *answer) {
	if !s.after(f, w, r) {
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	s.header(h)
	e := &events{s: s, ctx: r.Context(), f: f, w: bufio.NewWriterSize(w, 8<<10), flusher: http.NewResponseController(w)}
	e.message(a)
	e.flush()
	if e.ok {
		s.finished(a)
	}
}

// events writes server-sent events. What is due at once is flushed together, and
// always before a pause. A client that left, and faults, abort the handler.
type events struct {
	s       *Simulator
	ctx     context.Context // of the request
	f       *Fault
	w       *bufio.Writer
	flusher *http.ResponseController
	sent    int
	index   int // of the open or next content block
	open    bool
	ok      bool // the last event has been sent
}

func (e *events) message(a *answer) {
	start := a.envelope([]any{})
	u := a.usage
	u.Output = min(u.Output, 1) // the rest is told at the end, as the platform does
	start["usage"] = u
	e.send("message_start", map[string]any{"type": "message_start", "message": start})
	if e.f.is(FaultEarlyAnswer) {
		e.flush()
	}
	for _, p := range a.turn.parts {
		e.part(p)
	}
	if e.index == 0 && !e.open && a.turn.tool == nil {
		e.text("")
	}
	e.closeBlock()
	if t := a.turn.tool; t != nil {
		e.tool(a.toolID, t)
	}
	e.send("message_delta", map[string]any{
		"type":  "message_delta",
		"delta": map[string]any{"stop_reason": a.stop, "stop_sequence": nil},
		"usage": a.usage,
	})
	e.send("message_stop", map[string]string{"type": "message_stop"})
	e.ok = true
}

func (e *events) part(p part) {
	if p.count == 0 {
		if p.text != "" {
			e.text(p.text)
		}
		e.pause(p.every)
		return
	}
	for range p.count {
		e.pause(p.every)
		if p.pings {
			e.ping()
		} else {
			e.text(stamp())
		}
		if p.every > 0 {
			e.flush()
		}
	}
}

func (e *events) text(s string) {
	if !e.open {
		e.open = true
		e.send("content_block_start", map[string]any{
			"type": "content_block_start", "index": e.index, "content_block": map[string]string{"type": "text", "text": ""},
		})
		if e.index == 0 {
			e.ping()
		}
	}
	if s != "" {
		e.delta(s)
	}
}

// delta sends text, without the maps: streams are made of these.
func (e *events) delta(s string) {
	text := fillJSON
	if s != fillChunk {
		text = quote(s)
	}
	b := append(make([]byte, 0, len(text)+96), `{"type":"content_block_delta","index":`...)
	b = strconv.AppendInt(b, int64(e.index), 10)
	b = append(b, `,"delta":{"type":"text_delta","text":`...)
	b = append(b, text...)
	e.sendData("content_block_delta", append(b, "}}"...))
}

func (e *events) closeBlock() {
	if e.open {
		e.send("content_block_stop", map[string]any{"type": "content_block_stop", "index": e.index})
		e.open = false
		e.index++
	}
}

// toolPiece is how much of a tool's input goes into one delta.
const toolPiece = 4 << 10

func (e *events) tool(id string, t *toolUse) {
	e.send("content_block_start", map[string]any{
		"type": "content_block_start", "index": e.index,
		"content_block": map[string]any{"type": "tool_use", "id": id, "name": t.name, "input": struct{}{}},
	})
	for in := string(t.input); in != ""; {
		n := pieceEnd(in, toolPiece)
		e.send("content_block_delta", map[string]any{
			"type": "content_block_delta", "index": e.index,
			"delta": map[string]string{"type": "input_json_delta", "partial_json": in[:n]},
		})
		in = in[n:]
	}
	e.open = true
	e.closeBlock()
}

// pieceEnd returns where to cut s near n without splitting a character.
func pieceEnd(s string, n int) int {
	if len(s) <= n {
		return len(s)
	}
	for n > 1 && s[n]&0xc0 == 0x80 {
		n--
	}
	return n
}

func (e *events) ping() { e.sendData("ping", pingData) }

var pingData = []byte(`{"type":"ping"}`)

func (e *events) send(name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own plain types come here
	}
	e.sendData(name, data)
}

// sendData writes one event, or what the fault leaves of it.
func (e *events) sendData(name string, data []byte) {
	e.strike(name, data)
	e.write(name, data)
	e.sent++
	if e.f.is(FaultSlowBytes) {
		e.pause(e.f.Delay)
	}
}

func (e *events) write(name string, data []byte) {
	e.w.WriteString("event: ")
	e.w.WriteString(name)
	e.w.WriteString("\ndata: ")
	e.w.Write(data)
	if _, err := e.w.WriteString("\n\n"); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// strike lets the fault happen if this event is its.
func (e *events) strike(name string, data []byte) {
	if e.f == nil {
		return
	}
	switch e.f.Kind {
	case FaultHalfReply, FaultBrokenJSON: // as a body: cut within its first event
		e.cut(name, data)
	case FaultCutStream:
		if e.sent >= e.f.After {
			e.cut(name, data)
		}
	case FaultStreamError:
		if e.sent >= e.f.After {
			e.write("error", []byte(`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`))
			e.flush()
			panic(http.ErrAbortHandler)
		}
	case FaultSilentStall:
		if e.sent == e.f.After {
			e.pause(e.f.Delay)
		}
	case FaultPingStall:
		if e.sent == e.f.After {
			e.pingsFor(e.f.Delay, e.f.Every)
		}
	}
}

// cut sends half of an event and closes the connection.
func (e *events) cut(name string, data []byte) {
	e.w.WriteString("event: " + name + "\ndata: ")
	e.w.Write(data[:len(data)/2])
	e.flush()
	panic(http.ErrAbortHandler)
}

func (e *events) pingsFor(d, every time.Duration) {
	if every == 0 {
		every = time.Second
	}
	for ; d > 0; d -= every {
		e.pause(min(every, d))
		e.write("ping", pingData)
		e.flush()
	}
}

func (e *events) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	e.flush()
	if !e.s.sleep(e.ctx, d) {
		panic(http.ErrAbortHandler)
	}
}

func (e *events) flush() {
	if e.w.Flush() != nil || e.flusher.Flush() != nil {
		panic(http.ErrAbortHandler)
	}
}

package usage

import (
	"bytes"
	"strings"
)

// Meter reads what one successful answer of POST /v1/messages used, from copies
// of its bytes as they go by: an event stream or a JSON document. The zero value
// is not ready; see [NewMeter]. A Meter is for one goroutine.
type Meter struct {
	read    func(*Meter, []byte)
	request int // bytes of the request's body, for an estimate
	seen    int64

	model string
	usage counts
	start bool // the prompt's use has been told
	final bool // so has the answer's

	// Of an event stream.
	event     event
	line      []byte // the beginning of a line that is not complete
	held      int    // its length so far, of which line may be only a part
	estimated int64  // tokens of output by the bytes of the deltas

	// Of a document.
	doc members
}

// event is the kind of the event whose lines go by.
type event uint8

const (
	eventUnnamed event = iota
	eventUsage         // message_start and message_delta
	eventDelta         // content_block_delta
	eventError
	eventOther
)

// Bounds of what a Meter holds.
const (
	maxUsageLine = 64 << 10
	maxNameLine  = 64
	maxUsage     = 16 << 10
)

// NewMeter returns a meter for an answer of that content type and encoding to a
// request whose body had so many bytes.
func NewMeter(contentType, encoding string, requestBytes int) *Meter {
	m := &Meter{read: (*Meter).opaque, request: requestBytes}
	if encoding != "" && encoding != "identity" {
		return m
	}
	switch kind, _, _ := strings.Cut(contentType, ";"); strings.ToLower(strings.TrimSpace(kind)) {
	case "text/event-stream":
		m.read = (*Meter).stream
	case "application/json":
		m.read = (*Meter).document
	}
	return m
}

// Feed takes the next bytes of the answer.
func (m *Meter) Feed(p []byte) {
	m.seen += int64(len(p))
	m.read(m, p)
}

// Model returns the model that answered, or "" if that was not told.
func (m *Meter) Model() string { return m.model }

// Tokens returns what has been told so far.
func (m *Meter) Tokens() Tokens { return m.usage.tokens() }

// Finish returns what the whole answer used. What it did not tell, because it
// broke off or is in a form that the meter does not read, is estimated from the
// number of bytes, so that leaving early is not free.
func (m *Meter) Finish() Tokens {
	m.finishDocument()
	t := m.Tokens()
	if !m.start {
		t.Input = max(t.Input, bytesToTokens(int64(m.request)))
	}
	if !m.final {
		estimate := m.estimated
		if m.event == eventDelta {
			estimate += deltaTokens(m.held)
		}
		if !m.start && m.estimated == 0 || m.doc.picks != nil {
			estimate = bytesToTokens(m.seen)
		}
		t.Output = max(t.Output, estimate)
	}
	return t
}

// Unanswered estimates what a request with a body of so many bytes used that was
// sent and left before an answer came.
func Unanswered(requestBytes int) Tokens { return Tokens{Input: bytesToTokens(int64(requestBytes))} }

func bytesToTokens(n int64) int64 { return (n + 3) / 4 }

// deltaTokens estimates the tokens in a content_block_delta of n bytes, which has
// about 80 bytes of envelope.
func deltaTokens(n int) int64 { return max(1, bytesToTokens(int64(n-80))) }

func (m *Meter) opaque([]byte) {}

// document reads the whole at once if it comes so.
func (m *Meter) document(p []byte) {
	if m.seen == int64(len(p)) && bytes.HasSuffix(p, []byte{'}'}) && object(p, m.member) {
		m.read = (*Meter).opaque
		return
	}
	if m.doc.picks == nil {
		m.doc.picks = []pick{{key: "model", max: maxModel}, {key: "usage", max: maxUsage}}
	}
	m.doc.write(p)
}

// member reads one of a document's members.
func (m *Meter) member(k, v []byte) {
	switch string(k) {
	case "model":
		m.model, _ = modelName(v)
	case "usage":
		m.usage = counts{}
		m.start = m.usage.read(v)
		m.final = m.start
	}
}

// finishDocument reads what was picked out of a document that came in pieces.
func (m *Meter) finishDocument() {
	for _, p := range m.doc.picks {
		if m.doc.done() && p.count > 0 && !p.long {
			m.member([]byte(p.key), p.value)
		}
	}
}

// stream splits lines off. A line that lies whole in p is read in place.
func (m *Meter) stream(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		switch {
		case i < 0:
			m.hold(p)
			return
		case m.held == 0:
			m.readLine(p[:i], i)
		default:
			m.hold(p[:i])
			m.readLine(m.line, m.held)
			m.line, m.held = m.line[:0], 0
		}
		p = p[i+1:]
	}
}

// hold keeps of a line's part what may be needed of it.
func (m *Meter) hold(p []byte) {
	m.held += len(p)
	room := maxNameLine
	if m.event == eventUsage || m.event == eventUnnamed {
		room = maxUsageLine
	}
	if room -= len(m.line); room > 0 {
		m.line = append(m.line, p[:min(room, len(p))]...)
	}
}

// readLine reads a line of n bytes, of which it may have only the beginning.
func (m *Meter) readLine(line []byte, n int) {
	if len(line) == n && n > 0 && line[n-1] == '\r' {
		line, n = line[:n-1], n-1
	}
	if n == 0 { // the event ends
		m.event = eventUnnamed
		return
	}
	if name, ok := bytes.CutPrefix(line, []byte("event:")); ok {
		m.event = eventOf(bytes.TrimSpace(name))
		if m.event == eventError && !m.start { // nothing was done, so nothing is charged
			m.start, m.final = true, true
		}
		return
	}
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok {
		return
	}
	if m.event == eventDelta {
		m.estimated += deltaTokens(n)
	}
	if len(line) == n && (m.event == eventUsage || m.event == eventUnnamed && bytes.Contains(data, []byte(`"message_`))) {
		m.readEvent(data)
	}
}

func eventOf(name []byte) event {
	switch string(name) {
	case "message_start", "message_delta":
		return eventUsage
	case "content_block_delta":
		return eventDelta
	case "error":
		return eventError
	}
	return eventOther
}

func (m *Meter) readEvent(data []byte) {
	var kind, message, use []byte
	whole := object(data, func(k, v []byte) {
		switch string(k) {
		case "type":
			kind = v
		case "message":
			message = v
		case "usage":
			use = v
		}
	})
	switch {
	case !whole:
	case string(kind) == `"message_start"`:
		m.readMessage(message)
	case string(kind) == `"message_delta"`: // the counts are totals, and what is not told again stays
		m.final = m.usage.read(use) || m.final
	}
}

func (m *Meter) readMessage(message []byte) {
	object(message, func(k, v []byte) {
		switch string(k) {
		case "model":
			if name, ok := modelName(v); ok {
				m.model = name
			}
		case "usage":
			m.start = m.usage.read(v) || m.start
		}
	})
}

// counts is the API's "usage".
type counts struct {
	input, output, cacheRead, cacheWrite, write5m, write1h, searches int64
}

// read takes the counts that b, a JSON object, has. The others stay.
func (c *counts) read(b []byte) bool {
	return object(b, func(k, v []byte) {
		switch string(k) {
		case "input_tokens":
			count(&c.input, v)
		case "output_tokens":
			count(&c.output, v)
		case "cache_read_input_tokens":
			count(&c.cacheRead, v)
		case "cache_creation_input_tokens":
			count(&c.cacheWrite, v)
		case "cache_creation":
			object(v, func(k, v []byte) {
				switch string(k) {
				case "ephemeral_5m_input_tokens":
					count(&c.write5m, v)
				case "ephemeral_1h_input_tokens":
					count(&c.write1h, v)
				}
			})
		case "server_tool_use":
			object(v, func(k, v []byte) {
				if string(k) == "web_search_requests" {
					count(&c.searches, v)
				}
			})
		}
	})
}

// maxCount keeps sums of counts and prices far from overflow.
const maxCount = 1_000_000_000

// count sets n to the number that v is, if it is one.
func count(n *int64, v []byte) {
	if len(v) == 0 || len(v) > 18 {
		return
	}
	var sum int64
	for _, c := range v {
		if c < '0' || c > '9' {
			return
		}
		sum = 10*sum + int64(c-'0')
	}
	*n = min(sum, maxCount)
}

func (c *counts) tokens() Tokens {
	return Tokens{
		Input: c.input, Output: c.output, CacheRead: c.cacheRead,
		CacheWrite5m: max(c.cacheWrite-c.write1h, c.write5m), CacheWrite1h: c.write1h, WebSearches: c.searches,
	}
}

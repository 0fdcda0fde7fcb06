package usage

import (
	"bytes"
	"encoding/json"
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
	usage wireUsage
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
		m.doc.picks = []pick{{key: "model", max: maxModel}, {key: "usage", max: maxUsage}}
	}
	return m
}

// Write takes the next bytes of the answer. It never fails.
func (m *Meter) Write(p []byte) (int, error) {
	m.seen += int64(len(p))
	m.read(m, p)
	return len(p), nil
}

// Model returns the model that answered, or "" if that was not told.
func (m *Meter) Model() string { return m.model }

// Tokens returns what has been told so far.
func (m *Meter) Tokens() Tokens { return m.usage.tokens() }

// Finish returns what the whole answer used. What it did not tell, because it
// broke off or is in a form that the meter does not read, is estimated from the
// number of bytes, so that leaving early is not free.
func (m *Meter) Finish() Tokens {
	if len(m.doc.picks) > 0 && m.doc.done() {
		m.readDocument()
	}
	t := m.Tokens()
	if !m.start {
		t.Input = max(t.Input, bytesToTokens(int64(m.request)))
	}
	if !m.final {
		estimate := m.estimated
		if m.event == eventDelta {
			estimate += deltaTokens(m.held)
		}
		if len(m.doc.picks) > 0 || !m.start && m.estimated == 0 {
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

func (m *Meter) document(p []byte) { m.doc.write(p) }

func (m *Meter) readDocument() {
	model, use := &m.doc.picks[0], &m.doc.picks[1]
	if name, err := modelName(*model); err == nil {
		m.model = name
	}
	if use.count > 0 && !use.long && json.Unmarshal(use.value, &m.usage) == nil {
		m.start, m.final = true, true
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
	var e struct {
		Type    string `json:"type"`
		Message struct {
			Model string          `json:"model"`
			Usage json.RawMessage `json:"usage"`
		} `json:"message"`
		Usage json.RawMessage `json:"usage"`
	}
	if json.Unmarshal(data, &e) != nil {
		return
	}
	switch {
	case e.Type == "message_start" && len(e.Message.Usage) > 0 && json.Unmarshal(e.Message.Usage, &m.usage) == nil:
		m.start = true
		if len(e.Message.Model) <= maxModel {
			m.model = e.Message.Model
		}
	case e.Type == "message_delta" && len(e.Usage) > 0 && json.Unmarshal(e.Usage, &m.usage) == nil:
		m.final = true // the counts are totals, and what is not told again stays
	}
}

// wireUsage is the API's "usage". Later events are decoded over earlier ones.
type wireUsage struct {
	Input         int64 `json:"input_tokens"`
	Output        int64 `json:"output_tokens"`
	CacheRead     int64 `json:"cache_read_input_tokens"`
	CacheWrite    int64 `json:"cache_creation_input_tokens"`
	CacheCreation struct {
		FiveMinutes int64 `json:"ephemeral_5m_input_tokens"`
		OneHour     int64 `json:"ephemeral_1h_input_tokens"`
	} `json:"cache_creation"`
	ServerTools struct {
		WebSearches int64 `json:"web_search_requests"`
	} `json:"server_tool_use"`
}

func (u wireUsage) tokens() Tokens {
	long := count(u.CacheCreation.OneHour)
	short := max(count(u.CacheWrite)-long, count(u.CacheCreation.FiveMinutes))
	return Tokens{
		Input: count(u.Input), Output: count(u.Output), CacheRead: count(u.CacheRead),
		CacheWrite5m: short, CacheWrite1h: long, WebSearches: count(u.ServerTools.WebSearches),
	}
}

// count keeps sums of counts and prices far from overflow.
func count(n int64) int64 { return min(max(n, 0), 1_000_000_000) }

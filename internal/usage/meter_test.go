package usage_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/usage"
)

// stream is an answer as the API streams it.
const stream = `event: message_start
data: {"type":"message_start","message":{"id":"msg_fake","type":"message","role":"assistant","model":"claude-sonnet-4-5-20250929","content":[],"usage":{"input_tokens":100,"cache_creation_input_tokens":30,"cache_read_input_tokens":40,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":1,"server_tool_use":{"web_search_requests":2}}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"{\"usage\":{\"output_tokens\":9999}}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":25}}

event: message_stop
data: {"type":"message_stop"}

`

var streamTokens = usage.Tokens{Input: 100, Output: 25, CacheRead: 40, CacheWrite5m: 10, CacheWrite1h: 20, WebSearches: 2}

func feed(m *usage.Meter, text string, piece int) {
	for i := 0; i < len(text); i += piece {
		m.Feed([]byte(text[i:min(i+piece, len(text))]))
	}
}

func TestMeterReadsAStreamInAnyPieces(t *testing.T) {
	for _, text := range []string{stream, strings.ReplaceAll(stream, "\n", "\r\n")} {
		for piece := 1; piece <= len(text); piece = piece*2 + 1 {
			m := usage.NewMeter("text/event-stream; charset=utf-8", "", 5000)
			feed(m, text, piece)
			if got := m.Finish(); got != streamTokens || m.Model() != "claude-sonnet-4-5-20250929" {
				t.Errorf("in pieces of %d: %+v by %q; want %+v", piece, got, m.Model(), streamTokens)
			}
		}
	}
}

func TestMeterTellsThePromptBeforeTheAnswerEnds(t *testing.T) {
	m := usage.NewMeter("text/event-stream", "identity", 5000)
	m.Feed([]byte(stream[:strings.Index(stream, "event: content_block_start")]))
	if got := m.Tokens(); got.Input != 100 || got.CacheRead != 40 {
		t.Errorf("after message_start: %+v", got)
	}
}

func TestMeterReadsEventsWithoutNames(t *testing.T) {
	var data strings.Builder
	for line := range strings.Lines(stream) {
		if !strings.HasPrefix(line, "event:") {
			data.WriteString(line)
		}
	}
	m := usage.NewMeter("text/event-stream", "", 5000)
	feed(m, data.String(), 7)
	if got := m.Finish(); got != streamTokens {
		t.Errorf("%+v; want %+v", got, streamTokens)
	}
}

func TestMeterReadsADocumentInAnyPieces(t *testing.T) {
	const text = `{"id":"m","content":[{"type":"text","text":"say \"usage\":{\"input_tokens\":1} \\"}],"model":"claude-haiku-4-5",
		"usage":{"input_tokens":7,"cache_creation_input_tokens":3,"output_tokens":5,"service_tier":"standard"},"nested":{"usage":{"input_tokens":9}}}`
	want := usage.Tokens{Input: 7, Output: 5, CacheWrite5m: 3}
	for piece := 1; piece <= len(text); piece = piece*2 + 1 {
		m := usage.NewMeter("application/json", "", 5000)
		feed(m, text, piece)
		if got := m.Finish(); got != want || m.Model() != "claude-haiku-4-5" {
			t.Errorf("in pieces of %d: %+v by %q; want %+v", piece, got, m.Model(), want)
		}
	}
}

func TestAnswerThatBreaksOffIsEstimated(t *testing.T) {
	delta := "event: content_block_delta\ndata: " + `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"` + strings.Repeat("x", 400) + `"}}` + "\n\n"
	start := stream[:strings.Index(stream, "event: content_block_start")]
	cases := []struct {
		name, kind, encoding, text string
		input, output              int64 // at least
	}{
		{"before anything", "text/event-stream", "", "", 1250, 0},
		{"after some deltas", "text/event-stream", "", start + strings.Repeat(delta, 10), 100, 1000},
		{"within a delta", "text/event-stream", "", start + delta[:len(delta)-10], 100, 90},
		{"of a document", "application/json", "", `{"model":"m","content":"` + strings.Repeat("x", 400), 1250, 100},
		{"encoded", "text/event-stream", "gzip", strings.Repeat("\x1f\x8b", 200), 1250, 100},
		{"of another type", "text/html", "", strings.Repeat("y", 400), 1250, 100},
		{"without its use", "application/json", "", `{"model":"m","content":"` + strings.Repeat("x", 400) + `"}`, 1250, 100},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := usage.NewMeter(c.kind, c.encoding, 5000)
			feed(m, c.text, 100)
			if got := m.Finish(); got.Input < c.input || got.Output < c.output || got.Output > 4*c.output+10 {
				t.Errorf("%+v; want about %d in, %d out", got, c.input, c.output)
			}
		})
	}
}

func TestAnErrorBeforeTheAnswerCostsNothing(t *testing.T) {
	m := usage.NewMeter("text/event-stream", "", 5000)
	feed(m, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n", 9)
	if got := m.Finish(); got != (usage.Tokens{}) {
		t.Errorf("%+v; want nothing", got)
	}
}

func TestMeterMemoryDoesNotGrowWithTheStream(t *testing.T) {
	m := usage.NewMeter("text/event-stream", "", 100)
	piece := []byte(strings.Repeat("z", 32<<10))
	m.Feed([]byte("event: message_start\ndata: "))
	for range 16 {
		m.Feed(piece)
	}
	m.Feed([]byte("\n\n"))
	if n := testing.AllocsPerRun(100, func() { m.Feed(piece) }); n > 0 {
		t.Errorf("%v allocations for a piece of an endless line", n)
	}
	if got := usage.Held(m); got > 200<<10 {
		t.Errorf("the meter holds %d bytes", got)
	}
}

func TestCountsFarOutOfRangeDoNotOverflow(t *testing.T) {
	for _, n := range []string{"9223372036854775807", "-9223372036854775808", "1e30", "\"7\"", "null"} {
		m := usage.NewMeter("application/json", "", 0)
		m.Feed(fmt.Appendf(nil, `{"model":"claude-opus-4-1","usage":{"input_tokens":%s,"output_tokens":%s,"cache_creation_input_tokens":%s,"cache_read_input_tokens":%s}}`, n, n, n, n))
		got := m.Finish().Usage("claude-opus-4-1")
		if got.Tokens() < 0 || got.Cost < 0 || got.InputTokens > 1e9 {
			t.Errorf("%s: %+v", n, got)
		}
	}
}

func FuzzMeter(f *testing.F) {
	f.Add("text/event-stream", stream, 3)
	f.Add("text/event-stream", "data: {\"type\":\"message_start\"\n\nevent:\n\ndata:\n", 1)
	f.Add("application/json", `{"model":"a","usage":{"input_tokens":1}}`, 5)
	f.Add("application/json", `{"us\u0061ge":{},"usage":{"output_tokens":[}`, 2)
	f.Fuzz(func(t *testing.T, kind, text string, piece int) {
		if piece < 1 || len(text) > 1<<16 {
			return
		}
		whole, parts := usage.NewMeter(kind, "", 10), usage.NewMeter(kind, "", 10)
		whole.Feed([]byte(text))
		feed(parts, text, piece)
		if kind == "application/json" && !json.Valid([]byte(text)) {
			return // how it is wrong may be seen or not
		}
		if a, b := whole.Finish(), parts.Finish(); a != b || whole.Model() != parts.Model() {
			t.Errorf("whole %+v, in pieces of %d %+v", a, piece, b)
		}
		if u := whole.Finish().Usage(whole.Model()); u.Tokens() < 0 || u.Cost < 0 {
			t.Errorf("negative: %+v", u)
		}
	})
}

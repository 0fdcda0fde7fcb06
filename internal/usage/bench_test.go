package usage_test

import (
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/usage"
)

const prose = `func main() {\n\tfmt.Println(\"hello\")\n}\n and some prose between, as there is in a prompt. `

func BenchmarkParseRequest(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"1KB", 10}, {"200KB", 2000}} {
		body := []byte(`{"model":"claude-sonnet-4-5","max_tokens":1024,"messages":[{"role":"user","content":[{"type":"text","text":"` + strings.Repeat(prose, size.n) + `"}]}]}`)
		b.Run(size.name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := usage.ParseRequest(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMeter(b *testing.B) {
	document := []byte(`{"id":"msg_fake","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"` +
		strings.Repeat("lorem ipsum ", 60) + `"}],"stop_reason":"end_turn","usage":{"input_tokens":100,"cache_read_input_tokens":0,"output_tokens":20}}`)
	b.Run("document", func(b *testing.B) {
		for b.Loop() {
			m := usage.NewMeter("application/json", "", 1000)
			m.Feed(document)
			if m.Finish().Output != 20 {
				b.Fatal("not measured")
			}
		}
	})
	events := []byte(stream)
	b.Run("stream", func(b *testing.B) {
		for b.Loop() {
			m := usage.NewMeter("text/event-stream", "", 1000)
			m.Feed(events)
			if m.Finish().Output == 0 {
				b.Fatal("not measured")
			}
		}
	})
}

func BenchmarkParseWindows(b *testing.B) {
	h := map[string]string{
		"anthropic-ratelimit-unified-status": "allowed", "anthropic-ratelimit-unified-5h-utilization": "0.31",
		"anthropic-ratelimit-unified-5h-reset": "1795000000", "anthropic-ratelimit-unified-5h-status": "allowed",
	}
	for b.Loop() {
		usage.ParseWindows(func(name string) string { return h[name] })
	}
}

package simulator_test

import (
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/simulator"
)

func TestScriptAnswers(t *testing.T) {
	for prompt, want := range map[string]int{
		"no script here": 0,
		"Do it:\n```\n  simulate: say \"a\"\n\tsimulate: bash \"id\"\r\n```\nsimulate: say `b`": 2,
		"simulate: write a \"1\"\nsimulate: write b \"2\"":                                      2,
		"simulate: tool X {\"a\": {\"b\": [1, 2]}}":                                             1,
		"simulate: usage": 1,
	} {
		if got, err := simulator.ParseScript(prompt); got != want || err != nil {
			t.Errorf("%q: %d answers, %v; want %d", prompt, got, err, want)
		}
	}
}

func TestFaultyScriptsSayWhere(t *testing.T) {
	for _, step := range []string{
		"", "dance", "say", `say "a" "b"`, `say "a`, `say "\z"`, "write a", "stream 0 1s", "stream 5", "stream 99999999 1s", "stream 5 -1s",
		"stream 5 9h", "fill", "fill 0", "fill 17MB", "fill 9999999999999KB", "wait x", "usage input", "usage inputs=1", "usage input=-1",
		"tool", "tool X", "tool X [1]", "tool X null", "tool X {} {}",
	} {
		if _, err := simulator.ParseScript("simulate: report\nsimulate: " + step); err == nil || !strings.HasPrefix(err.Error(), "step 2: ") {
			t.Errorf("%q: %v; want a complaint about step 2", step, err)
		}
	}
	if _, err := simulator.ParseScript(strings.Repeat("simulate: report\n", 3000)); err == nil {
		t.Error("3,000 steps were accepted")
	}
}

func FuzzScript(f *testing.F) {
	f.Add("simulate: write hello.txt \"text\\n\"\nsimulate: bash `id`\nsimulate: stream 50 events every 10ms\nsimulate: fill 1KB")
	f.Add("simulate: usage input=1 output=2 cache_read=3 cache_write=4\nsimulate: tool X {\"a\":1}\nsimulate: stop x\nsimulate: ping 1 1s")
	f.Add("simulate: fill 16MB\nsimulate: edit \"\\u00ff\" \"a\" \"b\"")
	f.Fuzz(func(t *testing.T, prompt string) {
		n, err := simulator.ParseScript(prompt)
		if n > strings.Count(prompt, "simulate:") || err != nil && n != 0 {
			t.Errorf("%d answers, %v", n, err)
		}
	})
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"model":"claude-opus-5-5","stream":true,"messages":[{"role":"user","content":"simulate: report"}]}`))
	f.Add([]byte(`{"model":"claude-opus-5-5","tools":[{"name":"Bash"}],"messages":[{"role":"user","content":[{"type":"text","text":"<system-reminder>x</system-reminder>simulate: bash \"id\"\nsimulate: report"}]},{"role":"assistant","content":[{"type":"tool_use"}]},{"role":"user","content":[{"type":"tool_result","content":[{"type":"text","text":"x"}]},{"type":"tool_result","content":"y"},{"type":"x","content":{}}]}]}`))
	f.Fuzz(func(_ *testing.T, body []byte) { simulator.Understand(body) })
}

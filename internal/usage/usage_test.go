package usage_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/usage"
)

func TestParseRequest(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"claude-sonnet-4-5"}`:                                                        "claude-sonnet-4-5",
		` { "a" : [1,{"model":"x"}] , "model" : "m" , "b" : null } `:                           "m",
		"{\"messages\":[{\"content\":\"\\\"model\\\":\\\"x\\\"\"}],\r\n\t\"model\":\"m[1m]\"}": "m[1m]",
		`{"model":"cl\u0061ude","x":"\\\\\""}`:                                                 "claude",
		`{"mod\u0065l":"m"}`:                                                                   "m",
		`{"Model":"a","model ":"b","model":"m"}`:                                               "m",
	} {
		if got, err := usage.ParseRequest([]byte(body)); err != nil || got.Model != want || got.Remote != "" {
			t.Errorf("%s: %q, %v; want %q", body, got, err, want)
		}
	}
	for _, body := range []string{
		"", "[]", "null", `"model"`, "{", `{"model":"m"`, `{"model":"m"}x`, `{"model":"m"}{}`, "\xef\xbb\xbf{\"model\":\"m\"}", // no object
		`{}`, `{"a":{"model":"m"}}`, `{"messages":[{"model":"m"}]}`, // no model
		`{"model":"a","model":"b"}`, `{"model":"a","model":"a"}`, `{"model":"a","mod\u0065l":"b"}`, `{"model":"a","\u006d\u006f\u0064\u0065\u006c":"b"}`, // twice
		`{"model":1}`, `{"model":null}`, `{"model":["m"]}`, `{"model":{"model":"m"}}`, `{"model":""}`, `{"model":"a\u0000"}`, `{"model":"a b"}`,
		`{"model":"` + strings.Repeat("m", 500) + `"}`, "{\"model\":\"\xff\"}", `{"model":"ы"}`, // no plain name
	} {
		if got, err := usage.ParseRequest([]byte(body)); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("%s: %q, %v; want ErrInvalid", body, got, err)
		}
	}
}

// Whatever a strict parser accepts must be read as that parser reads it.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"model":"claude-sonnet-4-5","messages":[{"role":"user","content":"\"model\":\"x\""}]}`))
	f.Add([]byte(`{"a":"\\","model":"m","b":{"model":"n"}}`))
	f.Add([]byte(`{"model":"a","mod\u0065l":"b"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := usage.ParseRequest(body)
		if !json.Valid(body) || err != nil {
			return
		}
		var all map[string]any
		if json.Unmarshal(body, &all) != nil || all["model"] != got.Model {
			t.Errorf("read %q where encoding/json reads %v: %s", got, all["model"], body)
		}
	})
}

// What would have the platform reach out is found, however it is written; what
// only looks like it is not.
func TestParseRequestFindsWhatIsRemote(t *testing.T) {
	wrap := func(members string) []byte { return []byte(`{"model":"m",` + members + `}`) }
	for _, members := range []string{
		`"tools":[{"name":"a","input_schema":{}},{"type":"web_search_20250305","name":"web_search"}]`,
		`"tools":[{"type":"web_fetch_20250910","name":"f"}]`,
		`"tools":[{"ty\u0070e":"code_execution_20250825"}]`,
		`"tools":[{"type":"web_se\u0061rch_20250305"}]`,
		`"tools":[{"type":"unheard_of_2027"}]`,
		`"tools":[{"type":"custom"},{"type":"web_search_20250305","type":"custom"}]`,
		`"tools":[],"tools":[{"type":"mcp_toolset"}]`,
		`"tools":{"type":"web_search_20250305"}`, `"tools":["web_search_20250305"]`,
		`"mcp_servers":[{"type":"url","url":"https://evil.example/"}]`,
		`"mcp_server\u0073":[{}]`,
		`"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://evil.example/?x"}}]}]`,
		`"messages":[{"content":[{"source":{"type" :` + "\t\n" + ` "url"}}]}]`,
		`"messages":[{"content":[{"source":{"type":"\u0075rl"}}]}]`,
		`"messages":[{"content":[{"source":{"typ\u0065":"ur\u006C"}}]}]`,
		`"messages":[{"content":[{"source":{"type":"url","type":"base64"}}]}]`,
		`"x":[[],{"a":{}, "type":"url"}]`,
	} {
		if got, err := usage.ParseRequest(wrap(members)); err != nil || got.Remote == "" {
			t.Errorf("%s: %+v, %v; want it found", members, got, err)
		}
	}
	for _, members := range []string{
		`"tools":[]`, `"tools":null`, `"mcp_servers":[]`, `"mcp_servers":null`,
		`"tools":[{"name":"WebFetch","input_schema":{"type":"object","properties":{"url":{"type":"string","format":"uri"}},"required":["url","prompt"]}}]`,
		`"tools":[{"type":"bash_20250124","name":"bash"},{"type":"custom","name":"c"},{"type":null,"name":"d"}]`,
		`"messages":[{"content":"{\"type\":\"url\"} and \\u0075 and \"url\": \"url\""}]`,
		`"messages":[{"content":[{"type":"tool_use","input":{"url":"url","kind":"url"}},["type","url"]]}]`,
		`"x":{"type":["url"],"y":{"type":"a"},"z":"url"}`,
	} {
		if got, err := usage.ParseRequest(wrap(members)); err != nil || got.Remote != "" {
			t.Errorf("%s: %+v, %v; want nothing found", members, got, err)
		}
	}
}

func TestCostIsTheListPrice(t *testing.T) {
	million := usage.Tokens{Input: 1e6, Output: 1e6, CacheRead: 1e6, CacheWrite5m: 1e6, CacheWrite1h: 1e6}
	for model, want := range map[string]float64{
		"claude-sonnet-4-5":                            3 + 15 + 0.3 + 3.75 + 6,
		"claude-sonnet-4-5-20250929":                   3 + 15 + 0.3 + 3.75 + 6,
		"claude-sonnet-4-20250514":                     3 + 15 + 0.3 + 3.75 + 6,
		"us.anthropic.claude-sonnet-4-5-20250929-v1:0": 3 + 15 + 0.3 + 3.75 + 6,
		"claude-sonnet-5-5":                            2 + 10 + 0.1 + 2.5 + 4,
		"claude-sonnet-5-5[1m]":                        2 + 10 + 0.1 + 2.5 + 4,
		"claude-opus-4-1-20250805":                     15 + 75 + 1.5 + 18.75 + 30,
		"claude-opus-4-5-20251101":                     5 + 25 + 0.5 + 6.25 + 10,
		"claude-haiku-4-5@20251001":                    1 + 5 + 0.1 + 1.25 + 2,
		"claude-haiku-5-5":                             5 * (0.1 + 0.5 + 0.01 + 0.125 + 0.2), // a long prompt
		"some-model-of-tomorrow":                       15 + 75 + 1.5 + 18.75 + 30,
		"":                                             15 + 75 + 1.5 + 18.75 + 30,
	} {
		if got := usage.Cost(model, million); got != hub.MicroUSD(want*1e6+0.5) {
			t.Errorf("%s: $%v; want $%v", model, got.USD(), want)
		}
	}
	if got := usage.Cost("claude-haiku-5-5", usage.Tokens{Input: 100_000}); got != 10_000 {
		t.Errorf("a short prompt of claude-haiku-5-5: %d", got)
	}
	if got := usage.Cost("claude-sonnet-4-5", usage.Tokens{Input: 1, WebSearches: 1}); got != 10_003 {
		t.Errorf("a search: %d", got)
	}
	if got := usage.Cost("claude-sonnet-5-5", usage.Tokens{CacheRead: 1}); got != 1 {
		t.Errorf("a tenth of a millionth is not rounded up: %d", got)
	}
	if usage.Known("some-model-of-tomorrow") || !usage.Known("claude-opus-5-5-20260101") {
		t.Error("Known is wrong")
	}
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

func TestParseWindows(t *testing.T) {
	w := usage.ParseHeader(header(
		"anthropic-ratelimit-unified-status", "allowed_warning", "anthropic-ratelimit-unified-representative-claim", "seven_day",
		"anthropic-ratelimit-unified-5h-utilization", "0.25", "anthropic-ratelimit-unified-5h-reset", "1795000000", "anthropic-ratelimit-unified-5h-status", "allowed",
		"anthropic-ratelimit-unified-7d-utilization", "0.91", "anthropic-ratelimit-unified-7d-reset", "1795500000", "anthropic-ratelimit-unified-7d-status", "allowed_warning",
		"anthropic-ratelimit-unified-overage-status", "rejected", "anthropic-ratelimit-unified-overage-in-use", "true",
		"anthropic-ratelimit-unified-overage-disabled-reason", "out_of_credits", "retry-after", "17"))
	want := usage.Windows{
		Status: "allowed_warning", Claim: "seven_day",
		FiveHour:      usage.Window{Status: "allowed", Utilization: 0.25, Reset: time.Unix(1795000000, 0).UTC()},
		SevenDay:      usage.Window{Status: "allowed_warning", Utilization: 0.91, Reset: time.Unix(1795500000, 0).UTC()},
		OverageStatus: "rejected", OverageInUse: true, OverageDisabledReason: "out_of_credits", RetryAfter: 17 * time.Second,
	}
	if w != want || !w.Told() {
		t.Errorf("%+v\nwant %+v", w, want)
	}
	if usage.ParseHeader(http.Header{}).Told() {
		t.Error("no headers told something")
	}
}

func TestParkedUntil(t *testing.T) {
	now := time.Unix(1795000000, 0)
	const p = "anthropic-ratelimit-unified-"
	for _, c := range []struct {
		name string
		h    http.Header
		want time.Duration // from now; 0: not parked
	}{
		{"allowed", header(p+"status", "allowed", p+"reset", "1795000100"), 0},
		{"not told", header("retry-after", "30"), 0},
		{"the plan's reset", header(p+"status", "rejected", p+"reset", "1795000100", "retry-after", "30"), 100 * time.Second},
		{"the claim's window", header(p+"status", "rejected", p+"representative-claim", "seven_day", p+"5h-reset", "1795000100", p+"7d-reset", "1795000200"), 200 * time.Second},
		{"a model's week", header(p+"status", "rejected", p+"representative-claim", "seven_day_opus", p+"7d-reset", "1795000200"), 200 * time.Second},
		{"the five hours", header(p+"status", "rejected", p+"representative-claim", "five_hour", p+"5h-reset", "1795000100", p+"7d-reset", "1795000200"), 100 * time.Second},
		{"the rejected window", header(p+"status", "rejected", p+"7d-status", "rejected", p+"5h-reset", "1795000100", p+"7d-reset", "1795000200"), 200 * time.Second},
		{"retry-after", header(p+"status", "rejected", p+"reset", "1794999999", "retry-after", "30"), 30 * time.Second},
		{"nothing usable", header(p+"status", "rejected", p+"reset", "soon", "retry-after", "-1"), 5 * time.Minute},
	} {
		got := usage.ParseHeader(c.h).ParkedUntil(now)
		if c.want == 0 && !got.IsZero() || c.want != 0 && got.Sub(now) != c.want {
			t.Errorf("%s: until %v; want %v from now", c.name, got, c.want)
		}
	}
}

func FuzzParseWindows(f *testing.F) {
	f.Add("rejected", "five_hour", "0.5", "1795000000", "30")
	f.Add("allowed\n", strings.Repeat("x", 999), "NaN", "99999999999999999999", "1e9")
	f.Add("", "", "-Inf", "-1", "0x10")
	f.Fuzz(func(t *testing.T, status, claim, ratio, reset, retry string) {
		values := map[string]string{"retry-after": retry}
		const p = "anthropic-ratelimit-unified-"
		for _, k := range []string{"status", "5h-status", "7d-status", "overage-status", "overage-disabled-reason"} {
			values[p+k] = status
		}
		values[p+"representative-claim"], values[p+"reset"] = claim, reset
		for _, k := range []string{"5h", "7d"} {
			values[p+k+"-utilization"], values[p+k+"-reset"] = ratio, reset
		}
		w := usage.ParseWindows(func(name string) string { return values[name] })
		now := time.Unix(1795000000, 0)
		if len(w.Status)+len(w.Claim)+len(w.OverageDisabledReason) > 3*64 || !(w.FiveHour.Utilization >= 0 && w.FiveHour.Utilization <= 1000) || w.RetryAfter < 0 {
			t.Errorf("out of bounds: %+v", w)
		}
		if until := w.ParkedUntil(now); !until.IsZero() && !until.After(now) {
			t.Errorf("parked until the past: %v", until)
		}
	})
}

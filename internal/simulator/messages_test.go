package simulator_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/simulator"
)

const messagesURL = "https://api.anthropic.com/v1/messages?beta=true"

// request is a body of /v1/messages with one prompt.
func request(prompt string) map[string]any {
	return map[string]any{
		"model": "claude-opus-5-5", "max_tokens": 100, "stream": true,
		"messages": []any{map[string]any{"role": "user", "content": []any{
			map[string]string{"type": "text", "text": "<system-reminder>simulate: say \"reminded\"</system-reminder>"},
			map[string]string{"type": "text", "text": prompt},
		}}},
		"tools": []any{map[string]string{"name": "Write"}, map[string]string{"name": "Bash"}},
	}
}

func say(t *testing.T, c *http.Client, token, prompt string) (*http.Response, []byte) {
	t.Helper()
	resp, b, err := ask(c, "POST", messagesURL, token, request(prompt))
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

type event struct {
	Type    string `json:"type"`
	Message struct {
		Model string                     `json:"model"`
		Usage struct{ Input_tokens int } `json:"usage"`
	} `json:"message"`
	ContentBlock struct{ Type, Name string } `json:"content_block"`
	Delta        struct {
		Text        string `json:"text"`
		PartialJSON string `json:"partial_json"`
		StopReason  string `json:"stop_reason"`
	} `json:"delta"`
	Usage map[string]int64 `json:"usage"`
	Error struct{ Type string }
}

// events parses a stream; whole reports whether it ends as it should.
func events(t *testing.T, b []byte) (all []event, text string, whole bool) {
	t.Helper()
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		var e event
		if json.Unmarshal([]byte(data), &e) != nil {
			return all, text, false
		}
		all, text, whole = append(all, e), text+e.Delta.Text, e.Type == "message_stop"
	}
	return all, text, whole
}

func TestMessagesStreamsAnAnswer(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	resp, b := say(t, client(t, s), s.SignIn(simulator.SignIn{}).AccessToken, "hi")
	all, text, whole := events(t, b)
	if !whole || text != "Hello from the simulator." || all[0].Type != "message_start" || all[0].Message.Usage.Input_tokens == 0 || all[0].Message.Model != "claude-opus-5-5" {
		t.Errorf("stream: %s", b)
	}
	if d := all[len(all)-2]; d.Delta.StopReason != "end_turn" || d.Usage["output_tokens"] < 2 {
		t.Errorf("message_delta: %+v", d)
	}
	h := resp.Header
	if h.Get("Content-Type") != "text/event-stream; charset=utf-8" || h.Get("Request-Id") == "" ||
		h.Get("Anthropic-Ratelimit-Unified-Status") != "allowed" || h.Get("Anthropic-Ratelimit-Unified-5h-Utilization") != "0.1" {
		t.Errorf("header: %v", h)
	}
	if n := s.Counters(); n.Messages != 1 || n.Answered != 1 {
		t.Errorf("counters: %+v", n)
	}
}

func TestMessagesAnswersInOnePiece(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	body := request("simulate: usage input=7 output=9 cache_read=3 cache_write=2\nsimulate: write a.txt \"x\"")
	body["stream"] = false
	_, b, err := ask(client(t, s), "POST", messagesURL, s.SetupToken(), body)
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		StopReason string `json:"stop_reason"`
		Content    []struct {
			Name  string
			Input map[string]string
		}
		Usage map[string]int64
	}
	if err := json.Unmarshal(b, &m); err != nil || m.StopReason != "tool_use" || len(m.Content) != 1 || m.Content[0].Input["content"] != "x" {
		t.Errorf("answer %s: %v", b, err)
	}
	if m.Usage["input_tokens"] != 7 || m.Usage["output_tokens"] != 9 || m.Usage["cache_read_input_tokens"] != 3 || m.Usage["cache_creation_input_tokens"] != 2 {
		t.Errorf("usage %v", m.Usage)
	}
}

func TestScriptGoesOnAtTheToolsResult(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c, token := client(t, s), s.SetupToken()
	body := request("simulate: say \"first\"\nsimulate: write a.txt \"x\"\nsimulate: bash \"id\"\nsimulate: report")
	results := []string{"a.txt written", "uid=0"}
	var got []string
	for turn := 0; ; turn++ {
		_, b, err := ask(c, "POST", messagesURL, token, body)
		if err != nil {
			t.Fatal(err)
		}
		all, text, _ := events(t, b)
		var tool string
		for _, e := range all {
			tool += e.ContentBlock.Name + e.Delta.PartialJSON
		}
		got = append(got, text+"|"+tool)
		if all[len(all)-2].Delta.StopReason != "tool_use" {
			break
		}
		body["messages"] = append(body["messages"].([]any),
			map[string]any{"role": "assistant", "content": "…"},
			map[string]any{"role": "user", "content": []any{map[string]any{"type": "tool_result", "content": results[turn]}}},
			map[string]any{"role": "system", "content": "a reminder"})
	}
	want := []string{
		`first|Write{"content":"x","file_path":"a.txt"}`,
		`|Bash{"command":"id","description":"Run what the script says"}`,
		"uid=0\n|",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("turns:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := s.Counters(); n.ToolUses != 2 || n.Answered != 3 {
		t.Errorf("counters: %+v", n)
	}
}

func TestScriptVerbs(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c, token := client(t, s), s.SetupToken()
	answer := func(prompt string) ([]event, string) {
		_, b := say(t, c, token, prompt)
		all, text, whole := events(t, b)
		if !whole {
			t.Errorf("%s: the stream is cut: %s", prompt, b)
		}
		return all, text
	}
	if _, text := answer("simulate: fill 200KB"); len(text) != 200<<10 {
		t.Errorf("fill gave %d bytes", len(text))
	}
	before := time.Now().UnixNano()
	_, text := answer("simulate: stream 20 events every 1ms")
	stamps := strings.Fields(text)
	if first, err := strconv.ParseInt(stamps[0], 10, 64); len(stamps) != 20 || err != nil || first < before {
		t.Errorf("stream gave %q", text)
	}
	all, _ := answer("simulate: ping 3 every 1ms\nsimulate: say \"x\"\nsimulate: stop max_tokens")
	pings := 0
	for _, e := range all {
		if e.Type == "ping" {
			pings++
		}
	}
	if pings != 4 || all[len(all)-2].Delta.StopReason != "max_tokens" { // one is in every answer
		t.Errorf("%d pings, ending in %+v", pings, all[len(all)-2])
	}
	if _, text := answer("simulate: wait 1ms\nsimulate: tool Nothing {\"a\": 1}"); !strings.Contains(text, "Nothing, which is not offered") {
		t.Errorf("a tool that is not offered: %q", text)
	}
	if _, text := answer("simulate: dance"); !strings.Contains(text, `step 1: no verb "dance"`) {
		t.Errorf("a faulty script: %q", text)
	}
}

func TestHeaderScriptSparesTheBody(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(c.CloseIdleConnections)
	req, err := http.NewRequest("POST", s.Direct().JoinPath("v1/messages").String(), strings.NewReader("this is no JSON"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.SetupToken())
	req.Header.Set("Anthropic-Beta", "oauth-2025-04-20")
	req.Header.Add(simulator.HeaderScript, `say "a"`)
	req.Header.Add(simulator.HeaderScript, `fill 1KB`)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	b.ReadFrom(resp.Body)
	if _, text, whole := events(t, b.Bytes()); !whole || len(text) != 1025 {
		t.Errorf("%d: %s", resp.StatusCode, &b)
	}
}

func TestMessagesRefuses(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	good := s.SetupToken()
	model := request("hi")
	model["model"] = "gpt-4"
	empty := request("hi")
	empty["messages"] = []any{}
	for name, test := range map[string]struct {
		token string
		body  any
		want  int
		kind  string
	}{
		"no token":      {"", request("hi"), 401, "authentication_error"},
		"unknown token": {"sk-ant-oat01-fake-unknown", request("hi"), 401, "authentication_error"},
		"no JSON":       {good, "x", 400, "invalid_request_error"},
		"no messages":   {good, empty, 400, "invalid_request_error"},
		"unknown model": {good, model, 404, "not_found_error"},
		"too large":     {good, request(strings.Repeat("x", 33<<20)), 413, "request_too_large"},
	} {
		resp, b, err := ask(c, "POST", messagesURL, test.token, test.body)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		checkError(t, name, resp.StatusCode, b, test.want, test.kind)
	}
	req, _ := http.NewRequest("POST", messagesURL, strings.NewReader("{}"))
	req.Header.Set("Authorization", "Bearer "+good)
	resp, err := c.Do(req)
	if err != nil || resp.StatusCode != 401 {
		t.Errorf("without the OAuth beta: %v %v", resp, err)
	}
	resp.Body.Close()
}

// checkError insists on the API's error shape.
func checkError(t *testing.T, name string, status int, b []byte, want int, kind string) {
	t.Helper()
	var e struct {
		Type      string
		Error     struct{ Type, Message string }
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(b, &e); err != nil || status != want || e.Type != "error" || e.Error.Type != kind || e.Error.Message == "" || e.RequestID == "" {
		t.Errorf("%s: %d %s; want %d %s", name, status, b, want, kind)
	}
}

func TestCountTokensModelsHelloAndOthers(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c, token := client(t, s), s.SetupToken()
	for target, want := range map[string]string{
		"POST /v1/messages/count_tokens?beta=true": `"input_tokens":`,
		"GET /v1/models":                `"claude-opus-5-5"`,
		"GET /api/hello":                `"hello"`,
		"GET /api/claude_cli/bootstrap": `"not_found_error"`,
	} {
		method, path, _ := strings.Cut(target, " ")
		_, b, err := ask(c, method, "https://api.anthropic.com"+path, token, request("hi"))
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s %v; want %s", target, b, err, want)
		}
	}
	resp, err := c.Head("https://api.anthropic.com/api/hello")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("HEAD /api/hello: %v %v", resp, err)
	}
	resp.Body.Close()
	if n := s.Counters(); n.CountTokens != 1 || n.Models != 1 || n.Hellos != 2 || n.Others != 1 {
		t.Errorf("counters: %+v", n)
	}
}

func TestWindowsFillUpAndReset(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c, token := client(t, s), s.SetupToken()
	s.SetWindows(simulator.Windows{FiveHour: simulator.Window{Utilization: 0.7}, PerMessage: 0.15})
	var statuses []string
	for range 3 {
		resp, _ := say(t, c, token, "hi")
		statuses = append(statuses, strconv.Itoa(resp.StatusCode)+" "+resp.Header.Get("Anthropic-Ratelimit-Unified-5h-Status"))
	}
	if got := strings.Join(statuses, ", "); got != "200 allowed, 200 allowed_warning, 429 rejected" {
		t.Errorf("statuses: %s", got)
	}
	resp, b := say(t, c, token, "hi")
	checkError(t, "used up", resp.StatusCode, b, 429, "rate_limit_error")
	if h := resp.Header; h.Get("Retry-After") == "" || h.Get("Anthropic-Ratelimit-Unified-Representative-Claim") != "five_hour" || h.Get("Anthropic-Ratelimit-Unified-Status") != "rejected" {
		t.Errorf("header: %v", h)
	}
	w := s.Windows()
	w.Overage = true
	s.SetWindows(w)
	if resp, _ := say(t, c, token, "hi"); resp.StatusCode != 200 || resp.Header.Get("Anthropic-Ratelimit-Unified-Overage-In-Use") != "true" {
		t.Errorf("with overage: %d %v", resp.StatusCode, resp.Header)
	}
	s.SetClockSkew(5*time.Hour + time.Minute)
	if w := s.Windows(); w.FiveHour.Utilization != 0 || s.Counters().PlanLimited != 2 {
		t.Errorf("after the reset: %+v", w)
	}
}

package agent_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// Lines as CLI 2.1.330 writes them, shortened.
var events = []struct {
	line string
	want agent.Event
}{
	{
		`{"type":"system","subtype":"init","cwd":"/w","session_id":"s","tools":["Bash","Read"],"mcp_servers":[],"model":"claude-opus-5-5","permissionMode":"dontAsk","apiKeySource":"none","claude_code_version":"2.1.330","uuid":"u"}`,
		agent.Event{Type: "system", Subtype: "init", Session: "s", Init: &agent.Init{Model: "claude-opus-5-5", Version: "2.1.330", PermissionMode: "dontAsk", APIKeySource: "none", Dir: "/w", Tools: []string{"Bash", "Read"}}},
	},
	{
		`{"type":"assistant","message":{"id":"msg_1","role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"x"},{"type":"text","text":"hello"},{"type":"tool_use","id":"toolu_0","name":"Write","input":{"file_path":"/w/a"}}],"usage":{"input_tokens":10}},"parent_tool_use_id":"toolu_9","session_id":"s"}`,
		agent.Event{Type: "assistant", Session: "s", Parent: "toolu_9", Blocks: []agent.Block{
			{Kind: agent.BlockThinking, Text: "hm"},
			{Kind: agent.BlockText, Text: "hello"},
			{Kind: agent.BlockToolUse, ID: "toolu_0", Tool: "Write", Input: []byte(`{"file_path":"/w/a"}`)},
		}},
	},
	{
		`{"type":"user","message":{"role":"user","content":[{"type":"tool_result","content":"no such file","is_error":true,"tool_use_id":"toolu_0"},{"type":"tool_result","content":[{"type":"text","text":"a"},{"type":"image","source":{}},{"type":"text","text":"b"}],"tool_use_id":"toolu_1"}]},"parent_tool_use_id":null,"session_id":"s"}`,
		agent.Event{Type: "user", Session: "s", Blocks: []agent.Block{
			{Kind: agent.BlockToolResult, ID: "toolu_0", Text: "no such file", Error: true},
			{Kind: agent.BlockToolResult, ID: "toolu_1", Text: "a\nb"},
		}},
	},
	{`{"type":"user","message":{"role":"user","content":"plain words"}}`, agent.Event{Type: "user", Blocks: []agent.Block{{Kind: agent.BlockText, Text: "plain words"}}}},
	{`{"type":"user","message":{"role":"user","content":null}}`, agent.Event{Type: "user"}},
	{
		`{"type":"rate_limit_event","rate_limit_info":{"status":"allowed_warning","rateLimitType":"five_hour","resetsAt":1795446000,"isUsingOverage":true},"session_id":"s"}`,
		agent.Event{Type: "rate_limit_event", Session: "s", Limit: &agent.RateLimit{Status: "allowed_warning", Kind: "five_hour", Resets: time.Unix(1795446000, 0), Overage: true}},
	},
	{
		`{"type":"system","subtype":"api_retry","attempt":2,"max_retries":10,"retry_delay_ms":611.5,"error_status":529,"error":"overloaded","session_id":"s"}`,
		agent.Event{Type: "system", Subtype: "api_retry", Session: "s", Retry: &agent.Retry{Attempt: 2, Max: 10, Delay: 611500 * time.Microsecond, Status: 529, Reason: "overloaded"}},
	},
	{`{"type":"system","subtype":"api_retry","attempt":1,"error_status":null}`, agent.Event{Type: "system", Subtype: "api_retry", Retry: &agent.Retry{Attempt: 1}}},
	{
		`{"type":"system","subtype":"permission_denied","tool_name":"Bash","tool_use_id":"toolu_1","decision_reason_type":"mode","message":"no","session_id":"s"}`,
		agent.Event{Type: "system", Subtype: "permission_denied", Session: "s", Denied: &agent.Denial{Tool: "Bash", ID: "toolu_1"}},
	},
	{
		`{"duration_api_ms":471,"session_id":"s","total_cost_usd":0.0005399999999999999,"usage":{"input_tokens":30,"cache_creation_input_tokens":2,"cache_read_input_tokens":3,"output_tokens":21,"server_tool_use":{}},"modelUsage":{"claude-opus-5-5":{"inputTokens":30,"outputTokens":21,"cacheReadInputTokens":3,"cacheCreationInputTokens":2,"costUSD":0.00054}},"permission_denials":[{"tool_name":"Write","tool_use_id":"toolu_0","tool_input":{"a":1}}],"terminal_reason":"completed","is_error":false,"num_turns":3,"subtype":"success","api_error_status":null,"result":"done","type":"result","duration_ms":245}`,
		agent.Event{Type: "result", Subtype: "success", Session: "s", Result: &agent.Result{
			Text: "done", Reason: "completed", Turns: 3, Duration: 245 * time.Millisecond, Cost: 540,
			Usage:   hub.Usage{InputTokens: 30, OutputTokens: 21, CacheReadTokens: 3, CacheWriteTokens: 2},
			Models:  map[string]hub.Usage{"claude-opus-5-5": {InputTokens: 30, OutputTokens: 21, CacheReadTokens: 3, CacheWriteTokens: 2, Cost: 540}},
			Denials: []agent.Denial{{Tool: "Write", ID: "toolu_0", Input: []byte(`{"a":1}`)}},
		}},
	},
	{
		`{"type":"result","subtype":"error_during_execution","is_error":true,"num_turns":0,"session_id":"s","api_error_status":402,"terminal_reason":"api_error","errors":["No conversation found"]}`,
		agent.Event{Type: "result", Subtype: "error_during_execution", Session: "s", Result: &agent.Result{IsError: true, APIStatus: 402, Reason: "api_error", Errors: []string{"No conversation found"}}},
	},
	{`{"type":"from_the_future","subtype":"x","session_id":"s","message":5}`, agent.Event{Type: "from_the_future", Subtype: "x", Session: "s"}},
	{`{"type":"system","subtype":"hook_started"}`, agent.Event{Type: "system", Subtype: "hook_started"}},
}

func TestParseEvent(t *testing.T) {
	for _, c := range events {
		got, err := agent.ParseEvent([]byte(c.line))
		if err != nil {
			t.Errorf("ParseEvent(%s): %v", c.line, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("ParseEvent(%s): -want +got\n%s", c.line, diff)
		}
	}
}

func TestParseEventKeepsTheResultWhenADetailChanges(t *testing.T) {
	got, err := agent.ParseEvent([]byte(`{"type":"result","session_id":7,"errors":[{"new":"shape"}],"modelUsage":[],"num_turns":"3","usage":{"input_tokens":1.5},"total_cost_usd":1e300,"duration_ms":-5,"is_error":true,"result":"out of money"}`))
	if err != nil || got.Result == nil {
		t.Fatalf("ParseEvent = %+v, %v", got, err)
	}
	if !got.Result.IsError || got.Result.Text != "out of money" || got.Result.Cost < 0 || got.Result.Duration != 0 {
		t.Errorf("result = %+v", got.Result)
	}
}

func TestParseEventRefusesGarbage(t *testing.T) {
	for _, line := range []string{
		"", " ", "hello", `{"type":"assistant"`, `{"type":"assistant"} trailing`, "null", "5", "[]", `{}`, `{"type":""}`, `{"type":5}`,
		`{"type":"assistant"}`, "\x00", strings.Repeat("[", 100000), "\xff\xfe",
	} {
		got, err := agent.ParseEvent([]byte(line))
		if !errors.Is(err, hub.ErrInvalid) || !reflect.DeepEqual(got, agent.Event{}) {
			t.Errorf("ParseEvent(%.40q) = %+v, %v; want ErrInvalid", line, got, err)
		}
		if err != nil && len(err.Error()) > 600 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	}
	if _, err := agent.ParseEvent(make([]byte, agent.MaxLine+1)); !errors.Is(err, hub.ErrTooLarge) {
		t.Errorf("error = %v; want ErrTooLarge", err)
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, c := range events {
		f.Add([]byte(c.line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := agent.ParseEvent(line)
		if err != nil {
			if !errors.Is(err, hub.ErrInvalid) {
				t.Fatalf("error %v is no ErrInvalid", err)
			}
			return
		}
		if e.Type == "" || (e.Result != nil) != (e.Type == agent.EventResult) {
			t.Fatalf("event %+v", e)
		}
		if e.Result != nil && (e.Result.Cost < 0 || e.Result.Duration < 0) {
			t.Fatalf("negative cost or duration in %+v", e.Result)
		}
	})
}

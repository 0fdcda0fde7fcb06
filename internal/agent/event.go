package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Types of events that mean something to us. Others pass with their Type alone.
const (
	EventSystem    = "system"
	EventAssistant = "assistant"
	EventUser      = "user" // tool results go back to the model as a user's words
	EventResult    = "result"
	EventRateLimit = "rate_limit_event"
)

// Subtypes of EventSystem.
const (
	SystemInit   = "init"              // Init is set
	SystemRetry  = "api_retry"         // Retry is set
	SystemDenied = "permission_denied" // Denied is set
)

// Event is one line of the CLI's stream (--output-format stream-json). Text in
// it comes from a model and from a repository: whoever prints it neutralises
// control characters.
type Event struct {
	Type    string
	Subtype string
	Session string // the CLI's session ID
	Parent  string // the tool use that this happened under, in a subagent; else empty

	Init   *Init
	Blocks []Block // of an assistant's or user's message
	Retry  *Retry
	Denied *Denial
	Limit  *RateLimit
	Result *Result
}

// Init is the first event of a run.
type Init struct {
	Model          string   `json:"model"`
	Version        string   `json:"claude_code_version"`
	PermissionMode string   `json:"permissionMode"`
	APIKeySource   string   `json:"apiKeySource"` // "none" when the login is used
	Dir            string   `json:"cwd"`
	Tools          []string `json:"tools"`
}

// BlockKind says what a block of a message is.
type BlockKind string

// The kinds of blocks. Others pass as the CLI names them.
const (
	BlockText       BlockKind = "text"
	BlockThinking   BlockKind = "thinking"
	BlockToolUse    BlockKind = "tool_use"
	BlockToolResult BlockKind = "tool_result"
)

// Block is one part of a message.
type Block struct {
	Kind  BlockKind
	Text  string          // text, thinking, or what a tool gave back
	ID    string          // of the tool use, in a use and in its result
	Tool  string          // of a tool use
	Input json.RawMessage // of a tool use, an object
	Error bool            // a tool result that is an error
}

// Retry says that a request failed and will be sent again.
type Retry struct {
	Attempt int
	Max     int
	Delay   time.Duration
	Status  int // of the failed answer; 0 if there was none
	Reason  string
}

// Denial is a tool use that was not permitted.
type Denial struct {
	Tool  string          `json:"tool_name"`
	ID    string          `json:"tool_use_id"`
	Input json.RawMessage `json:"tool_input"`
}

// RateLimit is what the CLI has seen of the plan's windows.
type RateLimit struct {
	Status  string // "allowed", "allowed_warning" or "rejected"
	Overage bool   // the paid overage is in use
	Kind    string // which window, such as "five_hour"; may be empty
	Resets  time.Time
}

// Result is the last event of a run.
type Result struct {
	Text      string // the closing words, or the message of the error
	IsError   bool
	APIStatus int      // of the answer that ended the run; 0 if none did
	Reason    string   // why it ended: "completed", "api_error", "max_turns", …
	Errors    []string // what went wrong inside the CLI
	Turns     int
	Duration  time.Duration
	// Cost is at list price, for the whole session: with Invocation.Resume, what
	// earlier runs of the session cost is in it. So is Models.
	Cost    hub.MicroUSD
	Usage   hub.Usage // of this run; without Requests, Cost and Models
	Models  map[string]hub.Usage
	Denials []Denial
}

// ParseEvent reads one line of the stream. Lines of other programs, broken JSON
// and lines over MaxLine are errors of the kinds hub.ErrInvalid and
// hub.ErrTooLarge; the stream goes on after them. Blank lines are errors too.
func ParseEvent(line []byte) (Event, error) {
	if len(line) > MaxLine {
		return Event{}, fmt.Errorf("%w: an event of %d bytes", hub.ErrTooLarge, len(line))
	}
	var w wireEvent
	if err := decode(line, &w); err != nil {
		return Event{}, fmt.Errorf("%w: not an event: %q", hub.ErrInvalid, clip(string(line), 80))
	}
	if w.Type == "" {
		return Event{}, fmt.Errorf("%w: an event without a type", hub.ErrInvalid)
	}
	e := Event{Type: w.Type, Subtype: w.Subtype, Session: w.Session, Parent: w.Parent}
	if err := e.fill(line, w); err != nil {
		return Event{}, fmt.Errorf("%w: a broken %s event: %w", hub.ErrInvalid, clip(w.Type, 40), err)
	}
	return e, nil
}

// wireEvent is what all events share.
type wireEvent struct {
	Type    string          `json:"type"`
	Subtype string          `json:"subtype"`
	Session string          `json:"session_id"`
	Parent  string          `json:"parent_tool_use_id"`
	Message json.RawMessage `json:"message"`
	Limit   *wireLimit      `json:"rate_limit_info"`
}

// fill decodes what belongs to the event's type.
func (e *Event) fill(line []byte, w wireEvent) error {
	switch e.Type {
	case EventAssistant, EventUser:
		blocks, err := parseMessage(w.Message)
		e.Blocks = blocks
		return err
	case EventResult:
		var r wireResult
		err := decode(line, &r)
		e.Result = r.result()
		return err
	case EventRateLimit:
		e.Limit = w.Limit.rateLimit()
	case EventSystem:
		return e.fillSystem(line)
	}
	return nil
}

func (e *Event) fillSystem(line []byte) error {
	switch e.Subtype {
	case SystemInit:
		e.Init = new(Init)
		return decode(line, e.Init)
	case SystemDenied:
		e.Denied = new(Denial)
		return decode(line, e.Denied)
	case SystemRetry:
		var r wireRetry
		err := decode(line, &r)
		e.Retry = &Retry{Attempt: r.Attempt, Max: r.Max, Delay: milliseconds(r.Delay), Status: r.Status, Reason: r.Error}
		return err
	}
	return nil
}

type wireRetry struct {
	Attempt int     `json:"attempt"`
	Max     int     `json:"max_retries"`
	Delay   float64 `json:"retry_delay_ms"`
	Status  int     `json:"error_status"`
	Error   string  `json:"error"`
}

type wireLimit struct {
	Status  string  `json:"status"`
	Overage bool    `json:"isUsingOverage"`
	Kind    string  `json:"rateLimitType"`
	Resets  float64 `json:"resetsAt"` // seconds
}

func (w *wireLimit) rateLimit() *RateLimit {
	if w == nil {
		return nil
	}
	l := &RateLimit{Status: w.Status, Overage: w.Overage, Kind: w.Kind}
	if w.Resets > 0 && w.Resets < maxMillis/1000 {
		l.Resets = time.Unix(int64(w.Resets), 0)
	}
	return l
}

type wireResult struct {
	Result     string   `json:"result"`
	IsError    bool     `json:"is_error"`
	APIStatus  int      `json:"api_error_status"`
	Reason     string   `json:"terminal_reason"`
	Errors     []string `json:"errors"`
	Turns      int      `json:"num_turns"`
	DurationMS float64  `json:"duration_ms"`
	CostUSD    float64  `json:"total_cost_usd"`
	Usage      struct {
		Input      int64 `json:"input_tokens"`
		Output     int64 `json:"output_tokens"`
		CacheRead  int64 `json:"cache_read_input_tokens"`
		CacheWrite int64 `json:"cache_creation_input_tokens"`
	} `json:"usage"`
	Models map[string]struct {
		Input      int64   `json:"inputTokens"`
		Output     int64   `json:"outputTokens"`
		CacheRead  int64   `json:"cacheReadInputTokens"`
		CacheWrite int64   `json:"cacheCreationInputTokens"`
		CostUSD    float64 `json:"costUSD"`
	} `json:"modelUsage"`
	Denials []Denial `json:"permission_denials"`
}

func (w *wireResult) result() *Result {
	r := &Result{
		Text: w.Result, IsError: w.IsError, APIStatus: w.APIStatus, Reason: w.Reason, Errors: w.Errors,
		Turns: w.Turns, Duration: milliseconds(w.DurationMS), Cost: microUSD(w.CostUSD), Denials: w.Denials,
		Usage: hub.Usage{
			InputTokens: w.Usage.Input, OutputTokens: w.Usage.Output,
			CacheReadTokens: w.Usage.CacheRead, CacheWriteTokens: w.Usage.CacheWrite,
		},
	}
	for name, m := range w.Models {
		if r.Models == nil {
			r.Models = map[string]hub.Usage{}
		}
		r.Models[name] = hub.Usage{
			InputTokens: m.Input, OutputTokens: m.Output,
			CacheReadTokens: m.CacheRead, CacheWriteTokens: m.CacheWrite, Cost: microUSD(m.CostUSD),
		}
	}
	return r
}

// parseMessage returns the blocks of a message, whose content is a list of
// blocks or one text.
func parseMessage(raw json.RawMessage) ([]Block, error) {
	var m struct {
		Content json.RawMessage `json:"content"`
	}
	if err := decode(raw, &m); err != nil {
		return nil, err
	}
	return parseContent(m.Content)
}

type wireBlock struct {
	Type      BlockKind       `json:"type"`
	Text      string          `json:"text"`
	Thinking  string          `json:"thinking"`
	ID        string          `json:"id"`
	ToolUseID string          `json:"tool_use_id"`
	Name      string          `json:"name"`
	Input     json.RawMessage `json:"input"`
	Content   json.RawMessage `json:"content"`
	IsError   bool            `json:"is_error"`
}

func parseContent(raw json.RawMessage) ([]Block, error) {
	if len(raw) == 0 || isNull(raw) {
		return nil, nil
	}
	if raw[0] == '"' {
		var text string
		err := json.Unmarshal(raw, &text)
		return []Block{{Kind: BlockText, Text: text}}, err
	}
	var wire []wireBlock
	if err := decode(raw, &wire); err != nil {
		return nil, err
	}
	blocks := make([]Block, len(wire))
	for i, w := range wire {
		b := Block{Kind: w.Type, Text: w.Text + w.Thinking, ID: w.ID + w.ToolUseID, Tool: w.Name, Input: w.Input, Error: w.IsError}
		if w.Type == BlockToolResult {
			b.Text = contentText(w.Content)
		}
		blocks[i] = b
	}
	return blocks, nil
}

// contentText returns the text of a tool result: one text, or the texts of its
// blocks, a line each. Images and the like have none.
func contentText(raw json.RawMessage) string {
	if len(raw) > 0 && raw[0] == '"' {
		var text string
		if json.Unmarshal(raw, &text) == nil {
			return text
		}
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return ""
	}
	var b bytes.Buffer
	for _, p := range parts {
		if p.Text != "" && b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.Text)
	}
	return b.String()
}

// decode is json.Unmarshal that leaves out a field of an unexpected type instead
// of failing: a newer CLI that changes a detail must not cost a run its result.
func decode(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil
	}
	return err
}

// milliseconds and microUSD take numbers of any size without overflow.
func milliseconds(ms float64) time.Duration {
	return time.Duration(clamp(ms * float64(time.Millisecond)))
}

func microUSD(usd float64) hub.MicroUSD { return hub.MicroUSD(clamp(math.Round(usd * 1e6))) }

func clamp(f float64) int64 {
	switch {
	case f >= math.MaxInt64/2:
		return math.MaxInt64 / 2
	case f > 0:
		return int64(f)
	}
	return 0
}

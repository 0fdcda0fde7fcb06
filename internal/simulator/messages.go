package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// HeaderScript carries a script, one step a header line, without "simulate:". The
// request's body is then read and thrown away, which spares a benchmark the
// parsing; the answer is a stream.
const HeaderScript = "Anthropic-Simulator-Script"

const greeting = "Hello from the simulator."

// messageRequest is the part of a request that matters here.
type messageRequest struct {
	Model    string    `json:"model"`
	Stream   bool      `json:"stream"`
	Messages []message `json:"messages"`
	Tools    []struct {
		Name string `json:"name"`
	} `json:"tools"`
	size int // of the body
}

type message struct {
	Role    string          `json:"role"`
	Content content[result] `json:"content"`
}

// result is a block of a message. Content is a tool_result's.
type result struct {
	text
	Content content[text] `json:"content"`
}

type text struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// content is a list of blocks, or a string, which stands for a block of text.
// Anything else is as good as empty here.
type content[T any] []T

func (c *content[T]) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]T)(c))
	}
	if len(b) == 0 || b[0] != '"' {
		return nil
	}
	*c = make(content[T], 1)
	return json.Unmarshal(slices.Concat([]byte(`{"type":"text","text":`), b, []byte("}")), &(*c)[0])
}

// messages is /v1/messages.
func (s *Simulator) messages(w http.ResponseWriter, r *http.Request, f *Fault) *reply {
	if refused := s.authenticateInference(r); refused != nil {
		return refused
	}
	if reset, used := s.windows.at(s.now()).usedUp(); used {
		s.count(func(c *Counters) { c.PlanLimited++ })
		return s.planLimit(reset)
	}
	in, t, refused := s.understand(w, r, f)
	if refused != nil {
		return refused
	}
	a := s.newAnswer(in, t)
	if in.Stream {
		s.stream(w, r, f, a)
		if f.is(FaultEarlyAnswer) { // late, but the connection stays usable
			io.Copy(io.Discard, io.LimitReader(r.Body, maxBody))
		}
		return nil
	}
	rep, ok := s.whole(r, a)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	if f == nil {
		s.finished(a)
	}
	return rep
}

// understand reads the request and says what is to be answered.
func (s *Simulator) understand(w http.ResponseWriter, r *http.Request, f *Fault) (messageRequest, turn, *reply) {
	in := messageRequest{Model: "claude-sonnet-4-5", Stream: true}
	steps := r.Header.Values(HeaderScript)
	if f.is(FaultEarlyAnswer) {
		http.NewResponseController(w).EnableFullDuplex()
	} else if len(steps) > 0 {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		in.size = int(n)
	} else {
		var refused *reply
		if in, refused = s.readMessages(r); refused != nil {
			return in, turn{}, refused
		}
		return in, in.turn(), nil
	}
	sc, err := parseSteps(steps)
	return in, sc.at(0, err), nil
}

func (s *Simulator) readMessages(r *http.Request) (messageRequest, *reply) {
	var in messageRequest
	body, err := readBody(r, maxBody)
	bad := func(status int, kind, format string, args ...any) (messageRequest, *reply) {
		s.count(func(c *Counters) { c.BadRequests++ })
		return in, apiError(status, kind, fmt.Sprintf(format, args...))
	}
	if errors.Is(err, errTooLarge) {
		return bad(http.StatusRequestEntityTooLarge, "request_too_large", "Request exceeds the maximum size")
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return bad(http.StatusBadRequest, "invalid_request_error", "The request body is not valid JSON: %v", err)
	}
	if len(in.Messages) == 0 {
		return bad(http.StatusBadRequest, "invalid_request_error", "messages: at least one message is required")
	}
	if !modelPattern.MatchString(in.Model) {
		return bad(http.StatusNotFound, "not_found_error", "model: %s", in.Model)
	}
	in.size = len(body)
	return in, nil
}

// reminder matches what the CLI adds to a person's words.
var reminder = regexp.MustCompile(`(?s)<system-reminder>.*?</system-reminder>`)

// prompt returns the last message of a person that has a script, or else the
// last one, without the CLI's reminders, and how many answers the model has given
// since. (Observed: reminders are blocks of the first message, and messages of
// the role system stand between.)
func (in messageRequest) prompt() (text string, answered int) {
	since := 0
	for _, m := range slices.Backward(in.Messages) {
		if m.Role == "assistant" {
			since++
			continue
		}
		if m.Role != "user" || slices.ContainsFunc(m.Content, func(b result) bool { return b.Type == "tool_result" }) {
			continue
		}
		var b strings.Builder
		for _, c := range m.Content {
			b.WriteString(c.Text)
			b.WriteByte('\n')
		}
		said := strings.TrimSpace(reminder.ReplaceAllString(b.String(), ""))
		if strings.Contains(said, scriptMark) {
			return said, since
		}
		if text == "" {
			text, answered = said, since
		}
	}
	return text, answered
}

// maxReport bounds what `report` repeats.
const maxReport = 1 << 20

// report returns the text of the tool results since the last answer.
func (in messageRequest) report() string {
	var b strings.Builder
	for _, m := range slices.Backward(in.Messages) {
		if m.Role == "assistant" {
			break
		}
		for _, c := range m.Content {
			for _, t := range c.Content { // of tool results only
				b.WriteString(t.Text)
				b.WriteByte('\n')
			}
		}
	}
	text := b.String()
	return text[:min(len(text), maxReport)]
}

// turn finds the script's turn that is due, and fills in what depends on the
// conversation.
func (in messageRequest) turn() turn {
	prompt, answered := in.prompt()
	t := due(prompt, answered)
	t.parts = slices.Clone(t.parts)
	for i, p := range t.parts {
		if p.report {
			t.parts[i] = part{text: in.report()}
		}
	}
	if t.tool != nil && !in.offers(t.tool.name) {
		t.parts = append(t.parts, part{text: "The script wants the tool " + t.tool.name + ", which is not offered."})
		t.tool = nil
	}
	return t
}

func (in messageRequest) offers(tool string) bool {
	for _, t := range in.Tools {
		if t.Name == tool {
			return true
		}
	}
	return false
}

func due(prompt string, answered int) turn {
	sc, err := parseScript(prompt)
	return sc.at(answered, err)
}

// at returns the n-th turn of a script that was parsed with err.
func (sc script) at(n int, err error) turn {
	switch {
	case err != nil:
		return turn{parts: []part{{text: "The simulator can't follow this script: " + err.Error()}}}
	case len(sc) == 0:
		return turn{parts: []part{{text: greeting}}}
	case n < len(sc):
		return sc[n]
	}
	return turn{parts: []part{{text: "Done."}}}
}

// countTokens is /v1/messages/count_tokens.
func (s *Simulator) countTokens(_ http.ResponseWriter, r *http.Request, _ *Fault) *reply {
	if refused := s.authenticateInference(r); refused != nil {
		return refused
	}
	in, refused := s.readMessages(r)
	if refused != nil {
		return refused
	}
	return jsonReply(http.StatusOK, map[string]int64{"input_tokens": tokensOf(in.size)})
}

// tokensOf is a rough count, as good as any for made-up text.
func tokensOf(bytes int) int64 { return int64(bytes+3) / 4 }

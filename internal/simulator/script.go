package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A prompt may tell the simulated model what to do, in lines that start with
// "simulate:". Each is one step, made of words and of "strings" with Go's escapes:
//
//	simulate: say "text"                 answers text
//	simulate: write PATH "text"          asks the client to write a file
//	simulate: edit PATH "old" "new"      … to replace text in one that it has read
//	simulate: read PATH                  … to read one
//	simulate: bash "command"             … to run a command
//	simulate: tool NAME {"json":"…"}     … to use any tool, with this input
//	simulate: report                     answers what the last tools returned
//	simulate: stream N events every D    answers N deltas, one each D; each has the text "<unix ns> "
//	simulate: fill SIZE                  answers SIZE bytes of text (1KB = 1024), in deltas of 1 KB
//	simulate: wait D                     pauses, within the answer
//	simulate: ping N every D             sends N pings, one each D
//	simulate: usage input=N output=N cache_read=N cache_write=N   sets the answer's usage; what is not named is 0
//	simulate: stop REASON                ends with this stop_reason
//
// Steps up to and with one that uses a tool make one answer; the next begins when
// the tool's result comes back. After the last step the model answers "Done." if
// it has nothing else to say. Durations are Go's ("10ms", "2s"). A faulty script
// is answered with the reason, as text. A prompt without a script is answered
// with a greeting, or, where an earlier one of the conversation had a script, with
// how that goes on.
type script []turn

// turn is one answer of the model.
type turn struct {
	parts []part
	tool  *toolUse // what the answer ends in, if not nil
	usage *usage   // nil means made up from the sizes
	stop  string   // "" means tool_use or end_turn
}

// part is a piece of an answer, in order.
type part struct {
	text   string        // answered at once
	count  int           // that many stamped deltas or pings
	every  time.Duration // between them; or a pause, if count is 0
	pings  bool
	report bool
}

type toolUse struct {
	name  string
	input json.RawMessage
}

type usage struct {
	Input      int64 `json:"input_tokens"`
	CacheWrite int64 `json:"cache_creation_input_tokens"`
	CacheRead  int64 `json:"cache_read_input_tokens"`
	Output     int64 `json:"output_tokens"`
}

// The bounds of a script.
const (
	maxSteps    = 2000
	maxLine     = 256 << 10
	maxEvents   = 1_000_000
	maxDuration = time.Hour
	maxFill     = 16 << 20
	maxTokens   = 1_000_000_000
)

const scriptMark = "simulate:"

// parseScript returns the script in a prompt; nil if there is none.
func parseScript(prompt string) (script, error) {
	b := scriptBuilder{}
	for line := range strings.Lines(prompt) {
		step, ok := strings.CutPrefix(strings.TrimSpace(line), scriptMark)
		if !ok {
			continue
		}
		if err := b.line(step); err != nil {
			return nil, err
		}
	}
	return b.finish(), nil
}

// parseSteps returns the script whose steps are given without the mark.
func parseSteps(steps []string) (script, error) {
	b := scriptBuilder{}
	for _, step := range steps {
		if err := b.line(step); err != nil {
			return nil, err
		}
	}
	return b.finish(), nil
}

type scriptBuilder struct {
	done  script
	open  turn
	dirty bool // open has steps
	steps int
}

func (b *scriptBuilder) line(step string) error {
	b.steps++
	if b.steps > maxSteps || len(step) > maxLine {
		return fmt.Errorf("the script is too long at step %d", b.steps)
	}
	words, err := splitWords(step)
	if err == nil && len(words) == 0 {
		err = errors.New("nothing to do")
	}
	if err == nil {
		err = b.step(words[0], words[1:], step)
	}
	if err != nil {
		return fmt.Errorf("step %d: %w", b.steps, err)
	}
	b.dirty = true
	if b.open.tool != nil {
		b.done = append(b.done, b.open)
		b.open, b.dirty = turn{}, false
	}
	return nil
}

func (b *scriptBuilder) finish() script {
	if b.dirty {
		return append(b.done, b.open)
	}
	return b.done
}

// step adds one step to the open turn.
func (b *scriptBuilder) step(verb string, args []string, raw string) error {
	if n, ok := argCount[verb]; ok && len(args) != n {
		return fmt.Errorf("%s wants %d arguments, got %d", verb, n, len(args))
	}
	t := &b.open
	switch verb {
	case "say":
		t.parts = append(t.parts, part{text: args[0]})
	case "report":
		t.parts = append(t.parts, part{report: true})
	case "write":
		t.tool = useTool("Write", "file_path", args[0], "content", args[1])
	case "edit":
		t.tool = useTool("Edit", "file_path", args[0], "old_string", args[1], "new_string", args[2])
	case "read":
		t.tool = useTool("Read", "file_path", args[0])
	case "bash":
		t.tool = useTool("Bash", "command", args[0], "description", "Run what the script says")
	case "tool":
		return t.anyTool(raw)
	case "stream", "ping":
		return t.repeat(verb, args)
	case "fill":
		return t.fill(args[0])
	case "wait":
		d, err := parseDuration(args[0])
		t.parts = append(t.parts, part{every: d})
		return err
	case "usage":
		return t.setUsage(args)
	case "stop":
		t.stop = args[0]
	default:
		return fmt.Errorf("no verb %q", verb)
	}
	return nil
}

var argCount = map[string]int{"say": 1, "report": 0, "write": 2, "edit": 3, "read": 1, "bash": 1, "fill": 1, "wait": 1, "stop": 1}

func useTool(name string, pairs ...string) *toolUse {
	in := make(map[string]string)
	for p := range slices.Chunk(pairs, 2) {
		in[p[0]] = p[1]
	}
	b, err := json.Marshal(in)
	if err != nil {
		panic(err) // strings always marshal
	}
	return &toolUse{name: name, input: b}
}

// anyTool reads `tool NAME {json}`; the JSON is taken as it stands.
func (t *turn) anyTool(raw string) error {
	_, rest, _ := strings.Cut(strings.TrimSpace(raw), " ")
	name, input, _ := strings.Cut(strings.TrimSpace(rest), " ")
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(input), &object); err != nil || object == nil || name == "" {
		return errors.New(`tool wants a name and a JSON object`)
	}
	t.tool = &toolUse{name: name, input: json.RawMessage(strings.TrimSpace(input))}
	return nil
}

// repeat reads `stream N [events] [every] D` and `ping N [every] D`.
func (t *turn) repeat(verb string, args []string) error {
	args = slices.DeleteFunc(slices.Clone(args), func(s string) bool { return s == "events" || s == "every" })
	if len(args) != 2 {
		return fmt.Errorf("%s wants a number and a duration", verb)
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 || n > maxEvents {
		return fmt.Errorf("%q is not a number from 1 to %d", args[0], maxEvents)
	}
	d, err := parseDuration(args[1])
	t.parts = append(t.parts, part{count: n, every: d, pings: verb == "ping"})
	return err
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDuration {
		return 0, fmt.Errorf("%q is not a duration up to %v", s, maxDuration)
	}
	return d, nil
}

var fillChunk = strings.Repeat("The quick brown fox jumps over the lazy dog, again and again.\n", 17)[:1024]

// fillJSON is fillChunk as JSON: streams of megabytes are made of it.
var fillJSON = quote(fillChunk)

func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always marshal
	}
	return b
}

func (t *turn) fill(size string) error {
	n, err := parseSize(size)
	for ; n > 0; n -= 1024 {
		t.parts = append(t.parts, part{text: fillChunk[:min(n, len(fillChunk))]})
	}
	return err
}

func parseSize(s string) (int, error) {
	unit := 1
	number := s
	for suffix, u := range map[string]int{"KB": 1 << 10, "MB": 1 << 20} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = n, u
		}
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > maxFill/unit {
		return 0, fmt.Errorf("%q is not a size up to 16MB", s)
	}
	return n * unit, nil
}

func (t *turn) setUsage(args []string) error {
	u := usage{}
	fields := map[string]*int64{"input": &u.Input, "output": &u.Output, "cache_read": &u.CacheRead, "cache_write": &u.CacheWrite}
	for _, a := range args {
		name, value, _ := strings.Cut(a, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if fields[name] == nil || err != nil || n < 0 || n > maxTokens {
			return fmt.Errorf("%q is not a usage", a)
		}
		*fields[name] = n
	}
	t.usage = &u
	return nil
}

// splitWords cuts a step into words; a word that starts with a quote is a Go
// string. For `tool` only the first two words count.
func splitWords(s string) ([]string, error) {
	var words []string
	for {
		s = strings.TrimLeft(s, " \t\r\n")
		if s == "" || len(words) == 2 && words[0] == "tool" {
			return words, nil
		}
		if s[0] == '"' || s[0] == '`' {
			quoted, err := strconv.QuotedPrefix(s)
			if err != nil {
				return nil, fmt.Errorf("a string does not end or has a bad escape: %.40s", s)
			}
			word, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, err
			}
			words, s = append(words, word), s[len(quoted):]
			continue
		}
		end := strings.IndexAny(s, " \t\r\n")
		if end < 0 {
			end = len(s)
		}
		words, s = append(words, s[:end]), s[end:]
	}
}

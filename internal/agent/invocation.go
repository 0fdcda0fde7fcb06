package agent

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Invocation is one headless run of the CLI inside a sandbox.
type Invocation struct {
	Prompt string // travels on stdin, see Stdin
	Model  string // a name or an alias such as "sonnet"; empty: the CLI's choice for the plan
	Resume string // the session to go on with, a UUID; empty: a new one
	// AllowedTools are the only tools that the run may use, as the CLI names them:
	// "Read", "Bash(git *)". Empty: all of them, without asking; the sandbox is
	// the boundary.
	AllowedTools []string
	MaxTurns     int    // zero: no limit
	Instructions string // appended to the system prompt; empty: none
}

// The most that a run may be told. The CLI took 2 MB on stdin; the platform's
// context is the real bound.
const (
	maxPrompt       = 16 << 20
	maxInstructions = 100 << 10 // one argument: Linux takes 128 KiB
	maxModel        = 200
	maxTools        = 200
)

var (
	uuidPattern  = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	modelPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@/\[\]-]*$`)
	toolPattern  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*(\([^\x00-\x1f\x7f]*\))?$`)
)

// Check reports what the CLI would refuse or misread, with a hint.
func (i Invocation) Check() error {
	switch {
	case strings.TrimSpace(i.Prompt) == "":
		return invalid("say what the run is to do", "the prompt is empty")
	case len(i.Prompt) > maxPrompt:
		return hub.Hint(fmt.Errorf("%w: the prompt has %d bytes: %w", hub.ErrInvalid, len(i.Prompt), hub.ErrTooLarge), "put long input into a file of the workspace and name it in the prompt")
	case i.Model != "" && (len(i.Model) > maxModel || !modelPattern.MatchString(i.Model)):
		return invalid("use a name such as sonnet or claude-sonnet-5-5", "%q is not a model's name", clip(i.Model, 50))
	case i.Resume != "" && !uuidPattern.MatchString(i.Resume):
		return invalid("`claude-hub runs --json` has the session of each run", "%q is not a session", clip(i.Resume, 50))
	case i.MaxTurns < 0:
		return invalid("use a positive number, or 0 for no limit", "%d turns", i.MaxTurns)
	case len(i.Instructions) > maxInstructions || strings.Contains(i.Instructions, "\x00"):
		return invalid("keep them under 100 KiB of text", "the instructions are too long or hold NUL")
	case len(i.AllowedTools) > maxTools:
		return invalid("name fewer tools", "%d tools", len(i.AllowedTools))
	}
	for _, tool := range i.AllowedTools {
		if !toolPattern.MatchString(tool) {
			return invalid("use names such as Read or Bash(git *)", "%q is not a tool", clip(tool, 50))
		}
	}
	return nil
}

// Args returns the CLI's arguments, without its path. Every value is attached
// with '=', so that none is taken for an option or swallows the next argument.
//
// What each is for, as seen with CLI 2.1.330 in a workspace full of traps:
//
//   - --setting-sources=user: without it the repository's .claude/settings.json
//     runs its hooks, moves ANTHROPIC_BASE_URL and starts its apiKeyHelper. With it
//     the repository's CLAUDE.md, skills, agents and commands are not read either.
//   - --strict-mcp-config: without it .mcp.json starts the servers it names.
//   - --permission-mode=bypassPermissions: as root only with IS_SANDBOX=1, see
//     [RunEnviron]; everything is allowed, and the sandbox decides.
//   - --permission-mode=dontAsk with --allowedTools: what is not listed is denied,
//     but for Bash commands that the CLI takes for harmless ("echo", "ls").
//     --tools takes away every other tool, so that these go too.
//   - --permission-prompts=none: nobody is there to ask.
//   - --max-turns is not in the help text, and works.
func (i Invocation) Args() []string {
	args := []string{"-p", "--output-format=stream-json", "--verbose", "--strict-mcp-config", "--setting-sources=user", "--permission-prompts=none"}
	if len(i.AllowedTools) == 0 {
		args = append(args, "--permission-mode=bypassPermissions")
	} else {
		args = append(args, "--permission-mode=dontAsk", "--tools="+strings.Join(toolNames(i.AllowedTools), ","))
		for _, tool := range i.AllowedTools {
			args = append(args, "--allowedTools="+tool)
		}
	}
	for _, o := range []struct{ flag, value string }{
		{"--model=", i.Model}, {"--resume=", i.Resume}, {"--append-system-prompt=", i.Instructions},
	} {
		if o.value != "" {
			args = append(args, o.flag+o.value)
		}
	}
	if i.MaxTurns > 0 {
		args = append(args, "--max-turns="+strconv.Itoa(i.MaxTurns))
	}
	return args
}

// Stdin returns what the CLI reads: the prompt. An argument could hold 128 KiB
// only, and would show in every process list.
func (i Invocation) Stdin() io.Reader { return strings.NewReader(i.Prompt) }

// toolNames returns the tools without their patterns, each once.
func toolNames(tools []string) []string {
	var names []string
	for _, tool := range tools {
		name, _, _ := strings.Cut(tool, "(")
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// clip shortens s for a message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

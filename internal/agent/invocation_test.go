package agent_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

const session = "0233a7d3-55cd-4509-bde6-10605364a19f"

func TestInvocationArgs(t *testing.T) {
	always := []string{"-p", "--output-format=stream-json", "--verbose", "--strict-mcp-config", "--setting-sources=user", "--permission-prompts=none"}
	for _, c := range []struct {
		in   agent.Invocation
		want []string
	}{
		{agent.Invocation{Prompt: "secret prompt"}, []string{"--permission-mode=bypassPermissions"}},
		{
			agent.Invocation{Model: "sonnet", Resume: session, MaxTurns: 3, Instructions: "--help", AllowedTools: []string{"Bash(git *)", "Read", "Bash(ls)"}},
			[]string{"--permission-mode=dontAsk", "--tools=Bash,Read", "--allowedTools=Bash(git *)", "--allowedTools=Read", "--allowedTools=Bash(ls)", "--model=sonnet", "--resume=" + session, "--append-system-prompt=--help", "--max-turns=3"},
		},
	} {
		if got := c.in.Args(); !slices.Equal(got, append(slices.Clone(always), c.want...)) {
			t.Errorf("Args of %+v = %q", c.in, got)
		}
	}
	if b, _ := io.ReadAll(agent.Invocation{Prompt: "secret prompt"}.Stdin()); string(b) != "secret prompt" {
		t.Errorf("stdin = %q", b)
	}
}

func TestInvocationCheck(t *testing.T) {
	good := agent.Invocation{Prompt: strings.Repeat("x ", 1<<20), Model: "claude-sonnet-5-5[1m]", Resume: session, AllowedTools: []string{"Read", "Bash(git log:*)", "mcp__a__b"}, MaxTurns: 1}
	if err := good.Check(); err != nil {
		t.Errorf("Check: %v", err)
	}
	for name, change := range map[string]func(*agent.Invocation){
		"no prompt":            func(i *agent.Invocation) { i.Prompt = " \n" },
		"huge prompt":          func(i *agent.Invocation) { i.Prompt = strings.Repeat("x", 17<<20) },
		"model is a flag":      func(i *agent.Invocation) { i.Model = "--dangerously-skip-permissions" },
		"model with a newline": func(i *agent.Invocation) { i.Model = "a\nb" },
		"long model":           func(i *agent.Invocation) { i.Model = strings.Repeat("x", 300) },
		"session is a path":    func(i *agent.Invocation) { i.Resume = "../x" },
		"tool is a flag":       func(i *agent.Invocation) { i.AllowedTools = []string{"--x"} },
		"two tools in one":     func(i *agent.Invocation) { i.AllowedTools = []string{"Read,Bash"} },
		"empty tool":           func(i *agent.Invocation) { i.AllowedTools = []string{""} },
		"tool with a newline":  func(i *agent.Invocation) { i.AllowedTools = []string{"Bash(a\nb)"} },
		"many tools":           func(i *agent.Invocation) { i.AllowedTools = make([]string, 1000) },
		"negative turns":       func(i *agent.Invocation) { i.MaxTurns = -1 },
		"long instructions":    func(i *agent.Invocation) { i.Instructions = strings.Repeat("x", 1<<20) },
		"NUL in instructions":  func(i *agent.Invocation) { i.Instructions = "a\x00b" },
	} {
		bad := good
		change(&bad)
		if err := bad.Check(); !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" || len(err.Error()) > 300 {
			t.Errorf("%s: %v; want ErrInvalid with a hint", name, err)
		}
	}
}

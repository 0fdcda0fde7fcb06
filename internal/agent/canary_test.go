package agent_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
)

func TestCanaryPassesWithTheTestedVersion(t *testing.T) {
	t.Setenv("ANTHROPIC_API_KEY", "sk-ant-api03-fake-from-outside")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:9")
	if err := agent.Canary(t.Context(), hubtest.Claude(t)); err != nil {
		t.Errorf("Canary: %v", err)
	}
}

// changed is a CLI that differs from the real one in what body does before it,
// when it is run for inference.
func changed(t *testing.T, body string) string {
	t.Helper()
	return script(t, filepath.Join(t.TempDir(), "claude"), fmt.Sprintf("REAL=%s\nif [ \"$1\" = -p ]; then\n%s\nfi\nexec \"$REAL\" \"$@\"", hubtest.Claude(t), body))
}

func TestCanaryNamesWhatDiffers(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"an API key outranks the login", `export ANTHROPIC_API_KEY=sk-ant-api03-fake`, "it sends an API key"},
		{"a token of another kind leaves the subscription mode", `export ANTHROPIC_AUTH_TOKEN=sk-ant-oat01-lease-fake-canary-0123456789abcdefghijklmnopq`, "oauth-2025-04-20"},
		{"another token is sent", `export CLAUDE_CODE_OAUTH_TOKEN=sk-ant-oat01-fake-other`, "does not send the placeholder"},
		{"the base URL is not honoured", `export ANTHROPIC_BASE_URL=http://127.0.0.1:9`, "no inference request"},
		{"other hosts are asked", `unset CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC`, "it wants to talk to api.anthropic.com:443"},
		{"the workspace's settings are read", `exec "$REAL" -p --output-format=stream-json --verbose --permission-mode=bypassPermissions --setting-sources=project --settings='{"env":{"ANTHROPIC_BASE_URL":"'$ANTHROPIC_BASE_URL'"},"apiKeyHelper":""}'`, "it ran the workspace's session-hook"},
		{"permission is asked", `exec "$REAL" -p --output-format=stream-json --verbose --setting-sources=user --strict-mcp-config`, "Write tool did not write the file"},
		{"the event stream is another", `exec "$REAL" -p --setting-sources=user --strict-mcp-config --permission-mode=bypassPermissions`, "without a result"},
		{"the flags are unknown", `echo "error: unknown option '--strict-mcp-config'" >&2; exit 1`, "unknown option '--strict-mcp-config'"},
		{"the credential file is changed", `echo '{}' > "$CLAUDE_CONFIG_DIR/.credentials.json"; export CLAUDE_CODE_OAUTH_TOKEN=sk-ant-oat01-lease-fake-canary-0123456789abcdefghijklmnopq`, "changed the credential file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := agent.Canary(t.Context(), changed(t, c.body))
			if !errors.Is(err, hub.ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v; want ErrRefused with %q", err, c.want)
			}
			if !strings.Contains(hub.HintOf(err), "agent install") || !strings.Contains(fmt.Sprint(err), agent.TestedVersion) {
				t.Errorf("error %v with hint %q does not say what to do", err, hub.HintOf(err))
			}
		})
	}
}

func TestCanaryRefusesACLIWithoutAuthLogin(t *testing.T) {
	old := script(t, filepath.Join(t.TempDir(), "claude"), `case "$1" in --version) echo "1.0.3 (Claude Code)";; *) echo "Usage: claude [options] [command] [prompt]";; esac`)
	err := agent.Canary(t.Context(), old)
	if !errors.Is(err, hub.ErrRefused) || !strings.Contains(err.Error(), "1.0.3") || !strings.Contains(err.Error(), "auth login") {
		t.Errorf("error = %v; want ErrRefused that names the version and what is missing", err)
	}
}

func TestCanaryOfAnotherProgram(t *testing.T) {
	if err := agent.Canary(t.Context(), "/bin/true"); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("error = %v; want ErrInvalid", err)
	}
}

package agent_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
)

// hostile is what a parent may have in its environment that no CLI may see.
var hostile = []string{
	"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL", "ANTHROPIC_CUSTOM_HEADERS",
	"ANTHROPIC_UNIX_SOCKET", "ANTHROPIC_CONFIG_DIR",
	"CLAUDE_CONFIG_DIR", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_OAUTH_REFRESH_TOKEN", "CLAUDE_CODE_OAUTH_SCOPES",
	"CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_CUSTOM_OAUTH_URL", "CLAUDE_CODE_SIMPLE", "CLAUDECODE",
	"CLAUDE_HUB_DIR", "CLAUDE_SESSION_INGRESS_TOKEN_FILE",
	"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_SECRET",
	"GITHUB_TOKEN", "GH_TOKEN", "GITHUB_WEBHOOK_SECRET", "NPM_TOKEN", "npm_config_registry", "SSH_AUTH_SOCK",
	"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "DYLD_INSERT_LIBRARIES", "NODE_OPTIONS", "NODE_PATH", "NODE_TLS_REJECT_UNAUTHORIZED",
	"BUN_OPTIONS", "BUN_INSPECT", "BUN_CONFIG_VERBOSE_FETCH", "BUN_BE_BUN",
	"GIT_DIR", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_CONFIG_COUNT", "BASH_ENV", "ENV", "SHELLOPTS", "BASH_FUNC_ls%%", "PROMPT_COMMAND", "IFS",
	"HOME", "XDG_CONFIG_HOME", "EDITOR", "BROWSER", "DISPLAY", "TMPDIR", "PWD", "SSLKEYLOGFILE", "LC_API_TOKEN", "LC_", "PATHX", "path", "TERMINFO",
}

func TestEnvironLetsNothingHostilePass(t *testing.T) {
	var parent []string
	for _, name := range hostile {
		parent = append(parent, name+"=canary")
	}
	parent = append(parent, "=canary=canary", "canary", "LANG", "PATH=/usr/bin")
	for _, kv := range agent.Environ(parent, nil) {
		if strings.Contains(kv, "canary") {
			t.Errorf("%s passes", kv)
		}
	}
}

func TestEnvironPassesWhatTheCLINeeds(t *testing.T) {
	parent := []string{
		"PATH=/usr/bin:/bin", "LANG=de_DE.UTF-8", "LC_ALL=C", "LC_TIME=C", "TERM=xterm", "TZ=UTC",
		"HTTPS_PROXY=http://p:1", "https_proxy=http://p:2", "HTTP_PROXY=http://p:3", "http_proxy=http://p:4", "NO_PROXY=a", "no_proxy=b",
		"SSL_CERT_FILE=/ca", "SSL_CERT_DIR=/cas", "NODE_EXTRA_CA_CERTS=/extra",
	}
	got := agent.Environ(parent, nil)
	want := slices.Sorted(slices.Values(parent))
	if !slices.Equal(got, want) {
		t.Errorf("Environ =\n%v\nwant\n%v", got, want)
	}
}

func TestEnvironSetWins(t *testing.T) {
	got := agent.Environ([]string{"LANG=a", "LANG=b", "TERM=c"}, map[string]string{"LANG": "x", "HOME": "/h", "A=B": "bad", "NUL": "a\x00b"})
	want := []string{"HOME=/h", "LANG=x", "PATH=/usr/local/bin:/usr/bin:/bin", "TERM=c"}
	if !slices.Equal(got, want) {
		t.Errorf("Environ = %v; want %v", got, want)
	}
}

func TestEnvironOwnProxyCannotBeBypassed(t *testing.T) {
	parent := []string{"https_proxy=http://other:1", "NO_PROXY=platform.claude.com", "no_proxy=*", "ALL_PROXY=http://other:2"}
	got := agent.Environ(parent, map[string]string{"HTTPS_PROXY": "http://door:1"})
	want := []string{"HTTPS_PROXY=http://door:1", "PATH=/usr/local/bin:/usr/bin:/bin"}
	if !slices.Equal(got, want) {
		t.Errorf("Environ = %v; want %v", got, want)
	}
}

func TestEnvironDropsRelativePathEntries(t *testing.T) {
	got := agent.Environ([]string{"PATH=.:/usr/bin::bin:/bin"}, nil)
	if want := []string{"PATH=/usr/bin:/bin"}; !slices.Equal(got, want) {
		t.Errorf("Environ = %v; want %v", got, want)
	}
}

package agent_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/secret"
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

func TestRunEnvironHoldsNothingOfTheHost(t *testing.T) {
	parent := []string{"LANG=C.UTF-8", "TZ=UTC", "PATH=/host/bin", "HTTPS_PROXY=http://user:pass@proxy:1", "NO_PROXY=x", "SSL_CERT_FILE=/host/ca", "NODE_EXTRA_CA_CERTS=/host/ca"}
	for _, name := range hostile {
		parent = append(parent, name+"=canary")
	}
	got := agent.RunEnviron(parent, "/home/agent", "/usr/bin:/bin", "http://127.0.0.1:4000", map[string]string{"LANG": "fr", "X": "1"})
	want := []string{
		"ANTHROPIC_BASE_URL=http://127.0.0.1:4000", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "CLAUDE_CONFIG_DIR=/home/agent/.claude",
		"DISABLE_AUTOUPDATER=1", "HOME=/home/agent", "IS_SANDBOX=1", "LANG=fr", "PATH=/usr/bin:/bin", "TZ=UTC", "X=1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("RunEnviron =\n%v\nwant\n%v", got, want)
	}
}

func TestRunEnvironWithoutGatewayKeepsTheWayOut(t *testing.T) {
	got := agent.RunEnviron([]string{"HTTPS_PROXY=http://p:1", "NODE_EXTRA_CA_CERTS=/ca"}, "/h", "", "", nil)
	for _, want := range []string{"HTTPS_PROXY=http://p:1", "NODE_EXTRA_CA_CERTS=/ca", "PATH=/usr/local/bin:/usr/bin:/bin"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %v", want, got)
		}
	}
	if slices.ContainsFunc(got, func(kv string) bool { return strings.HasPrefix(kv, "ANTHROPIC_") }) {
		t.Errorf("a base URL in %v", got)
	}
}

func TestExecEnvironKeepsTheOwnersEnvironment(t *testing.T) {
	parent := []string{"EDITOR=vi", "AWS_PROFILE=x", "CLAUDE_CONFIG_DIR=/c", "NO_PROXY=corp", "HTTP_PROXY=http://p:1", "=x", "junk"}
	for _, name := range hostile {
		if strings.HasPrefix(name, "ANTHROPIC_") || strings.HasPrefix(name, "CLAUDE_CODE") || name == "CLAUDECODE" {
			parent = append(parent, name+"=canary")
		}
	}
	got := agent.ExecEnviron(parent, "http://127.0.0.1:4000", secret.New(fakeLease))
	want := []string{
		"ANTHROPIC_BASE_URL=http://127.0.0.1:4000", "AWS_PROFILE=x", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "CLAUDE_CODE_OAUTH_TOKEN=" + fakeLease,
		"CLAUDE_CONFIG_DIR=/c", "DISABLE_AUTOUPDATER=1", "EDITOR=vi", "HTTP_PROXY=http://p:1", "NO_PROXY=corp,127.0.0.1", "no_proxy=127.0.0.1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("ExecEnviron =\n%v\nwant\n%v", got, want)
	}
}

package agent

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/claude-hub/claude-hub/internal/secret"
)

// passed are the parent's variables that a CLI on the host may see, besides
// LC_*: what it needs to find programs, to speak the person's language, and to
// get out through a company's proxy. All else may hold a secret, outrank the
// login (ANTHROPIC_API_KEY wins over it), or run code (NODE_OPTIONS, LD_PRELOAD).
var passed = []string{"PATH", "LANG", "TERM", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"}

// proxies are passed too, as one group; see Environ. Programs read both spellings.
var proxies = []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"}

const defaultPath = "/usr/local/bin:/usr/bin:/bin"

// Environ returns the environment of a CLI process: an allow-list of parent
// (usually os.Environ()), and set, which wins. If set names any proxy variable,
// no proxy variable of the parent passes: a NO_PROXY or a lower-case twin left
// over would lead around the proxy that was set. Relative entries of PATH are
// dropped, since the CLI may run in a directory that others write. The result is
// sorted and has no variable twice.
func Environ(parent []string, set map[string]string) []string {
	env := map[string]string{}
	keepProxies := !slices.ContainsFunc(proxies, func(name string) bool { _, ok := set[name]; return ok })
	for _, kv := range parent {
		name, value, ok := strings.Cut(kv, "=")
		if ok && value != "" && (passes(name) || keepProxies && slices.Contains(proxies, name)) {
			env[name] = value
		}
	}
	env["PATH"] = absolutePath(env["PATH"])
	maps.Copy(env, set)
	return sorted(env)
}

func sorted(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for name, value := range env {
		if name != "" && !strings.ContainsAny(name, "=\x00") && !strings.Contains(value, "\x00") {
			list = append(list, name+"="+value)
		}
	}
	slices.Sort(list)
	return list
}

// RunEnviron returns the environment of a run inside a sandbox: nothing of parent
// but its language, terminal and time zone, and what the CLI needs to keep its
// files under home and its traffic at baseURL, the gateway as seen from inside.
// With an empty baseURL the CLI talks to the platform itself, and parent's
// proxies and certificates pass too. path is the sandbox's own PATH; "" is the
// usual one. extra wins over all.
//
// What the variables do was seen with CLI 2.1.330: IS_SANDBOX lets root (in a
// user namespace, everybody may be) run without permission prompts;
// CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC stops telemetry, update checks and
// feature flags, which carry the token and ignore ANTHROPIC_BASE_URL. No
// .claude.json is needed: -p asks nothing.
func RunEnviron(parent []string, home, path, baseURL string, extra map[string]string) []string {
	set := map[string]string{
		"HOME":              home,
		"CLAUDE_CONFIG_DIR": filepath.Join(home, ".claude"),
		"IS_SANDBOX":        "1",
		"PATH":              absolutePath(path),
	}
	maps.Copy(set, quiet)
	if baseURL != "" {
		set["ANTHROPIC_BASE_URL"] = baseURL
		parent = slices.DeleteFunc(slices.Clone(parent), func(kv string) bool {
			name, _, _ := strings.Cut(kv, "=")
			return slices.Contains(proxies, name) || strings.Contains(name, "_CERT") // paths of the host, and nothing to reach with them
		})
	}
	maps.Copy(set, extra)
	return Environ(parent, set)
}

// ExecEnviron returns the environment for any command of the owner's that is to
// use a lease: parent, without what would outrank the lease or redirect the CLI,
// and with the lease token and the gateway's URL. The environment variable wins
// over a credential file in the command's config directory.
func ExecEnviron(parent []string, baseURL string, leaseToken secret.Text) []string {
	env := map[string]string{}
	for _, kv := range parent {
		name, value, ok := strings.Cut(kv, "=")
		if ok && name != "" && !outranks(name) {
			env[name] = value
		}
	}
	maps.Copy(env, quiet)
	env["ANTHROPIC_BASE_URL"] = baseURL
	env["CLAUDE_CODE_OAUTH_TOKEN"] = leaseToken.Reveal()
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		env[name] = strings.TrimPrefix(env[name]+",127.0.0.1", ",") // the gateway is not behind the company's proxy
	}
	return sorted(env)
}

// quiet keeps the CLI from talking to anybody about anything but the work.
var quiet = map[string]string{
	"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
	"DISABLE_AUTOUPDATER":                      "1",
}

// outranks reports whether a variable could move a CLI's traffic or replace its
// login. CLAUDE_CONFIG_DIR and the hub's own variables cannot.
func outranks(name string) bool {
	return strings.HasPrefix(name, "ANTHROPIC_") || strings.HasPrefix(name, "CLAUDE_CODE_") || name == "CLAUDECODE"
}

func passes(name string) bool {
	category, ok := strings.CutPrefix(name, "LC_")
	return slices.Contains(passed, name) ||
		ok && category != "" && strings.Trim(category, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" // LC_TIME, not LC_API_TOKEN
}

func absolutePath(path string) string {
	dirs := slices.DeleteFunc(filepath.SplitList(path), func(dir string) bool { return !filepath.IsAbs(dir) })
	if len(dirs) == 0 {
		return defaultPath
	}
	return strings.Join(dirs, string(filepath.ListSeparator))
}

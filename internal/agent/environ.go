package agent

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
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
	list := make([]string, 0, len(env))
	for name, value := range env {
		if name != "" && !strings.ContainsAny(name, "=\x00") && !strings.Contains(value, "\x00") {
			list = append(list, name+"="+value)
		}
	}
	slices.Sort(list)
	return list
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

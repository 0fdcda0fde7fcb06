package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// canaryPatience bounds the whole check. The tested version takes 1 to 2 s.
const canaryPatience = 90 * time.Second

const (
	canaryToken = "sk-ant-oat01-lease-fake-canary-0123456789abcdefghijklmnopq"
	canaryFile  = "canary.txt"
	canaryWords = "the canary sings"
	oauthBeta   = "oauth-2025-04-20"
)

// Canary proves that the CLI at path still does what the hub builds on, against
// a stand-in on loopback; it needs no network. It runs the CLI as a run in a
// sandbox would be, in a workspace with a hostile configuration, and checks that:
//
//  1. `auth login` exists and signs in subscriptions;
//  2. with a [Placeholder] and ANTHROPIC_BASE_URL, inference requests carry the
//     placeholder as bearer token, the OAuth beta header and no API key;
//  3. nothing else is asked of anybody: no other host, no refresh;
//  4. the workspace's hooks, environment, key helper and MCP servers do not run;
//  5. tools work without a permission prompt, and the event stream and its result
//     are understood.
//
// The error is a hub.ErrRefused that names all that differs.
func Canary(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, canaryPatience)
	defer cancel()
	version, err := Version(ctx, path)
	if err != nil {
		return err
	}
	help, err := ask(ctx, path, "auth", "login", "--help")
	if err != nil || !bytes.Contains(help, []byte("claude auth login")) || !bytes.Contains(help, []byte("--claudeai")) {
		return canaryError(version, errors.New("it has no `auth login --claudeai`, which signs in and refreshes"))
	}
	dir, err := os.MkdirTemp("", "claude-hub-canary-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	return canaryError(version, canaryRun(ctx, path, dir))
}

// canaryError is nil if err is.
func canaryError(version string, err error) error {
	if err == nil {
		return nil
	}
	return hub.Hint(fmt.Errorf("%w: this version of the claude CLI (%s) behaves differently from the tested one (%s): %w", hub.ErrRefused, version, TestedVersion, err), hintOther)
}

func canaryRun(ctx context.Context, path, dir string) error {
	home, work := filepath.Join(dir, "home"), filepath.Join(dir, "work")
	like := Credentials{Subscription: "max", RateLimitTier: "default_claude_max_20x"}
	file, err := Placeholder(secret.New(canaryToken), like, time.Now().Add(time.Hour)).Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(CredentialPath(home)), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(CredentialPath(home), file, 0o600); err != nil {
		return err
	}
	if err := setTraps(work, filepath.Join(dir, "sprung")); err != nil {
		return err
	}
	stub, err := startStub(filepath.Join(work, canaryFile))
	if err != nil {
		return err
	}
	defer stub.close()
	proxy := map[string]string{"HTTPS_PROXY": stub.url, "HTTP_PROXY": stub.url, "NO_PROXY": strings.TrimPrefix(stub.url, "http://")}
	inv := Invocation{Prompt: "Sing."}
	out, exit, err := run(ctx, process{
		args:  append([]string{path}, inv.Args()...),
		env:   RunEnviron(os.Environ(), home, os.Getenv("PATH"), stub.url, proxy),
		dir:   work,
		stdin: inv.Stdin(),
	})
	stub.close()
	if err != nil {
		return err
	}
	after, _ := os.ReadFile(CredentialPath(home))
	return errors.Join(
		stub.differences(),
		checkCanaryEvents(out, exit),
		unless(bytes.Equal(after, file), "it changed the credential file"),
		checkTraps(filepath.Join(dir, "sprung")),
		checkCanaryFile(filepath.Join(work, canaryFile)),
	)
}

func checkCanaryEvents(out []byte, exit int) error {
	var result *Result
	var last error
	for line := range bytes.Lines(out) {
		event, err := ParseEvent(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			last = err
			continue
		}
		if event.Init != nil && event.Init.APIKeySource != "none" {
			last = fmt.Errorf("it takes an API key from %q", clip(event.Init.APIKeySource, 40))
		}
		if event.Result != nil {
			result = event.Result
		}
	}
	switch {
	case result == nil:
		return fmt.Errorf("it exited with %d and without a result: %s", exit, tail(out))
	case exit != 0 || result.IsError || result.Text != canaryWords:
		return fmt.Errorf("it exited with %d and the result %q", exit, clip(result.Text, 200))
	}
	return last
}

// setTraps makes a workspace that tries what repositories have tried: hooks, a
// moved base URL, a key helper, MCP servers. What runs leaves a file in sprung.
func setTraps(work, sprung string) error {
	for _, dir := range []string{filepath.Join(work, ".claude"), sprung} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	touch := func(name string) string { return "touch " + filepath.Join(sprung, name) }
	hook := func(name string) any {
		return []any{map[string]any{"hooks": []any{map[string]any{"type": "command", "command": touch(name)}}}}
	}
	settings := mustMarshal(map[string]any{
		"env":          map[string]string{"ANTHROPIC_BASE_URL": nowhere},
		"apiKeyHelper": touch("helper") + "; echo sk-ant-api03-fake",
		"hooks":        map[string]any{"SessionStart": hook("session-hook"), "PreToolUse": hook("tool-hook"), "Stop": hook("stop-hook")},
	})
	servers := mustMarshal(map[string]any{"mcpServers": map[string]any{"trap": map[string]any{"command": "touch", "args": []string{filepath.Join(sprung, "mcp")}}}})
	for name, content := range map[string][]byte{
		".claude/settings.json":       settings,
		".claude/settings.local.json": settings,
		".mcp.json":                   servers,
	} {
		if err := os.WriteFile(filepath.Join(work, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func checkTraps(sprung string) error {
	entries, err := os.ReadDir(sprung)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, fmt.Errorf("it ran the workspace's %s", e.Name()))
	}
	return errors.Join(errs...)
}

func checkCanaryFile(path string) error {
	b, _ := os.ReadFile(path)
	return unless(string(b) == canaryWords, "its Write tool did not write the file")
}

func unless(ok bool, difference string) error {
	if ok {
		return nil
	}
	return errors.New(difference)
}

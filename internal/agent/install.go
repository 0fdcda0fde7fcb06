package agent

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// pin is the lock file that names the tested version and the hash of each of
// its packages; npm refuses what does not match.
//
//go:embed cli/package.json cli/package-lock.json
var pin embed.FS

// npmPatience bounds an install. It takes 15 s on a good line, for 364 MB.
const npmPatience = 30 * time.Minute

// Install fetches the tested version with npm into the hub's directory dir,
// which must exist, and returns its path. npm's output goes to progress, which may be
// nil. What is installed already stays as it is. An interrupted install leaves
// nothing that [Find] would take: the version appears by one rename, when it has
// proved to start. Installs on one directory wait for each other.
func Install(ctx context.Context, dir string, progress io.Writer) (path string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if isProgram(installed(dir)) {
		return installed(dir), nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", hub.Hint(fmt.Errorf("%w: npm is not installed", hub.ErrNotFound),
			"install Node.js with npm (Debian: sudo apt-get install npm), or install the claude CLI yourself and have it in PATH")
	}
	parent := filepath.Join(dir, "agent")
	if err := os.Mkdir(parent, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("installing the claude CLI: %w", err)
	}
	lock := flock.New(filepath.Join(parent, ".lock"))
	if _, err := lock.TryLockContext(ctx, lockPoll); err != nil {
		return "", fmt.Errorf("waiting for another install: %w", err)
	}
	defer lock.Unlock()
	if isProgram(installed(dir)) { // the one that we waited for has done it
		return installed(dir), nil
	}
	if err := install(ctx, npm, parent, progress); err != nil {
		return "", fmt.Errorf("installing the claude CLI: %w", err)
	}
	return installed(dir), nil
}

const lockPoll = 100 * time.Millisecond

// install does the work, under the lock.
func install(ctx context.Context, npm, parent string, progress io.Writer) error {
	final := filepath.Join(parent, TestedVersion)
	tmp := final + ".tmp"
	for _, leftover := range []string{tmp, final} { // of a killed install, or a damaged one
		if err := os.RemoveAll(leftover); err != nil {
			return err
		}
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := pin.ReadFile("cli/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tmp, name), b, 0o600); err != nil {
			return err
		}
	}
	if err := npmCI(ctx, npm, tmp, progress); err != nil {
		return err
	}
	version, err := Version(ctx, filepath.Join(tmp, "node_modules", ".bin", "claude"))
	if err != nil {
		return err
	}
	if version != TestedVersion {
		return fmt.Errorf("%w: npm brought version %s, not %s", hub.ErrInvalid, version, TestedVersion)
	}
	return os.Rename(tmp, final)
}

func npmCI(ctx context.Context, npm, dir string, progress io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, npmPatience)
	defer cancel()
	out, exit, err := run(ctx, process{
		args: []string{npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"},
		env:  npmEnviron(os.Environ()),
		dir:  dir,
		tee:  progress,
	})
	if err != nil {
		return fmt.Errorf("npm: %w", err)
	}
	if exit != 0 {
		return hub.Hint(fmt.Errorf("npm exited with %d: %s", exit, tail(out)), "npm's words are above; a company's proxy or registry is set in npm's own configuration")
	}
	return nil
}

// npmEnviron is Environ, and what leads npm to a person's own configuration: it
// may name the registry and hold the key to it.
func npmEnviron(parent []string) []string {
	set := map[string]string{}
	for _, kv := range parent {
		name, value, _ := strings.Cut(kv, "=")
		if name == "HOME" || strings.HasPrefix(strings.ToLower(name), "npm_config_") {
			set[name] = value
		}
	}
	return Environ(parent, set)
}

// tail returns the last lines of a program's output in one line for an error.
func tail(out []byte) string {
	const lines, size = 6, 1000
	out = bytes.TrimSpace(secret.Scrub(stripANSI(out)))
	out = out[max(0, len(out)-size):]
	last := strings.Split(strings.ToValidUTF8(string(out), ""), "\n")
	last = last[max(0, len(last)-lines):]
	for i := range last {
		last[i] = firstLine([]byte(last[i]))
	}
	return strings.Join(last, " | ")
}

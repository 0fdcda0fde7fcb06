package login

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// secondWriter is what the owner must know of a login that was copied. Signing
// out in the other place is no way out: the CLI then revokes the login at the
// platform, for everybody.
const secondWriter = "A copied login has two writers: as soon as the CLI refreshes it at its old place, the copy in the hub is dead (and the other way round). " +
	"Delete the credential file there (%s) and don't use it again, but don't sign out there: that would revoke this login too. " +
	"Better: run `claude-hub login` for a login of the hub's own."

// ownFiles are the hub's own names in its directory, which the older project
// used for a plain copy of the config directory. They are not the CLI's.
var ownFiles = []string{
	"config.yaml", "key", "vault", "hub.db", "hub.db-wal", "hub.db-shm", "refresh", "mirrors",
	"runs", "hub.sock", "login", "agent", "agent.json", "serve.lock",
}

// Import adopts a login that the CLI has made before: dir is its config
// directory, or the home that holds one, or a plain copy of it such as the older
// project kept. The credential file must be this user's alone. The login is
// copied and not moved, so that Result.Warnings always tells of the second
// writer.
func (l *Login) Import(ctx context.Context, profile hub.Profile, dir string) (Result, error) {
	c, err := findConfig(dir)
	if err != nil {
		return Result{}, err
	}
	path := filepath.Join(c.dir, agent.CredentialFile)
	if c.content, err = agent.ReadCredentialFile(path); err != nil {
		return Result{}, fmt.Errorf("importing %s: %w", dir, err)
	}
	if c.creds, err = agent.ParseCredentials(c.content); err != nil {
		return Result{}, fmt.Errorf("importing %s: %w", path, err)
	}
	if err := l.usable(path, c.creds); err != nil {
		return Result{}, err
	}
	if ctx.Err() != nil {
		return Result{}, cancelled(ctx)
	}
	if err := l.ready(ctx, profile); err != nil {
		return Result{}, err
	}
	result, err := l.capture(ctx, profile, c)
	if err != nil {
		return Result{}, err
	}
	result.Warnings = append(result.Warnings, fmt.Sprintf(secondWriter, path))
	if c.creds.LoginExpiresAt.IsZero() {
		result.Warnings = append(result.Warnings, "The file does not say when this login ends. The platform ends every login 30 days after its sign-in.")
	}
	return result, nil
}

// usable refuses a login that the hub could not keep.
func (l *Login) usable(path string, c agent.Credentials) error {
	const signIn = "sign in with `claude-hub login` instead"
	if c.RefreshToken.IsZero() {
		return hub.Hint(fmt.Errorf("%w: the login in %s has no refresh token, so it would end with its access token", hub.ErrInvalid, path), signIn)
	}
	if now := l.cfg.Now(); !c.LoginExpiresAt.IsZero() && !now.Before(c.LoginExpiresAt) {
		return hub.Hint(fmt.Errorf("%w: the login in %s ended on %s", hub.ErrLoginRequired, path, c.LoginExpiresAt.Format("2 January 2006")), signIn)
	}
	return nil
}

// findConfig finds the config directory in dir, and the global file that belongs
// to it: inside when CLAUDE_CONFIG_DIR was set, beside it otherwise.
func findConfig(dir string) (captured, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return captured{}, notThere(dir, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return captured{}, notThere(dir, err)
	}
	if !info.IsDir() {
		return captured{}, hub.Hint(fmt.Errorf("%w: %s is not a directory", hub.ErrInvalid, dir), notADirectory(dir))
	}
	config := real
	if !exists(filepath.Join(real, agent.CredentialFile)) && exists(filepath.Join(real, ".claude", agent.CredentialFile)) {
		config = filepath.Join(real, ".claude")
	}
	c := captured{dir: config}
	if beside := filepath.Join(filepath.Dir(config), agent.GlobalFile); filepath.Base(config) == ".claude" && isFile(beside) && !exists(filepath.Join(config, agent.GlobalFile)) {
		c.extra = map[string]string{agent.GlobalFile: beside}
	}
	if isHub(config) {
		c.exclude = ownFiles
	}
	return c, nil
}

func notThere(dir string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %s", hub.ErrNotFound, dir)
	}
	return hub.Hint(fmt.Errorf("importing: %w", err), "name the directory that the CLI was signed in with, such as ~/.claude")
}

func notADirectory(path string) string {
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip"} {
		if strings.HasSuffix(strings.ToLower(path), suffix) {
			return "unpack the archive into a directory of mode 0700 and import that"
		}
	}
	return "name the directory, not a file in it"
}

// DetectOld reports whether dir holds a plain copy of the CLI's config directory
// with a login in it, as the older project kept at ~/.claude-hub.
func DetectOld(dir string) bool {
	return isFile(filepath.Join(dir, agent.CredentialFile))
}

// isHub reports whether dir is a hub's own directory too.
func isHub(dir string) bool {
	return exists(filepath.Join(dir, "key")) && exists(filepath.Join(dir, "vault"))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func isFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

var capturedCheck = check{
	name: "captured logins", group: groupLogin,
	looks: []Entry{
		{ID: "credential-empty", Level: LevelError, Meaning: "a captured credential file is empty or blanked, or holds no login; also where the vault's own login is so"},
		{ID: "credential-missing", Level: LevelError, Meaning: "a captured directory has no credential file"},
		{ID: "credential-expired", Level: LevelError, Meaning: "a captured access token has expired: a copy that nobody refreshes"},
		{ID: "credential-plain", Level: LevelWarning, Meaning: "a plain copy of a login lies in the hub's directory, as an older claude-hub left it"},
		{ID: "credential-unreadable", Level: LevelError, Fixable: true, Meaning: "a captured credential file has the wrong owner or permissions"},
		{ID: "stale-lock", Level: LevelWarning, Fixable: true, Meaning: "a CLI that was killed has left its lock in a captured directory: the next one waits for it"},
	},
	run: lookAtCaptured,
}

// lookAtCaptured looks at the directories that the owner names, and at the hub's
// own, where an older claude-hub kept the captured directory.
func lookAtCaptured(_ context.Context, p *patient) []Finding {
	var found []Finding
	if path := p.path(agent.CredentialFile); exists(path) {
		found = append(found, p.plain(path)...)
		found = append(found, p.staleLocks(p.Dir)...)
	}
	for _, dir := range p.Look {
		found = append(found, p.captured(dir)...)
	}
	return found
}

// plain is the copy in the hub's directory.
func (p *patient) plain(path string) []Finding {
	found := p.credential(p.Dir)
	for _, f := range found {
		if f.ID == "credential-empty" {
			return found
		}
	}
	return append(found, Finding{
		ID: "credential-plain", Level: LevelWarning,
		Symptom: fmt.Sprintf("there is a plain copy of a login at %s", path),
		Cause:   "an older claude-hub kept the captured directory there; whoever uses that copy kills the login for all others at the next refresh",
		Fix:     fmt.Sprintf("`claude-hub import %s`, and then remove %s", quote(p.Dir), quote(path)),
	})
}

// captured is a directory that the owner names.
func (p *patient) captured(dir string) []Finding {
	path := filepath.Join(dir, agent.CredentialFile)
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		return []Finding{{
			ID: "wrong-mount", Level: LevelError,
			Symptom: fmt.Sprintf("%s is a directory", path),
			Cause:   "a container engine makes a directory of a file that it was to mount and could not find",
			Fix:     fmt.Sprintf("remove it, and mount the captured directory itself: `-v CAPTURED_DIR:%s:ro`", dir),
		}}
	}
	if !exists(path) {
		return []Finding{p.absent(dir)}
	}
	return append(p.credential(dir), p.staleLocks(dir)...)
}

// absent says why there is no credential file: the seed's "files not found in the
// container".
func (p *patient) absent(dir string) Finding {
	f := Finding{ID: "credential-missing", Level: LevelError,
		Symptom: fmt.Sprintf("there is no %s in %s", agent.CredentialFile, dir),
		Cause:   "the sign-in was not completed, or this is not the captured directory",
		Fix:     "`claude-hub login` signs in and needs no captured directory",
	}
	below := filepath.Join(dir, ".claude", agent.CredentialFile)
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Symptom = fmt.Sprintf("there is no directory %s", dir)
		f.Cause = "the path is mistyped, or nothing is mounted there"
		f.Fix = "name the directory that was captured, such as ~/.claude; in a container compare the right side of its mount with this path"
	case exists(below):
		f.ID = "wrong-mount"
		f.Cause = "the mount is one level off: the login is in " + filepath.Dir(below)
		f.Fix = fmt.Sprintf("name that directory, or mount it: `-v %s:…`", quote(filepath.Dir(below)))
	case err == nil && len(entries) == 0:
		f.ID = "wrong-mount"
		f.Symptom = fmt.Sprintf("%s is empty", dir)
		f.Cause = "its mount names a source that is not there: the engine then makes an empty directory of it"
		f.Fix = "compare the left side of the mount with the path of the captured directory on the host"
	}
	return f
}

// credential looks at the file in dir.
func (p *patient) credential(dir string) []Finding {
	path := filepath.Join(dir, agent.CredentialFile)
	b, err := agent.ReadCredentialFile(path)
	if f, ok := p.unreadable(path, err); ok {
		return []Finding{f}
	}
	var c agent.Credentials
	if err == nil {
		c, err = agent.ParseCredentials(b)
	}
	if err != nil {
		return []Finding{{
			ID: "credential-empty", Level: LevelError,
			Symptom: fmt.Sprintf("%s holds no login: %v", path, err),
			Cause:   "the sign-in was not completed; or a refresh was refused, because another copy of this login had rotated it, and the CLI blanked its tokens",
			Fix:     "`claude-hub login`: the hub keeps the login itself, and no copy can spend it",
		}}
	}
	return p.expired(path, c)
}

func (p *patient) expired(path string, c agent.Credentials) []Finding {
	now := p.Now()
	f := Finding{Level: LevelError, Fix: "`claude-hub login`"}
	switch {
	case !c.LoginExpiresAt.IsZero() && !now.Before(c.LoginExpiresAt):
		f.ID = "login-expired"
		f.Symptom = fmt.Sprintf("the captured login in %s has ended on %s", path, day(c.LoginExpiresAt))
		f.Cause = "the provider ends a login 30 days after its sign-in"
	case !now.Before(c.ExpiresAt):
		f.ID = "credential-expired"
		f.Symptom = fmt.Sprintf("the access token in %s has expired on %s (the CLI then says \"Invalid API key\" or \"401\")", path, day(c.ExpiresAt))
		f.Cause = "access tokens live some hours, and nothing refreshes a copy; a run on a copy that does refresh throws the new pair away with it"
		if !c.RefreshToken.IsZero() {
			f.Fix = fmt.Sprintf("`claude-hub import %s` takes it over and keeps it fresh; if its refresh token was used by another copy, `claude-hub login`", quote(filepath.Dir(path)))
		}
	default:
		return nil
	}
	return []Finding{f}
}

// unreadable is about owner and mode: the seed's "permission denied". Whoever owns
// the file can close it to others; giving it away takes root.
func (p *patient) unreadable(path string, err error) (Finding, bool) {
	info, serr := os.Lstat(path)
	if err == nil || serr != nil || errors.Is(err, hub.ErrTooLarge) {
		return Finding{}, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return Finding{}, false
	}
	foreign, open := int(stat.Uid) != os.Geteuid(), info.Mode().Perm()&0o077 != 0 || info.Mode().Perm()&0o400 == 0
	if !foreign && !open {
		return Finding{}, false
	}
	dir := filepath.Dir(path)
	f := Finding{
		ID: "credential-unreadable", Level: LevelError,
		Symptom: fmt.Sprintf("%s can't be used: %v", path, err),
		Cause:   fmt.Sprintf("its mode is %04o, where it should be 0600", info.Mode().Perm()),
		Fix:     fmt.Sprintf("chmod 0600 %s", quote(path)),
	}
	if foreign {
		f.Cause = fmt.Sprintf("it belongs to user %d and this is user %d: a container's user has another number than the one who captured it", stat.Uid, os.Geteuid())
		f.Fix = fmt.Sprintf("work as that user (`sudo -u '#%d' claude-hub import %s`); only if nobody uses it as that user any more: sudo chown %d:%d %s",
			stat.Uid, quote(dir), os.Geteuid(), os.Getegid(), quote(path))
	}
	if (!foreign || os.Geteuid() == 0) && mayMend(dir) {
		f.repair = func(context.Context) (string, error) { return makePrivate(dir) }
	}
	return f, true
}

// makePrivate gives the credential file in a directory of this user's to this user
// alone.
func makePrivate(dir string) (string, error) {
	root, err := openOwnDir(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	f, info, err := mark(root, agent.CredentialFile)
	if err != nil {
		return "", err
	}
	defer f.Close()
	path := filepath.Join(dir, agent.CredentialFile)
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%w: %s is not a regular file", hub.ErrRefused, path)
	}
	if ownerOf(info) != os.Geteuid() {
		if err := os.Chown(through(f), os.Geteuid(), os.Getegid()); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(through(f), 0o600); err != nil {
		return "", err
	}
	return fmt.Sprintf("made %s readable for user %d alone", path, os.Geteuid()), nil
}

// cliLocks are the locks of the CLI (2.1.330) in its config directory, each a
// directory whose time its holder renews every 5 s. The CLI takes them for stale
// after 15 to 60 s, some versions never did.
var cliLocks = []string{".oauth_refresh.lock", ".storage-write.lock", ".credentials.json.lock", ".claude.json.lock"}

// lockStale is well after the last sign of life of a holder.
const lockStale = 2 * time.Minute

func (p *patient) staleLocks(dir string) []Finding {
	names := []string{filepath.Clean(dir) + ".lock"} // an older place of the refresh lock
	for _, name := range cliLocks {
		names = append(names, filepath.Join(dir, name))
	}
	var found []Finding
	for _, path := range names {
		info, err := os.Lstat(path)
		if err != nil || p.Now().Sub(info.ModTime()) < lockStale || info.Mode()&fs.ModeSymlink != 0 {
			continue
		}
		f := Finding{
			ID: "stale-lock", Level: LevelWarning,
			Symptom: fmt.Sprintf("a lock of the CLI at %s was left %s ago", path, days(p.Now().Sub(info.ModTime()))),
			Cause:   "a CLI was killed while it refreshed or wrote; the next one waits for it, and may give up with \"another process is refreshing\"",
			Fix:     fmt.Sprintf("while no claude runs on that directory: rm -rf %s", quote(path)),
		}
		if owner := ownerOf(info); owner != os.Geteuid() {
			f.Cause += fmt.Sprintf("; it belongs to user %d, and so it is for that user to remove", owner)
		} else if mayMend(filepath.Dir(path)) {
			f.repair = func(context.Context) (string, error) { return p.removeLock(path) }
		}
		found = append(found, f)
	}
	return found
}

// maxLockFiles is more than what is in a lock.
const maxLockFiles = 4

// removeLock removes a lock of this user's, in a directory of this user's, if it is
// still stale, and holds nothing but what a lock holds: a file, or a directory with
// plain files in it.
func (p *patient) removeLock(path string) (string, error) {
	root, err := openOwnDir(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	defer root.Close()
	name := filepath.Base(path)
	lock, info, err := mark(root, name)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	switch {
	case ownerOf(info) != os.Geteuid():
		return "", fmt.Errorf("%w: %s belongs to user %d", hub.ErrRefused, path, ownerOf(info))
	case p.Now().Sub(info.ModTime()) < lockStale:
		return "", fmt.Errorf("%w: somebody holds %s now", hub.ErrLocked, path)
	case info.IsDir():
		if err := emptyLock(path, lock); err != nil {
			return "", err
		}
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%w: %s is no lock", hub.ErrRefused, path)
	}
	if now, err := root.Lstat(name); err != nil || !os.SameFile(info, now) {
		return "", fmt.Errorf("%w: somebody has replaced %s", hub.ErrLocked, path)
	}
	return "removed " + path, root.Remove(name)
}

// emptyLock removes the files in the lock that is open, and in no other directory.
func emptyLock(path string, lock *os.File) error {
	inside, err := os.OpenRoot(through(lock))
	if err != nil {
		return err
	}
	defer inside.Close()
	entries, err := fs.ReadDir(inside.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := inside.Lstat(e.Name())
		if err != nil || len(entries) > maxLockFiles || !info.Mode().IsRegular() || ownerOf(info) != os.Geteuid() {
			return fmt.Errorf("%w: %s holds more than a lock does", hub.ErrRefused, path)
		}
	}
	for _, e := range entries {
		if err := inside.Remove(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

package login

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// scratch is a private directory with the home of one CLI process. It may come to
// hold a login, so it is locked by whoever works in it: the kernel frees the lock
// with its process, and what is found unlocked is a dead sign-in's, to be
// removed.
type scratch struct {
	dir  string
	lock *os.File // of dir itself
}

const (
	scratchPrefix = "signin-"
	profileSuffix = ".lock" // of the files that keep a second sign-in to a profile out
)

// newScratch makes a fresh home below parent.
func newScratch(ctx context.Context, parent string) (*scratch, error) {
	guard, err := lockParent(ctx, parent)
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	dir, err := os.MkdirTemp(parent, scratchPrefix+"*") // 0700
	if err != nil {
		return nil, fmt.Errorf("making a scratch home: %w", err)
	}
	s := &scratch{dir: dir}
	if s.lock, err = lockNow(dir); err == nil {
		err = os.MkdirAll(s.config(), 0o700)
	}
	if err != nil {
		s.remove()
		return nil, fmt.Errorf("making a scratch home: %w", err)
	}
	return s, nil
}

// home is the CLI's home. Nothing of ours is in it.
func (s *scratch) home() string { return filepath.Join(s.dir, "home") }

// config is the CLI's config directory within the home. The CLI keeps everything
// there, .claude.json too.
func (s *scratch) config() string { return filepath.Dir(agent.CredentialPath(s.home())) }

// maxSocketPath is what the kernel takes for a unix socket's address.
const maxSocketPath = 107

// socket returns the path of a socket beside the home: the one for whoever is to
// be told, and one that is short enough to listen on.
func (s *scratch) socket() (path, listen string) {
	path = filepath.Join(s.dir, "door.sock")
	if len(path) > maxSocketPath {
		return path, fmt.Sprintf("/proc/self/fd/%d/door.sock", s.lock.Fd())
	}
	return path, path
}

// credentials returns the credential file if the CLI has written all of it. The
// CLI first writes "{}" and then, in one rename, the login.
func (s *scratch) credentials() ([]byte, agent.Credentials, error) {
	// What was in the place may have put a link there, to a login of this machine's
	// that it could not read itself.
	info, err := os.Lstat(s.config())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, agent.Credentials{}, fmt.Errorf("looking at the config directory: %w", err)
	}
	if err == nil && !info.IsDir() {
		err := fmt.Errorf("%w: the CLI's config directory is a %s now", hub.ErrInvalid, info.Mode().Type())
		return nil, agent.Credentials{}, hub.Hint(err, "start again with `claude-hub login`")
	}
	b, err := agent.ReadCredentialFile(agent.CredentialPath(s.home()))
	if err != nil {
		return nil, agent.Credentials{}, err
	}
	c, err := agent.ParseCredentials(b)
	if err == nil && c.RefreshToken.IsZero() {
		err = hub.Hint(fmt.Errorf("%w: the login has no refresh token, so it cannot be kept", hub.ErrInvalid), "sign in again with `claude-hub login`")
	}
	return b, c, err
}

// remove deletes the home. What can't be deleted now, because a process of the
// CLI is still dying in it, the next sweep takes.
func (s *scratch) remove() {
	os.RemoveAll(s.dir)
	if s.lock != nil {
		s.lock.Close()
	}
}

// sweep removes the homes below parent that nobody works in, and the locks that
// nobody holds.
func sweep(ctx context.Context, parent string) error {
	guard, err := lockParent(ctx, parent)
	if err != nil {
		return err
	}
	defer guard.Close()
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("sweeping scratch homes: %w", err)
	}
	var errs []error
	for _, e := range entries {
		ours := e.IsDir() && strings.HasPrefix(e.Name(), scratchPrefix) || e.Type().IsRegular() && strings.HasSuffix(e.Name(), profileSuffix)
		if !ours {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		lock, err := lockNow(dir)
		if errors.Is(err, hub.ErrLocked) {
			continue
		}
		if err == nil {
			err = os.RemoveAll(dir)
			lock.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lockProfile keeps every other sign-in to the profile out, of any process, until
// unlock or the end of this process. hub.ErrLocked if there is one.
func lockProfile(ctx context.Context, parent string, profile hub.ProfileID) (unlock func(), err error) {
	guard, err := lockParent(ctx, parent)
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	path := filepath.Join(parent, string(profile)+profileSuffix)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		// Under the guard: nobody may take the lock of a file that is gone.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if guard, err := lockParent(ctx, parent); err == nil {
			defer guard.Close()
			os.Remove(path) // if it stays, the next sweep takes it
		}
		f.Close()
	}, nil
}

// lockParent makes parent if need be, private, and locks it for the short time
// of making or sweeping homes: a sweep must not see a home before its lock.
func lockParent(ctx context.Context, parent string) (*os.File, error) {
	if err := privateDir(parent); err != nil {
		return nil, err
	}
	return lockWait(ctx, parent, func() {})
}

// privateDir makes dir, or insists that it is ours and closes it to others.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() {
		err := fmt.Errorf("%w: %s is not a directory of this user", hub.ErrInvalid, dir)
		return hub.Hint(err, "move it away, or run as the user that it belongs to")
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return os.Chmod(dir, 0o700)
}

// lockNow locks a file or directory, or returns hub.ErrLocked. Closing the
// file, or the end of the process, frees it.
func lockNow(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func flock(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var lockErr error
	if err := raw.Control(func(fd uintptr) { lockErr = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return err
	}
	if errors.Is(lockErr, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: %s", hub.ErrLocked, f.Name())
	}
	return lockErr
}

// lockPoll is how often a lock that is held is tried again.
const lockPoll = 20 * time.Millisecond

// lockWait is lockNow that waits as long as ctx lets it, and says so once.
func lockWait(ctx context.Context, path string, waiting func()) (*os.File, error) {
	f, err := lockNow(path)
	if !errors.Is(err, hub.ErrLocked) {
		return f, err
	}
	waiting()
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		case <-tick.C:
		}
		if f, err = lockNow(path); !errors.Is(err, hub.ErrLocked) {
			return f, err
		}
	}
}

// lockFile is lockWait on a file that is made if it is not there.
func lockFile(ctx context.Context, path string, waiting func()) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	f.Close()
	return lockWait(ctx, path, waiting)
}

package refresh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// place is a profile's directory, <hub>/refresh/<profile>:
//
//	lock            held, by flock(2), by whoever is at work on the profile's tokens
//	status.json     what is known about the current generation; see state
//	helper.log      what the helpers did, scrubbed
//	attempt-<id>/   a refresh that is under way or was interrupted; see attempt
//	kept-<id>/      an answer that could not be committed, for a person to look at
type place struct{ dir string }

func placeOf(hubDir string, id hub.ProfileID) place {
	return place{filepath.Join(hubDir, "refresh", string(id))}
}

func (p place) lock() string   { return filepath.Join(p.dir, "lock") }
func (p place) status() string { return filepath.Join(p.dir, "status.json") }
func (p place) log() string    { return filepath.Join(p.dir, "helper.log") }

// checkProfileID refuses what can't be a directory's name of ours.
func checkProfileID(id hub.ProfileID) error {
	rest, ok := strings.CutPrefix(string(id), "p-")
	if !ok || rest == "" || len(rest) > 64 || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return fmt.Errorf("%w: %q is not a profile ID", hub.ErrInvalid, string(id))
	}
	return nil
}

// make creates the directory, durably. The hub's own directory must exist.
func (p place) make() error {
	for _, dir := range []string{filepath.Dir(p.dir), p.dir} {
		err := os.Mkdir(dir, 0o700)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("making the refresh directory: %w", err)
		}
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// leftovers reports whether an interrupted refresh waits to be finished.
func (p place) leftovers() bool {
	ids, err := p.attempts()
	return err == nil && len(ids) > 0
}

// attempts returns the paths of the attempts, in no particular order.
func (p place) attempts() ([]string, error) { return p.withPrefix(attemptPrefix) }

func (p place) withPrefix(prefix string) ([]string, error) {
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for interrupted refreshes: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), prefix) {
			paths = append(paths, filepath.Join(p.dir, e.Name()))
		}
	}
	return paths, nil
}

// takeLock waits for the kernel lock on path until ctx ends. The lock lasts until
// every copy of the returned file is closed, the copies that child processes
// inherited included; the kernel closes them whatever becomes of a process.
func takeLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		select { // flock(2) itself can't be given a deadline
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("%w: a refresh is under way: %w", hub.ErrLocked, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// locked reports whether somebody is at work on the profile's tokens.
func (p place) locked() bool {
	f, err := os.OpenFile(p.lock(), os.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// writeDurably replaces path: temporary file, fsync, rename, fsync of the
// directory. When it returns nil, the new content outlives a power cut; when not,
// the old one may still be there.
func writeDurably(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // made 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}

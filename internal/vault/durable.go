package vault

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// tempPrefix starts the name of a file that is being written. No key starts so.
const tempPrefix = ".tmp-"

// disk makes files and directories that survive a loss of power. The hook is for
// tests: it is called before and after each step, and its error is the step's.
type disk struct {
	hook func(when, step, path string) error
}

func (d disk) step(name, path string, do func() error) error {
	if d.hook == nil {
		return do()
	}
	if err := d.hook("before", name, path); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return d.hook("after", name, path)
}

// create makes the file path, mode 0600, with data, if nothing is there; else
// fs.ErrExist. The order is what makes it whole and durable:
//
//  1. create a temporary file in the same directory, since link(2) does not
//     cross file systems; hold its kernel lock, so that sweep knows that its
//     writer lives;
//  2. write;
//  3. fsync the file, before it has its name: a name must never lead to bytes
//     that a loss of power can take away;
//  4. link(2) it to its name. Unlike rename(2) this fails if the name is taken,
//     so that of many writers one wins;
//  5. unlink the temporary name;
//  6. fsync the directory, which makes the name itself durable. Before this the
//     caller may not act on the file.
//
// An error of steps 5 and 6 leaves the file in its place; calling create again
// does step 6 and returns fs.ErrExist.
func (d disk) create(path string, data []byte) error {
	if _, err := os.Lstat(path); err == nil { // first, because a full disk could not tell
		return d.taken(path)
	}
	temp, err := d.temp(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer temp.Close()
	linked := false
	defer func() {
		if !linked {
			os.Remove(temp.Name())
		}
	}()
	if err := d.step("write", temp.Name(), func() error { _, err := temp.Write(data); return err }); err != nil {
		return err
	}
	if err := d.step("sync", temp.Name(), temp.Sync); err != nil {
		return err
	}
	err = d.step("link", path, func() error { return os.Link(temp.Name(), path) })
	if errors.Is(err, fs.ErrExist) {
		return d.taken(path)
	}
	if err != nil {
		return err
	}
	err = d.step("unlink", temp.Name(), func() error { return os.Remove(temp.Name()) })
	linked = err == nil
	return cmp.Or(d.syncDir(filepath.Dir(path)), err)
}

// taken returns fs.ErrExist once the name that is there is durable: whoever lost
// to it goes on with it.
func (d disk) taken(path string) error {
	if err := d.syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, fs.ErrExist)
}

// temp makes a temporary file and locks it. If sweep came between the two, the
// file has lost its name, and another is made.
func (d disk) temp(dir string) (*os.File, error) {
	for {
		path := filepath.Join(dir, tempPrefix+strings.ToLower(rand.Text()))
		var f *os.File
		err := d.step("create", path, func() (err error) {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
			return err
		})
		if err != nil {
			if f != nil {
				f.Close()
				os.Remove(path)
			}
			return nil, err
		}
		if err := cmp.Or(syscall.Flock(int(f.Fd()), syscall.LOCK_EX), f.Chmod(0o600)); err != nil {
			f.Close()
			os.Remove(path)
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		info, err := f.Stat()
		if s, ok := info.Sys().(*syscall.Stat_t); err == nil && ok && s.Nlink > 0 {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

func (d disk) syncDir(dir string) error {
	return d.step("syncdir", dir, func() error {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
}

// mkdir makes one directory, mode 0700, if it is absent, and makes its name
// durable also if it was there: its maker may have died before doing so.
func (d disk) mkdir(path string) error {
	err := d.step("mkdir", path, func() error {
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		return os.Chmod(path, 0o700) // whatever the umask
	})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

// mkdirAll makes path and what is missing above it.
func (d disk) mkdirAll(path string) error {
	_, err := os.Lstat(path)
	if err == nil {
		if err = d.syncDir(filepath.Dir(path)); errors.Is(err, fs.ErrPermission) {
			err = nil // a parent that we cannot read is not one that we made
		}
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.mkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	return d.mkdir(path)
}

// sweep removes temporary files below dir whose writer has died. It asks the
// kernel, not the clock: a writer holds the lock of its file as long as it lives.
func sweep(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we looked
		}
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Name(), tempPrefix) && e.Type().IsRegular() {
			sweepFile(path)
		}
		return nil
	})
}

// sweepFile leaves what it cannot remove: it does no harm, and the next Open
// tries again.
func sweepFile(path string) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		os.Remove(path)
	}
}

// checkOwner refuses what belongs to another user or what others may look into.
func checkOwner(path string, info fs.FileInfo) error {
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return hub.Hint(fmt.Errorf("%w: %s belongs to user %d, and this is user %d", hub.ErrRefused, path, s.Uid, os.Geteuid()),
			fmt.Sprintf("run as that user, or: chown %d %s", os.Geteuid(), path))
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		right := 0o600
		if info.IsDir() {
			right = 0o700
		}
		return hub.Hint(fmt.Errorf("%w: %s is open to other users (mode %04o)", hub.ErrRefused, path, mode),
			fmt.Sprintf("chmod %04o %s", right, path))
	}
	return nil
}

// checkDir accepts a directory of our own, closed to others, and no link to one.
func checkDir(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		hint := "name the directory itself"
		if real, err := filepath.EvalSymlinks(path); err == nil {
			hint += ": " + real
		}
		return hub.Hint(fmt.Errorf("%w: %s is a symbolic link", hub.ErrRefused, path), hint)
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: %s is not a directory", hub.ErrInvalid, path)
	}
	return checkOwner(path, info)
}

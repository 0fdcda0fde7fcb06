package run

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// removeTree removes what a job has left, also directories that it has closed to
// their owner, and however deep they are: a job can nest them deeper than paths
// are long or than this process may have files open, which is where
// [os.RemoveAll] gives up, and fails everything else in the process on its way.
// So no directory is entered below the first level: what lies deeper is moved up.
func removeTree(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := emptyTree(path); err != nil {
			return fmt.Errorf("emptying %s: %w", path, err)
		}
	}
	return removeIfThere(path)
}

func emptyTree(path string) error {
	top, err := openDirectory(unix.AT_FDCWD, path)
	if err != nil {
		return err
	}
	defer top.Close()
	moved := 0
	for {
		if _, err := top.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := eachName(top, func(name string) error {
			if err := removeEntry(top, name); !errors.Is(err, unix.ENOTEMPTY) {
				return err
			}
			return hoist(top, name, &moved)
		})
		if err != nil || names == 0 {
			return err
		}
	}
}

// hoist empties the directory name of top: its own directories go into top, to
// be found by the next pass.
func hoist(top *os.File, name string, moved *int) error {
	dir, err := openDirectory(int(top.Fd()), name)
	if err != nil {
		return err
	}
	defer dir.Close()
	_, err = eachName(dir, func(child string) error {
		if err := removeEntry(dir, child); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		return moveUp(dir, child, top, moved)
	})
	return err
}

// moveUp moves a directory that is not empty under a new name.
func moveUp(from *os.File, name string, to *os.File, moved *int) error {
	dir, err := openDirectory(int(from.Fd()), name) // a directory that is closed to its owner can't be moved
	if err != nil {
		return err
	}
	dir.Close()
	for {
		*moved++
		err := unix.Renameat(int(from.Fd()), name, int(to.Fd()), "moved-"+strconv.Itoa(*moved))
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
}

// removeEntry removes a file or an empty directory. It is ENOTEMPTY for any
// other directory, also for one that is closed to its owner.
func removeEntry(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
		if errors.Is(err, unix.EEXIST) {
			err = unix.ENOTEMPTY
		}
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// openDirectory opens a directory, never a link to one, and opens it to its owner.
func openDirectory(at int, name string) (*os.File, error) {
	handle, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(handle)
	self := "/proc/self/fd/" + strconv.Itoa(handle)
	if err := os.Chmod(self, 0o700); err != nil {
		return nil, err
	}
	fd, err := unix.Open(self, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Base(name)), nil
}

// eachName calls f with each name in the directory, a bounded number of which
// are in memory at once. It returns how many there were.
func eachName(dir *os.File, f func(name string) error) (int, error) {
	n := 0
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			n++
			if err := f(name); err != nil {
				return n, err
			}
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// What is mended is mended through handles, and only in a directory that is this
// user's: whoever owns a directory can have any path in it lead elsewhere between
// two looks, and the doctor may run as root.

// statOf returns what the kernel says of a file; nil where it does not.
func statOf(info fs.FileInfo) *syscall.Stat_t {
	stat, _ := info.Sys().(*syscall.Stat_t)
	return stat
}

// ownerOf returns the user whom info's file belongs to; -1: not known.
func ownerOf(info fs.FileInfo) int {
	if stat := statOf(info); stat != nil {
		return int(stat.Uid)
	}
	return -1
}

// checkOwnDir refuses a directory that is somebody else's, or that others can
// change.
func checkOwnDir(path string, info fs.FileInfo) error {
	stat := statOf(info)
	if !info.IsDir() || stat == nil || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s is not a directory of user %d", hub.ErrRefused, path, os.Geteuid())
	}
	others := fs.FileMode(0o002)
	if os.Geteuid() == 0 || int(stat.Gid) != os.Getegid() {
		others |= 0o020 // else the group is most often the user's own
	}
	if info.Mode().Perm()&others != 0 {
		return fmt.Errorf("%w: others can change %s", hub.ErrRefused, path)
	}
	return nil
}

// mayMend reports whether what is in a directory is this user's to mend.
func mayMend(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && checkOwnDir(dir, info) == nil
}

// openOwnDir opens a directory in which this user mends something.
func openOwnDir(path string) (*os.Root, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil {
		err = checkOwnDir(path, info)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// openHub opens the hub's directory to mend something. That others can change it
// is a fault of its own, which is mended first.
func (p *patient) openHub() (*os.Root, error) {
	root, err := os.OpenRoot(p.Dir)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil && ownerOf(info) != os.Geteuid() {
		err = fmt.Errorf("%w: %s is not a directory of user %d", hub.ErrRefused, p.Dir, os.Geteuid())
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// mark opens what has that name in root, to change its mode or owner: not what a
// link there leads to, and no file that has another name somewhere.
func mark(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	f, err := root.OpenFile(name, unix.O_PATH, 0) // it may not be readable
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		stat := statOf(info)
		if stat == nil || info.Mode()&fs.ModeSymlink != 0 || !info.IsDir() && stat.Nlink != 1 {
			err = fmt.Errorf("%w: %s is a link", hub.ErrRefused, filepath.Join(root.Name(), name))
		}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// chmodOwn changes the mode of what has that name in root, if it is this user's.
func chmodOwn(root *os.Root, name string, mode fs.FileMode) error {
	f, info, err := mark(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	if ownerOf(info) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to user %d", hub.ErrRefused, name, ownerOf(info))
	}
	return os.Chmod(through(f), mode)
}

// chownOwn gives what has that name in root to this user.
func chownOwn(root *os.Root, name string, gid int) error {
	f, _, err := mark(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.Chown(through(f), os.Geteuid(), gid)
}

// through is the path of what f is the handle of.
func through(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// forOwner takes the repairs from what was found in a hub that is somebody else's:
// what this user made there would be in its owner's way, and what it changed there
// could be anything. The owner's findings say how to do it as the owner.
func (p *patient) forOwner(found []Finding) []Finding {
	info, err := os.Stat(p.Dir)
	if err != nil {
		return found
	}
	foreign := ownerOf(info) != os.Geteuid()
	for i := range found {
		repair := found[i].repair
		switch {
		case repair == nil:
		case foreign:
			found[i].repair = nil
			found[i].Fix = fmt.Sprintf("as the user whom the hub belongs to: `sudo -u '#%d' claude-hub doctor --fix`. That is: %s", ownerOf(info), found[i].Fix)
		default:
			found[i].repair = func(ctx context.Context) (string, error) {
				root, err := p.openHub()
				switch {
				case err == nil:
					root.Close()
				case !errors.Is(err, fs.ErrPermission): // closed to its owner: that is mended, too
					return "", err
				}
				return repair(ctx)
			}
		}
	}
	return found
}

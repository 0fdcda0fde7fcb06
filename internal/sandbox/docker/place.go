package docker

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// A place is the host's side of one container: a directory below Config.Dir that
// exists from before the container is made until after it has been removed. Its
// lock is held as long as the process lives that made it, which is how the places
// of the dead are told.
type place struct {
	id     string
	dir    string
	lock   *os.File
	mounts []string // where something is mounted on the host, at the moment
	made   []string // files and directories in it, in the order of their making
}

const (
	placePrefix = "c-"
	lockName    = "lock"
	doorName    = "door" // the directory that is mounted, with the socket
	socketName  = "hub.sock"
	etcName     = "etc"
)

// prepareDir makes the driver's directory.
func (d *Driver) prepareDir() error {
	if err := os.MkdirAll(d.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("making the containers' directory: %w", err)
	}
	return nil
}

// hubID returns the name that tells this hub's containers from those of others on
// the same engine. It is drawn once for a directory; a copy of the directory, whose
// hub is another, gets a name of its own.
func (d *Driver) hubID() (string, error) {
	self, err := identity(d.cfg.Dir)
	if err != nil {
		return "", fmt.Errorf("reading the hub's name for containers: %w", err)
	}
	path := filepath.Join(d.cfg.Dir, "id")
	if id, of, err := readID(path); err != nil || of == self {
		return id, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("writing the hub's name for containers: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("writing the hub's name for containers: %w", err)
	}
	id, of, err := readID(path)
	if err != nil || of == self {
		return id, err
	}
	if id == "" || of != "" { // else it was written before names had directories
		id = rand.Text()
	}
	// Written apart and renamed, so that nobody reads half of it.
	temp := path + "-" + rand.Text()
	err = os.WriteFile(temp, []byte(id+" "+self+"\n"), 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
		return "", fmt.Errorf("writing the hub's name for containers: %w", err)
	}
	return id, nil
}

// readID returns the name in the file at path, and the identity of the directory
// that it was drawn for; "" where there is none.
func readID(path string) (id, of string, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", fmt.Errorf("reading the hub's name for containers: %w", err)
	}
	id, of, _ = strings.Cut(strings.TrimSpace(string(data)), " ")
	if len(id) != len(rand.Text()) {
		return "", "", hub.Hint(fmt.Errorf("%w: %s", hub.ErrFormat, path), "remove it when no container of this hub is left")
	}
	return id, of, nil
}

// identity tells a directory from its copies, also after a restart of the machine,
// which may number devices anew: by its inode and the time of its making.
func identity(dir string) (string, error) {
	var at unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_INO|unix.STATX_BTIME, &at); err != nil {
		return "", fmt.Errorf("looking at %s: %w", dir, err)
	}
	return fmt.Sprintf("%d-%d.%d", at.Ino, at.Btime.Sec, at.Btime.Nsec), nil
}

// newPlace makes a place and locks it.
func (d *Driver) newPlace() (*place, error) {
	if err := d.prepareDir(); err != nil {
		return nil, err
	}
	for {
		id := strings.ToLower(rand.Text())
		p := &place{id: id, dir: filepath.Join(d.cfg.Dir, placePrefix+id)}
		if err := os.Mkdir(p.dir, 0o700); err != nil {
			return nil, fmt.Errorf("making a container's directory: %w", err)
		}
		lock, err := os.OpenFile(p.in(lockName), os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a sweep has taken it for a dead one's
		}
		if err != nil {
			return nil, fmt.Errorf("making a container's lock: %w", err)
		}
		ok, err := tryLock(lock)
		if err != nil {
			lock.Close()
			return nil, fmt.Errorf("locking a container's directory: %w", err)
		}
		if ok {
			p.lock = lock
			return p, nil
		}
		lock.Close()
	}
}

// tryLock reports whether nobody else holds the lock. It goes with the file.
func tryLock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

func (p *place) in(name string) string { return filepath.Join(p.dir, name) }

// file makes a file in the place.
func (p *place) file(name, text string) (string, error) {
	path := p.in(name)
	p.made = append(p.made, path)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// subdir makes a directory in the place.
func (p *place) subdir(name string) (string, error) {
	path := p.in(name)
	p.made = append(p.made, path)
	return path, os.Mkdir(path, 0o700)
}

// mapped mounts what is at source in the place, with the owners mapped, and
// returns where.
func (p *place) mapped(m *idmap, source string, readOnly bool) (string, error) {
	tree, err := m.clone(source, readOnly)
	if err != nil {
		return "", err
	}
	defer tree.Close()
	info, err := tree.Stat()
	if err != nil {
		return "", err
	}
	name := "m" + strconv.Itoa(len(p.mounts))
	var target string
	if info.IsDir() {
		target, err = p.subdir(name)
	} else {
		target, err = p.file(name, "")
	}
	if err != nil {
		return "", err
	}
	if err := attach(tree, target); err != nil {
		return "", err
	}
	p.mounts = append(p.mounts, target)
	return target, nil
}

// unmount takes the mounts away from the host; a container that runs keeps its
// own.
func (p *place) unmount() error {
	var errs []error
	for _, target := range p.mounts {
		errs = append(errs, detach(target))
	}
	p.mounts = nil
	return errors.Join(errs...)
}

// remove takes the place away, when nothing of the container is left. Nothing is
// removed that is mounted on, nor anything below it.
func (p *place) remove() error {
	err := p.unmount()
	for i := len(p.made) - 1; i >= 0; i-- {
		if rerr := os.Remove(p.made[i]); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	if err == nil {
		err = errors.Join(os.Remove(p.in(lockName)), os.Remove(p.dir))
	}
	return errors.Join(err, p.lock.Close())
}

// abandon leaves the place to a sweep.
func (p *place) abandon() { p.lock.Close() }

// deadPlace returns the place of that name in dir if the process that made it is gone.
// It is locked then. Nil is one that lives, or that is gone.
func deadPlace(dir, name string) (*place, error) {
	p := &place{id: strings.TrimPrefix(name, placePrefix), dir: filepath.Join(dir, name)}
	// One whose maker died before the lock was made gets one here.
	lock, err := os.OpenFile(p.in(lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking at a container's lock: %w", err)
	}
	if ok, err := tryLock(lock); err != nil || !ok {
		lock.Close()
		return nil, err
	}
	p.lock = lock
	if err := p.recall(); err != nil {
		lock.Close()
		return nil, err
	}
	return p, nil
}

// recall finds out what is in the place. Nothing is followed into what is mounted
// there: only names that a place has are looked at.
func (p *place) recall() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("looking into a container's directory: %w", err)
	}
	for _, e := range entries {
		path := p.in(e.Name())
		switch name := e.Name(); {
		case name == lockName:
		case name == doorName:
			p.made = append(p.made, path, filepath.Join(path, socketName))
		case strings.HasPrefix(name, "m"):
			p.made, p.mounts = append(p.made, path), append(p.mounts, path)
		default:
			p.made = append(p.made, path)
		}
	}
	return nil
}

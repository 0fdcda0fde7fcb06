package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// What is in a run's directory, <hub>/runs/<id>/.
const (
	runsDir      = "runs"
	lockFile     = "lock"               // held (flock) for the run's life
	controlFile  = "control"            // a pipe whose reader is the run; a byte cancels it
	cancelFile   = "cancel"             // the mark of who has cancelled it, made before that byte is written
	requestFile  = "request.json"       // of a run that may be parked; removed at the end
	spentFile    = "spent.json"         // what the attempt under way has used; removed at the end
	eventsFile   = "events.jsonl"       // stays
	sessionDir   = "session"            // the CLI's transcript; stays
	homeDir      = "home"               // the sandbox's private home; removed at the end
	configDir    = homeDir + "/.claude" // where the CLI keeps its files
	capturedDir  = "captured"           // with delivery "copy"; removed at the end
	gatewaySock  = "gateway.sock"
	platformSock = "platform.sock"
)

// maxSocketPath leaves a few bytes of the kernel's 108 to whoever makes the socket.
const maxSocketPath = 100

// directory is a run's directory, locked.
type directory struct {
	path    string
	lock    *os.File
	events  *os.File
	control *os.File
	handle  *os.File // the directory itself, opened only for [directory.socket]

	listening chan struct{} // closed when nobody reads control any more
	cancel    func()        // what a byte on control calls
}

// createDirectory makes and locks the directory of a new run.
func createDirectory(hubDir string, id hub.RunID) (_ *directory, err error) {
	runs := filepath.Join(hubDir, runsDir)
	if err := os.Mkdir(runs, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	d := &directory{path: filepath.Join(runs, string(id))}
	if err := os.Mkdir(d.path, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.close()
			os.RemoveAll(d.path)
		}
	}()
	if d.lock, err = os.OpenFile(d.in(lockFile), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if d.events, err = os.OpenFile(d.in(eventsFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	return d, d.openControl()
}

// openControl makes the pipe by which other processes see that the run goes on,
// and cancel it.
func (d *directory) openControl() (err error) {
	if err := syscall.Mkfifo(d.in(controlFile), 0o600); err != nil {
		return fmt.Errorf("making the control pipe: %w", err)
	}
	// For writing too, so that it never sees an end when a canceller closes it.
	d.control, err = os.OpenFile(d.in(controlFile), os.O_RDWR|syscall.O_NONBLOCK, 0)
	return err
}

func (d *directory) in(name string) string { return filepath.Join(d.path, name) }

// socket returns a path at which this process can make a socket in the
// directory. The kernel takes 108 bytes of path; a longer one goes through a
// handle on the directory, and needs no second place that could be left behind.
func (d *directory) socket(name string) (string, error) {
	if path := d.in(name); len(path) <= maxSocketPath {
		return path, nil
	}
	if d.handle == nil {
		f, err := os.Open(d.path)
		if err != nil {
			return "", err
		}
		d.handle = f
	}
	return "/proc/self/fd/" + strconv.Itoa(int(d.handle.Fd())) + "/" + name, nil
}

// clean removes what a run leaves beside its log: what is private, and sockets.
func (d *directory) clean() error {
	var errs []error
	for _, name := range []string{homeDir, capturedDir} {
		errs = append(errs, removeTree(d.in(name)))
	}
	for _, name := range []string{gatewaySock, platformSock} {
		errs = append(errs, removeIfThere(d.in(name)))
	}
	return errors.Join(errs...)
}

// settled removes what only a run without a verdict has.
func (d *directory) settled() error {
	return errors.Join(removeIfThere(d.in(requestFile)), removeIfThere(d.in(cancelFile)), d.forgetSpent())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// close gives the directory up. The lock goes last: who gets it finds the rest done.
func (d *directory) close() {
	d.closeControl()
	for _, f := range []*os.File{d.handle, d.events, d.lock} {
		if f != nil {
			f.Close()
		}
	}
	d.handle, d.events, d.lock = nil, nil, nil
}

// takeOver locks the directory of a run that may be dead. It is hub.ErrLocked
// while the run lives, and hub.ErrNotFound when there is no such directory.
func takeOver(hubDir string, id hub.RunID) (*directory, error) {
	d := &directory{path: filepath.Join(hubDir, runsDir, string(id))}
	f, err := os.OpenFile(d.in(lockFile), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: directory of run %s", hub.ErrNotFound, id)
	}
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: run %s", hub.ErrLocked, id)
		}
		return nil, err
	}
	d.lock = f
	return d, nil
}

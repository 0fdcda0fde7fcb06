package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// followInterval is how often a follower looks for more.
const followInterval = 100 * time.Millisecond

// listen calls cancel when somebody writes to the control pipe.
func (d *directory) listen(cancel func()) {
	d.listening, d.cancel = make(chan struct{}), cancel
	go func() {
		defer close(d.listening)
		var b [1]byte
		if _, err := d.control.Read(b[:]); err == nil {
			cancel()
		}
	}()
}

// closeControl ends the run for those who follow or cancel it. It may be called twice.
func (d *directory) closeControl() {
	if d.control == nil {
		return
	}
	os.Remove(d.in(controlFile))
	if d.listening != nil {
		_ = d.control.SetReadDeadline(time.Now()) // ends the read
		<-d.listening
	}
	d.control.Close()
	d.control = nil
	// Who has marked it later finds the pipe closed, and knows that it came too late.
	if isCancelled(d.path) && d.cancel != nil {
		d.cancel()
	}
}

// isCancelled reports whether somebody has marked the run in this directory as
// cancelled. Once its process is gone, the mark alone says so.
func isCancelled(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, cancelFile))
	return err == nil
}

// leftCancelled is isCancelled for a run that is only named.
func (r *Runner) leftCancelled(id hub.RunID) bool {
	_, err := hub.ParseRunID(string(id)) // it must not become a path
	return err == nil && isCancelled(r.directory(id))
}

// openControl opens the pipe of a run that goes on, whichever process has it.
// The kernel refuses when nobody reads it: the run is over, or its process gone.
// It is [hub.ErrNotFound] then.
func openControl(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, controlFile), os.O_WRONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ENXIO) || errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: a process with that run", hub.ErrNotFound)
	}
	return f, err
}

// Cancel asks the process that has the run, which may be another one, to cancel
// it, and returns at once; a parked run it cancels itself. A run that has ended
// is [hub.ErrConflict].
func (r *Runner) Cancel(ctx context.Context, id hub.RunID) error {
	if _, err := hub.ParseRunID(string(id)); err != nil {
		return err
	}
	record, err := r.cfg.Store.Run(ctx, id)
	if err != nil {
		return err
	}
	if record.Verdict != "" {
		return hasEnded(id)
	}
	for { // a parked run may go on, and one that goes on be parked, at this moment
		err := signalCancel(r.directory(id))
		if errors.Is(err, hub.ErrNotFound) {
			err = r.cancelParked(ctx, id)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, hub.ErrNotFound):
			return hasEnded(id)
		case !errors.Is(err, hub.ErrLocked):
			return fmt.Errorf("cancelling run %s: %w", id, err)
		}
		if within(ctx.Done(), followInterval) {
			return ctx.Err()
		}
	}
}

// signalCancel tells the process that has the run in this directory to end it.
// It is [hub.ErrNotFound] if none has.
func signalCancel(dir string) error {
	f, err := openControl(dir)
	if err != nil {
		return err
	}
	mark, err := os.OpenFile(filepath.Join(dir, cancelFile), os.O_CREATE|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err == nil {
		mark.Close()
		_, err = f.Write([]byte("c"))
	}
	err = errors.Join(err, f.Close())
	if errors.Is(err, syscall.EPIPE) { // it has ended, or been parked, this moment
		return fmt.Errorf("%w: %w", hub.ErrNotFound, err)
	}
	return err
}

func (r *Runner) directory(id hub.RunID) string {
	return filepath.Join(r.cfg.Dir, runsDir, string(id))
}

// Log writes what the event log of the run holds now, in whole lines.
func (r *Runner) Log(id hub.RunID, w io.Writer) error {
	f, err := r.openLog(id)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// Follow writes the event log of the run, as it grows, until the run has ended
// or ctx has, also while it is parked; the latter is not an error of the log, and returned as it is.
func (r *Runner) Follow(ctx context.Context, id hub.RunID, w io.Writer) error {
	f, err := r.openLog(id)
	if err != nil {
		return err
	}
	defer f.Close()
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		ended, err := r.ended(ctx, id) // before reading: what is written later is not missed
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		if ended {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ended reports whether nobody will write to the run's log any more.
func (r *Runner) ended(ctx context.Context, id hub.RunID) (bool, error) {
	dir := r.directory(id)
	if alive(dir) {
		return false, nil
	}
	record, err := r.cfg.Store.Run(ctx, id)
	if err != nil {
		return false, err
	}
	// Without a verdict it is parked, or will be, or was until a moment ago.
	return record.Verdict != "" || !isKept(dir), nil
}

func (r *Runner) openLog(id hub.RunID) (*os.File, error) {
	if _, err := hub.ParseRunID(string(id)); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(r.directory(id), eventsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hub.Hint(fmt.Errorf("%w: the event log of run %s", hub.ErrNotFound, id), "list the runs with `claude-hub runs`")
	}
	return f, err
}

// alive reports whether a process has the run in this directory. Asking does not
// touch the lock, which a reconciler may be trying at the same moment.
func alive(dir string) bool {
	f, err := openControl(dir)
	if err != nil {
		return !errors.Is(err, hub.ErrNotFound)
	}
	f.Close()
	return true
}

package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/store"
)

const interrupted = "interrupted: the process that ran it is gone"

// Reconcile gives a verdict to the runs whose process has died without doing so,
// and removes what they left. It is cheap when there are none, may be called by
// any number of processes at once, and leaves runs alone that are under way or
// just starting. It returns how many it closed.
func (r *Runner) Reconcile(ctx context.Context) (int, error) {
	open, err := r.cfg.Store.Runs(ctx, store.Filter{Running: true})
	if err != nil {
		return 0, fmt.Errorf("looking for interrupted runs: %w", err)
	}
	closed := 0
	var errs []error
	for _, record := range open {
		done, err := r.reconcile(ctx, record)
		if err != nil {
			errs = append(errs, fmt.Errorf("closing run %s: %w", record.ID, err))
		}
		if done {
			closed++
		}
	}
	return closed, errors.Join(errs...)
}

// reconcile closes one run if nobody has it.
func (r *Runner) reconcile(ctx context.Context, record hub.Run) (bool, error) {
	if _, err := hub.ParseRunID(string(record.ID)); err != nil {
		return false, err // it must not become a path
	}
	dir, err := takeOver(r.cfg.Dir, record.ID)
	switch {
	case errors.Is(err, hub.ErrLocked):
		return false, nil
	case errors.Is(err, hub.ErrNotFound): // somebody removed the directory; the row still wants its verdict
		dir = nil
	case err != nil:
		return false, err
	default:
		defer dir.close()
	}
	if dir != nil { // first: without a verdict, the next one comes back for what is left
		if err := errors.Join(dir.clean(), removeIfThere(dir.in(controlFile))); err != nil {
			return false, err
		}
	}
	record.Verdict, record.Reason, record.ExitCode = hub.VerdictFailed, interrupted, -1
	record.Ended = r.cfg.Now().UTC()
	err = r.cfg.Store.UpdateRun(ctx, record)
	if errors.Is(err, hub.ErrConflict) {
		return false, nil // its process, or another reconciler, was faster
	}
	if err != nil {
		return false, err
	}
	r.cfg.Log.Info("a run was interrupted", "run", record.ID)
	if dir == nil {
		return true, nil
	}
	return true, dir.appendVerdict(record)
}

// appendVerdict ends the log of a run whose process could not. The last line may
// be cut in its middle: the verdict starts a new one.
func (d *directory) appendVerdict(r hub.Run) error {
	line, err := json.Marshal(Note{Type: NoteType, Subtype: NoteVerdict, Run: r.ID, Verdict: r.Verdict, Text: r.Reason})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(d.in(eventsFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	last := []byte{'\n'}
	if end > 0 {
		if _, err := f.ReadAt(last, end-1); err != nil {
			return err
		}
	}
	if last[0] != '\n' {
		line = append([]byte{'\n'}, line...)
	}
	_, err = f.Write(append(line, '\n'))
	return err
}

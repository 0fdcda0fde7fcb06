package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/store"
)

// Forgetter removes the record of a run that has ended. [hub.ErrConflict] if it
// has not; one that is not there is fine.
type Forgetter interface {
	Forget(ctx context.Context, id hub.RunID) error
}

// Pruned is what a pruning has removed.
type Pruned struct {
	Runs        int `json:"runs"`
	Directories int `json:"directories"` // also those whose record was gone
}

// prunePage is how many records are looked at at once.
const prunePage = 500

// Prune removes the runs that ended before the given time: their logs and
// sessions first, then their records, so that a kill leaves what the next call
// removes. Runs that have no verdict, or that a process has, stay. What can't be
// removed is named in the error, and the rest removed all the same.
func (r *Runner) Prune(ctx context.Context, f Forgetter, before time.Time) (Pruned, error) {
	var p Pruned
	var errs []error
	page := store.Filter{Limit: prunePage, Before: hub.NewRunID(before)} // no run ends before it starts
	for {
		runs, err := r.cfg.Store.Runs(ctx, page)
		if err != nil {
			return p, errors.Join(append(errs, fmt.Errorf("pruning runs: %w", err))...)
		}
		for _, record := range runs {
			page.Before = record.ID
			if record.Verdict == "" || !record.Ended.Before(before) {
				continue
			}
			if err := r.prune(ctx, f, record.ID, &p); err != nil {
				errs = append(errs, fmt.Errorf("pruning run %s: %w", record.ID, err))
			}
		}
		if len(runs) < prunePage {
			break
		}
	}
	return p, errors.Join(append(errs, r.pruneLeft(ctx, before, &p))...)
}

// prune removes one run that has ended.
func (r *Runner) prune(ctx context.Context, f Forgetter, id hub.RunID, p *Pruned) error {
	err := r.pruneDirectory(id, p)
	if errors.Is(err, hub.ErrLocked) { // it has its verdict, and its process is not done with it
		return nil
	}
	if err == nil {
		err = f.Forget(ctx, id)
	}
	if err == nil {
		p.Runs++
	}
	return err
}

// pruneDirectory removes a run's directory. The lock keeps a reconciler out, and
// shows that no process has it.
func (r *Runner) pruneDirectory(id hub.RunID, p *Pruned) error {
	if _, err := hub.ParseRunID(string(id)); err != nil {
		return err // it must not become a path
	}
	dir, err := takeOver(r.cfg.Dir, id)
	if errors.Is(err, hub.ErrNotFound) { // also one whose lock is gone: its removal was cut short
		if _, err := os.Lstat(r.directory(id)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		dir, err = nil, nil
	}
	if err != nil {
		return err
	}
	if dir != nil {
		defer dir.close()
	}
	if err := removeTree(r.directory(id)); err != nil {
		return err
	}
	p.Directories++
	return nil
}

// pruneLeft removes directories of old runs that have no record.
func (r *Runner) pruneLeft(ctx context.Context, before time.Time, p *Pruned) error {
	entries, err := os.ReadDir(filepath.Join(r.cfg.Dir, runsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pruning runs: %w", err)
	}
	newest := hub.NewRunID(before)
	var errs []error
	for _, e := range entries {
		id, err := hub.ParseRunID(e.Name())
		if err != nil || id >= newest || !e.IsDir() {
			continue // not ours, or of a run that started later
		}
		if _, err := r.cfg.Store.Run(ctx, id); !errors.Is(err, hub.ErrNotFound) {
			continue
		}
		if err := r.pruneDirectory(id, p); err != nil && !errors.Is(err, hub.ErrLocked) {
			errs = append(errs, fmt.Errorf("pruning what is left of run %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

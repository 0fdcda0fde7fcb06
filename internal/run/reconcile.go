package run

import (
	"context"
	"errors"
	"fmt"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/store"
)

const interrupted = "interrupted: the process that ran it is gone"

// Reconcile gives a verdict to the runs whose process has died without doing so,
// and removes what they left; those that may be parked are parked again, a few
// times. It also ends what has been parked for too long. It is cheap when there are none, may be called by
// any number of processes at once, and leaves runs alone that are under way or
// just starting. It returns how many it closed or parked.
func (r *Runner) Reconcile(ctx context.Context) (int, error) {
	open, err := r.cfg.Store.Runs(ctx, store.Filter{Running: true})
	if err != nil {
		return 0, fmt.Errorf("looking for interrupted runs: %w", err)
	}
	closed := 0
	var errs []error
	for _, record := range open {
		if p := record.Parked; p != nil { // nobody has to have it
			if _, _, over := overdue(p, r.cfg.Now()); !over && !r.leftCancelled(record.ID) {
				continue
			}
		}
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
	// The row that was listed may be older than the lock.
	if record, err = r.cfg.Store.Run(ctx, record.ID); err != nil || record.Verdict != "" {
		return false, err
	}
	verdict, reason := hub.VerdictFailed, interrupted
	var used spent
	if dir != nil && record.Parked == nil { // or it is in the record already
		used = r.spentBy(dir, record)
		record.Usage = sum(record.Usage, used.Usage)
	}
	switch {
	case dir != nil && isCancelled(dir.path): // who did so was told that it is
		verdict, reason = hub.VerdictCancelled, errCancelled.Error()
		record.ExitCode = -1
	case record.Parked != nil:
		var over bool
		if verdict, reason, over = overdue(record.Parked, r.cfg.Now()); !over {
			return false, nil
		}
	case dir != nil && isKept(dir.path):
		reason = interrupted + ", and what it was allowed is used up"
		if record.Interruptions++; record.Interruptions > maxInterruptions {
			reason = fmt.Sprintf("interrupted %d times: the process that ran it is gone", record.Interruptions)
		} else if left, err := settleSpent(dir, record, used); left || err != nil {
			if err == nil {
				err = r.parkInterrupted(ctx, dir, record)
			}
			return err == nil, err
		}
		record.ExitCode = -1
	default:
		record.ExitCode = -1
	}
	_, err = r.finish(ctx, dir, record, verdict, reason)
	if errors.Is(err, hub.ErrConflict) {
		return false, nil // its process, or another reconciler, was faster
	}
	r.cfg.Log.Info("a run was interrupted", "run", record.ID, "verdict", verdict)
	return err == nil, err
}

// spentBy returns what the last attempt of a run whose process has died had used.
func (r *Runner) spentBy(dir *directory, record hub.Run) spent {
	s, err := dir.spent(record.Attempts)
	if err != nil {
		r.cfg.Log.Warn("what an interrupted run has used can't be read", "run", record.ID, "err", err)
	}
	return s
}

// settleSpent takes what the last attempt has used off the kept request's limits,
// once however often it is called, and reports whether something is left of them.
// A request that can't be read is for [Runner.Resume] to complain of.
func settleSpent(dir *directory, record hub.Run, used spent) (left bool, err error) {
	k, err := readKept(dir.path)
	if err != nil || k.Settled >= record.Attempts || used.Attempt == 0 {
		return true, nil
	}
	rest, ok := k.Request.rest(used.Usage, used.Took)
	if !ok {
		return false, nil
	}
	return true, dir.keep(kept{Request: rest, Mark: k.Mark, Settled: record.Attempts})
}

// parkInterrupted parks a run whose process has died, for the next one that
// resumes runs.
func (r *Runner) parkInterrupted(ctx context.Context, dir *directory, record hub.Run) error {
	record.AgentSession = r.rescueSession(dir, record)
	if err := errors.Join(dir.clean(), removeIfThere(dir.in(controlFile))); err != nil {
		return err
	}
	record.Parked = &hub.Parking{Cause: hub.ParkedForRestart, Reason: interrupted, Since: r.cfg.Now().UTC()}
	if err := r.cfg.Store.UpdateRun(ctx, record); err != nil {
		return err
	}
	r.cfg.Log.Info("a run was interrupted, and is parked", "run", record.ID, "interruptions", record.Interruptions)
	return dir.append(Note{Subtype: NoteParked, Run: record.ID, Text: interrupted})
}

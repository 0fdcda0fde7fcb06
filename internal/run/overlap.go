package run

import (
	"context"
	"fmt"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/store"
)

// checkOverlap refuses a workspace that lies in that of another run under way, of
// whatever process, or holds it: the job of the outer one could put a link in the
// place of the inner one between our look and the mount, and so have any
// directory of the host mounted. It must be called when the run's own row can be
// seen: of two that start at once, at least one sees the other.
func (r *Runner) checkOverlap(ctx context.Context, id hub.RunID, dir string) error {
	filter := store.Filter{Running: true, Limit: 1000}
	for {
		open, err := r.cfg.Store.Runs(ctx, filter)
		if err != nil {
			return fmt.Errorf("looking for runs in the same place: %w", err)
		}
		for _, other := range open {
			if other.ID == id || other.Parked != nil || other.Dir == dir || !contains(dir, other.Dir) && !contains(other.Dir, dir) {
				continue
			}
			if _, err := hub.ParseRunID(string(other.ID)); err != nil {
				return err // it must not become a path
			}
			if !alive(r.directory(other.ID)) {
				continue
			}
			err := fmt.Errorf("%w: the workspace %s and that of run %s, %s, which is under way, lie one in the other", hub.ErrRefused, dir, other.ID, other.Dir)
			return hub.Hint(err, "wait until that run has ended, or give both the same directory")
		}
		if len(open) < filter.Limit {
			return nil
		}
		filter.Before = open[len(open)-1].ID
	}
}

// checkPlace looks at the workspace once more, right before it is mounted.
func (x *execution) checkPlace(ctx context.Context) error {
	if err := x.checkOverlap(ctx, x.record.ID, x.req.Dir); err != nil {
		return err
	}
	real, err := x.checkWorkspace(x.req.Dir)
	if err == nil && real != x.req.Dir {
		err = fmt.Errorf("%w: the workspace %s is another directory now", hub.ErrRefused, x.req.Dir)
	}
	return err
}

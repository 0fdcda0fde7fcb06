package refresh

import "context"

// Sweep is one round of the daemon's loop.
func (r *Refresher) Sweep(ctx context.Context) error {
	_, err := r.sweep(ctx)
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/store"
)

// outOfReach is what a removal can't wipe.
var outOfReach = []string{
	"backups of the hub's directory, and of its disk",
	"copies that were written elsewhere with `claude-hub restore`, and the directory that was imported",
	"bundles that were made with `claude-hub export`, and what was imported from them",
	"the login at the provider: sign out there to end it everywhere",
}

// removal is what `profile remove --json` prints.
type removal struct {
	Removed   hub.Profile `json:"removed"`
	Records   int         `json:"records"`   // generations that were in the vault
	Cancelled []hub.RunID `json:"cancelled"` // runs that were under way or parked
	NotWiped  []string    `json:"not_wiped"` // what is out of the hub's reach
}

func (a *app) profileRemoveCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:     "remove NAME",
		Aliases: []string{"rm"},
		Short:   "Remove a profile and every generation of its login",
		Long: `Ends the profile's runs, and wipes all that this hub has of it: each generation in
the vault, its name, what its refreshes have left, the working copies of its runs.
No process serves its access token any more. Says what is out of reach. The logs
of its runs stay.`,
		Args:              args(want("NAME")),
		ValidArgsFunction: firstArg(a.completeProfiles),
		RunE: func(c *cobra.Command, args []string) error {
			h, err := a.openHome()
			if err != nil {
				return err
			}
			p, err := h.profile(c.Context(), args[0])
			if err != nil {
				return err
			}
			if !yes && !a.confirm(fmt.Sprintf("Remove the profile %q and its login for good?", p.Name)) {
				return hub.Hint(fmt.Errorf("%w: nothing was removed", hub.ErrCancelled), "add --yes to remove it without a question")
			}
			r, err := a.removeProfile(c.Context(), h, p)
			if err != nil {
				return err
			}
			return a.showRemoval(r)
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (a *app) showRemoval(r removal) error {
	if a.json {
		return a.printJSON(r)
	}
	fmt.Fprintf(a.stdout, "%s The profile %q is removed, with %d generations in the vault", a.style(a.stdout, green, "✓"), r.Removed.Name, r.Records)
	if n := len(r.Cancelled); n > 0 {
		fmt.Fprintf(a.stdout, "; %d of its runs were cancelled", n)
	}
	fmt.Fprintln(a.stdout, ".\nWhat is out of reach here:")
	for _, what := range r.NotWiped {
		if _, err := fmt.Fprintf(a.stdout, "  - %s\n", what); err != nil {
			return err
		}
	}
	return nil
}

// removeProfile removes all that the hub has of a profile. The runs end first,
// because some hold an access token; then nothing that is under way may commit to
// the vault any more. Runs that began meanwhile are ended after it.
func (a *app) removeProfile(ctx context.Context, h *home, p hub.Profile) (removal, error) {
	r := removal{Removed: p, Cancelled: []hub.RunID{}, NotWiped: outOfReach}
	runs, err := a.openRuns(ctx)
	if err != nil {
		return r, err
	}
	defer runs.Close()
	end := func() error {
		ended, err := runs.endAll(ctx, p)
		r.Cancelled = append(r.Cancelled, ended...)
		return err
	}
	if err := end(); err != nil {
		return r, err
	}
	holdings, err := h.vault.Holdings(ctx, p.ID)
	if err != nil {
		return r, err
	}
	for _, of := range holdings {
		r.Records += len(of.Kept)
	}
	if err := h.wipe(ctx, p); err != nil {
		return r, err
	}
	return r, end()
}

// wipe removes a profile from the vault, and what refreshes have left of it. It
// waits for a refresh that is under way, which would commit at its end, and
// refuses while somebody signs in.
func (h *home) wipe(ctx context.Context, p hub.Profile) error {
	signIns := filepath.Join(h.dir, "login")
	if _, err := os.Stat(signIns); err == nil {
		path := filepath.Join(signIns, string(p.ID)+".lock") // as package login has it
		lock := flock.New(path, flock.SetPermissions(0o600))
		ok, err := lock.TryLock()
		if err != nil {
			return fmt.Errorf("keeping sign-ins to %q out: %w", p.Name, err)
		}
		if !ok {
			return hub.Hint(fmt.Errorf("%w: somebody is signing in to the profile %q", hub.ErrLocked, p.Name), "finish that sign-in or end it, then remove the profile again")
		}
		defer os.Remove(path)
		defer lock.Unlock()
	}
	dir := h.refreshDir(p.ID)
	if _, err := os.Stat(dir); err == nil {
		lock := flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600))
		if _, err := lock.TryLockContext(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for a refresh of %q to end: %w", p.Name, err)
		}
		defer lock.Unlock() // the kernel does it at the latest
	}
	if err := h.vault.Remove(ctx, p.ID); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing what refreshes have left: %w", err)
	}
	return h.unsetDefault(p.ID)
}

// runPatience bounds the wait for a run that was cancelled: its CLI is given some
// seconds to save its session.
const runPatience = time.Minute

// live returns the profile's runs that have not ended, parked ones among them.
func (b *runBook) live(ctx context.Context, p hub.Profile) ([]hub.RunID, error) {
	records, err := b.store.Runs(ctx, store.Filter{Of: p, Running: true, Limit: math.MaxInt32})
	if err != nil {
		return nil, err
	}
	ids := []hub.RunID{}
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	return ids, nil
}

// endAll cancels the profile's runs, in whatever process, and waits until they
// have ended, and with them their working copies.
func (b *runBook) endAll(ctx context.Context, p hub.Profile) ([]hub.RunID, error) {
	ids, err := b.live(ctx, p)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, runPatience)
	defer cancel()
	for _, id := range ids { // all of them are told before the first is waited for
		if err := b.runner.Cancel(ctx, id); err != nil && !errors.Is(err, hub.ErrConflict) {
			return nil, err
		}
	}
	for _, id := range ids {
		if err := b.runner.Follow(ctx, id, io.Discard); err != nil && !errors.Is(err, hub.ErrNotFound) {
			return nil, hub.Hint(fmt.Errorf("waiting for run %s to end: %w", id, err), "end it with `claude-hub cancel`, then remove the profile again")
		}
	}
	return ids, nil
}

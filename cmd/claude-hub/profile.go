package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
)

func (a *app) profileCommand() *cobra.Command {
	c := &cobra.Command{Use: "profile", Short: "List and remove profiles (`login` and `import` make them)", Args: args(cobra.NoArgs)}
	c.AddCommand(a.profileListCommand(), a.profileRemoveCommand())
	return c
}

func (a *app) profileListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the profiles",
		Args:    args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := a.openHome()
			if err != nil {
				return err
			}
			profiles, err := h.vault.Profiles(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(append([]hub.Profile{}, profiles...))
			}
			rows := [][]string{{"NAME", "ID", "CREATED"}}
			for _, p := range profiles {
				rows = append(rows, []string{string(p.Name), string(p.ID), p.Created.Format("2006-01-02 15:04")})
			}
			return a.table(rows)
		},
	}
}

func (a *app) profileRemoveCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:               "remove NAME",
		Short:             "Remove a profile and every generation of its login",
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
			if err := h.removeProfile(c.Context(), p); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"removed": p})
			}
			_, err = fmt.Fprintf(a.stdout, "%s The profile %q and its login are removed. Backups may still hold it: to end it everywhere, sign out at the provider.\n",
				a.style(a.stdout, green, "✓"), p.Name)
			return err
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// removeProfile removes what the hub knows of a profile: the vault's records and
// what refreshes have left. It waits for a refresh that is under way, which would
// commit to the vault at its end.
func (h *home) removeProfile(ctx context.Context, p hub.Profile) error {
	dir := filepath.Join(h.dir, "refresh", string(p.ID))
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
	return nil
}

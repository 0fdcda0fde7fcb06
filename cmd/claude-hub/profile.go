package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

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
				return a.printJSON(slices.Concat([]hub.Profile{}, profiles))
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
		Use:   "remove NAME",
		Short: "Remove a profile and every generation of its login",
		Args:  args(cobra.ExactArgs(1)),
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
			if err := h.vault.Remove(c.Context(), p.ID); err != nil {
				return err
			}
			return os.RemoveAll(filepath.Join(h.dir, "refresh", string(p.ID)))
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

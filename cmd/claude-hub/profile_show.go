package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// profileReport is what `profile show --json` prints. Its names are an interface.
type profileReport struct {
	hub.Profile
	Default bool            `json:"default"`
	Email   string          `json:"email,omitempty"` // absent where the sign-in did not tell it
	Records []vault.Holding `json:"records"`         // by kind; their location is below vault/ in the hub's directory
	Refresh string          `json:"refresh,omitempty"`
	Runs    []hub.RunID     `json:"runs"` // that have not ended
}

func (a *app) profileShowCommand() *cobra.Command {
	var owner string
	c := &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show a profile: its owner, its policy, and what is stored of it where",
		Args: args(func(c *cobra.Command, args []string) error {
			if len(args) > 0 && c.Flags().Changed("owner") {
				return fmt.Errorf("show: a NAME and --owner contradict each other")
			}
			if len(args) > 0 {
				return want("NAME")(c, args)
			}
			return nil
		}),
		ValidArgsFunction: firstArg(a.completeProfiles),
	}
	c.Flags().StringVar(&owner, "owner", "", "the profile that stands for this GitHub login")
	c.RunE = func(c *cobra.Command, args []string) error {
		find := func(h *home) (hub.Profile, error) { return a.namedProfile(c.Context(), h, args) }
		if c.Flags().Changed("owner") {
			find = func(h *home) (hub.Profile, error) { return h.vault.ProfileOfOwner(c.Context(), owner) }
		}
		r, err := a.profileReport(c.Context(), find)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(r)
		}
		return a.showProfile(r)
	}
	return c
}

// namedProfile returns the profile that the only argument names, or the one for
// where nothing is said.
func (a *app) namedProfile(ctx context.Context, h *home, args []string) (hub.Profile, error) {
	if len(args) > 0 {
		return h.profile(ctx, args[0])
	}
	name, err := a.unsaidProfile(ctx)
	if err != nil {
		return hub.Profile{}, err
	}
	return h.profile(ctx, string(name))
}

func (a *app) profileReport(ctx context.Context, find func(*home) (hub.Profile, error)) (profileReport, error) {
	var r profileReport
	h, err := a.openHome()
	if err != nil {
		return r, err
	}
	standard, err := h.defaultProfile(ctx)
	if err != nil {
		return r, err
	}
	if r.Profile, err = find(h); err != nil {
		return r, err
	}
	r.Default = r.Name == standard.Name
	r.Email = h.email(ctx, r.ID, "")
	if r.Records, err = h.vault.Holdings(ctx, r.ID); err != nil {
		return r, err
	}
	if _, err := os.Lstat(h.refreshDir(r.ID)); err == nil {
		r.Refresh = h.refreshDir(r.ID)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	runs, err := a.openRuns(ctx)
	if err != nil {
		return r, err
	}
	defer runs.Close()
	r.Runs, err = runs.live(ctx, r.Profile)
	return r, err
}

func (h *home) refreshDir(id hub.ProfileID) string {
	return filepath.Join(h.dir, "refresh", string(id))
}

func (a *app) showProfile(r profileReport) error {
	standard := "no"
	if r.Default {
		standard = "yes"
	}
	rows := [][]string{
		{"profile", string(r.Name)}, {"ID", string(r.ID)}, {"created", r.Created.Format("2006-01-02 15:04")},
		{"default", standard}, {"signed in", orDash(r.Email)},
	}
	rows = append(append(rows, policyRows(r.Policy)...), []string{"", ""})
	for _, rec := range r.Records {
		rows = append(rows, []string{string(rec.Kind), fmt.Sprintf("generation %d, %s kept, in vault/%s", rec.Newest, strconv.Itoa(len(rec.Kept)), rec.Location)})
	}
	if r.Refresh != "" {
		rows = append(rows, []string{"refreshes", r.Refresh})
	}
	for _, id := range r.Runs {
		rows = append(rows, []string{"run", string(id)})
	}
	return a.table(rows)
}

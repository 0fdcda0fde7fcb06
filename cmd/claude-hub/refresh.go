package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
)

// refreshHelper is the hidden command that refreshes one login in a process of
// its own.
const refreshHelper = "refresh-helper"

func (a *app) refreshCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "refresh",
		Short: "Refresh the login if it is due; with --force, now",
		Long: `Has the claude CLI rotate the login's tokens, if the access token is near its end.
Runs and the daemon do this by themselves.

--force does it now. It is also the answer to a refresh whose outcome could not be
found out: then it sends the old refresh token once more. If the platform had
rotated it after all, the login is lost, as it would have been anyway.`,
		Args: args(cobra.NoArgs),
	}
	profile := a.profileFlag(c)
	c.Flags().BoolVar(&force, "force", false, "refresh now, whatever the status says")
	c.RunE = func(c *cobra.Command, _ []string) error {
		h, err := a.openHome()
		if err != nil {
			return err
		}
		p, err := h.signedIn(c.Context(), *profile)
		if err != nil {
			return err
		}
		r, err := a.newRefresher(h, a.log())
		if err != nil {
			return err
		}
		defer r.Stop()
		outcome, err := r.Refresh(c.Context(), p.ID, force)
		if err != nil {
			return err
		}
		if s := outcome.Status; s.Health == hub.HealthLoginRequired {
			return hub.Hint(fmt.Errorf("%w: %s", hub.ErrLoginRequired, s.Reason), "sign in with `claude-hub login`")
		}
		return a.showRefresh(p, outcome)
	}
	return c
}

func (a *app) showRefresh(p hub.Profile, o refresh.Outcome) error {
	if a.json {
		return a.printJSON(o)
	}
	what := "was fresh already"
	if o.Rotated {
		what = "is refreshed"
	}
	_, err := fmt.Fprintf(a.stdout, "%s The login of %q %s (generation %d, access token until %s).\n",
		a.style(a.stdout, green, "✓"), p.Name, what, o.Generation, o.Expires.Local().Format("2006-01-02 15:04:05"))
	return err
}

func (a *app) refreshHelperCommand() *cobra.Command {
	return &cobra.Command{
		Use:                refreshHelper,
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			if err := leaveNoCore(); err != nil {
				return err
			}
			h, err := a.openHome()
			if err != nil {
				return err
			}
			path, err := h.agentPath()
			if err != nil {
				return err
			}
			return refresh.HelperMain(c.Context(), refresh.HelperConfig{
				Vault: h.vault, Dir: h.dir, Agent: path, Args: args, Environ: a.environ,
			})
		},
	}
}

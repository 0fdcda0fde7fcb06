package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
)

func (a *app) operatorCommand() *cobra.Command {
	var profile string
	c := &cobra.Command{
		Use:   "operator",
		Short: "Print a link that lets your browser see and sign in to the daemon's profiles",
		Long: `Asks the daemon for a link to its page. The link works once, for ten minutes; the
browser that opens it is the operator's until you leave the page, or for twelve
hours without use. The page lists the profiles and signs in to them.

The page is at listen in config.yaml (default 127.0.0.1:3002). From another
machine, reach it through a tunnel (ssh -L 3002:127.0.0.1:3002 HOST), or through a
proxy with TLS that public_url names.`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return a.operator(c.Context(), profile) },
	}
	a.profileFlagVar(c, &profile, "", "lead to this profile's sign-in")
	return c
}

func (a *app) operator(ctx context.Context, profile string) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	if profile != "" {
		if _, err := hub.ParseProfileName(profile); err != nil {
			return err
		}
	}
	client, err := api.Dial(ctx, socketPath(h.dir))
	if errors.Is(err, hub.ErrNotFound) {
		return hub.Hint(err, "start it with `claude-hub serve`, or sign in without it: `claude-hub login --web`")
	}
	if err != nil {
		return err
	}
	defer client.Close()
	link, err := client.Operator(ctx, api.OperatorRequest{Profile: hub.ProfileName(profile)})
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(link)
	}
	a.showLink(a.stdout, "Open this link in your browser. It works once, until "+link.Expires.Local().Format("15:04")+":", link)
	_, err = fmt.Fprintln(a.stdout, "Whoever opens it can sign in to the profiles of this hub.")
	return err
}

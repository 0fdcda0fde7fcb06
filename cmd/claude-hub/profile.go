package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
)

func (a *app) profileCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "profile",
		Short: "Show, rename, set up and remove profiles (`login` and `import` make them)",
		Long: `A profile is a named login with an owner and a policy. A command is about the
profile that --profile names, else the one in $CLAUDE_HUB_PROFILE, else the one
that "profile default" has set, else the one that is called "default".`,
		Args: args(cobra.NoArgs),
	}
	c.AddCommand(a.profileListCommand(), a.profileShowCommand(), a.profileDefaultCommand(), a.profileSetCommand(),
		a.profileRenameCommand(), a.profileRemoveCommand())
	return c
}

// listedProfile is one element of what `profile list --json` prints.
type listedProfile struct {
	hub.Profile
	Default bool `json:"default"` // it is used where nothing is said
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
			standard, err := h.defaultProfile(c.Context())
			if err != nil {
				return err
			}
			profiles, unreadable := h.vault.Profiles(c.Context())
			list := []listedProfile{}
			for _, p := range profiles {
				list = append(list, listedProfile{p, p.Name == standard.Name})
			}
			if err := a.showProfiles(list); err != nil {
				return err
			}
			return unreadable
		},
	}
}

func (a *app) showProfiles(list []listedProfile) error {
	if a.json {
		return a.printJSON(list)
	}
	rows := [][]string{{"", "NAME", "OWNER", "DELIVERY", "ID", "CREATED"}}
	for _, p := range list {
		mark := ""
		if p.Default {
			mark = "*"
		}
		rows = append(rows, []string{mark, string(p.Name), orDash(ownerText(p.Policy)), deliveryText(p.Policy), string(p.ID), p.Created.Format("2006-01-02 15:04")})
	}
	return a.table(rows)
}

func (a *app) profileRenameCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rename OLD NEW",
		Short: "Give a profile another name",
		Long: `Gives the profile OLD the name NEW. Its ID, its login, its policy and whether it
is the default stay, and so do its runs.`,
		Args:              args(want("OLD", "NEW")),
		ValidArgsFunction: firstArg(a.completeProfiles),
		RunE: func(c *cobra.Command, args []string) error {
			names := make([]hub.ProfileName, len(args))
			for i, arg := range args {
				var err error
				if names[i], err = hub.ParseProfileName(arg); err != nil {
					return err
				}
			}
			h, err := a.openHome()
			if err != nil {
				return err
			}
			p, err := h.vault.RenameProfile(c.Context(), names[0], names[1])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"renamed": p, "from": names[0]})
			}
			_, err = fmt.Fprintf(a.stdout, "%s The profile %q is named %q now (%s).\n", a.style(a.stdout, green, "✓"), names[0], p.Name, p.ID)
			return err
		},
	}
}

func (a *app) profileDefaultCommand() *cobra.Command {
	var unset bool
	c := &cobra.Command{
		Use:   "default [NAME]",
		Short: "Show or set the profile that is used where nothing is said",
		Args: args(func(c *cobra.Command, args []string) error {
			if len(args) > 0 && unset {
				return fmt.Errorf("default: a NAME and --unset contradict each other")
			}
			if len(args) > 0 {
				return want("NAME")(c, args)
			}
			return nil
		}),
		ValidArgsFunction: firstArg(a.completeProfiles),
	}
	c.Flags().BoolVar(&unset, "unset", false, `have it be the one that is called "default" again`)
	c.RunE = func(c *cobra.Command, args []string) error {
		h, err := a.openHome()
		if err != nil {
			return err
		}
		switch {
		case unset:
			err = h.forgetDefault()
		case len(args) == 1:
			var p hub.Profile
			if p, err = h.profile(c.Context(), args[0]); err == nil {
				err = h.setDefault(p.ID)
			}
		}
		if err != nil {
			return err
		}
		p, err := h.defaultProfile(c.Context())
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]any{"name": p.Name, "id": p.ID, "set": p.ID != ""})
		}
		if v := a.getenv(profileVariable); v != "" {
			fmt.Fprintf(a.stderr, "%s %s is set to %q, and comes first\n", a.style(a.stderr, yellow, "note:"), profileVariable, printable(v, 60))
		}
		_, err = fmt.Fprintln(a.stdout, p.Name)
		return err
	}
	return c
}

// ownerText names the owner for a person, "" if there is none.
func ownerText(p hub.Policy) string {
	if p.Primary {
		return p.Owner + " (primary)"
	}
	return p.Owner
}

func deliveryText(p hub.Policy) string {
	if p.Delivery == "" {
		return string(hub.DeliveryGateway) + " unless a run says copy"
	}
	return string(p.Delivery)
}

// policyRows shows a policy to a person.
func policyRows(p hub.Policy) [][]string {
	l := p.Limits
	rows := [][]string{{"owner", orDash(ownerText(p))}, {"delivery", deliveryText(p)}, {"model", orDash(p.Model)}}
	for _, row := range []struct {
		name, text string
		set        bool
	}{
		{"max-requests", grouped(int64(l.Requests)), l.Requests > 0},
		{"max-tokens", grouped(l.Tokens), l.Tokens > 0},
		{"max-cost", fmt.Sprintf("$%.2f at list price", l.Cost.USD()), l.Cost > 0},
		{"max-parallel", grouped(int64(l.Parallel)), l.Parallel > 0},
		{"allowed-models", printable(fmt.Sprint(slices.Clip(l.Models)), 200), len(l.Models) > 0},
		{"timeout", p.Timeout.String(), p.Timeout > 0},
	} {
		if row.set {
			rows = append(rows, []string{row.name, row.text})
		}
	}
	return rows
}

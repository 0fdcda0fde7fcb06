package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// policyOptions are the flags of `profile set`.
type policyOptions struct {
	owner    string
	primary  bool
	delivery string
	model    string
	timeout  time.Duration
	limits   limitOptions
	unset    []string
}

// policyFields are the names of what a policy can say, which are its flags.
var policyFields = []string{
	"owner", "primary", "delivery", "model", "timeout", "max-requests", "max-tokens", "max-cost", "allowed-models", "max-parallel",
}

func (a *app) profileSetCommand() *cobra.Command {
	var o policyOptions
	c := &cobra.Command{
		Use:   "set NAME [flags]",
		Short: "Lay down a profile's owner and policy",
		Long: `What a policy says is the default for each run and command of the profile, and
the upper bound of its limits: a flag of "run" or "exec" may ask for less and
never for more. --delivery gateway rules copies out; --delivery copy is the
default then, and keeps no limits.

A profile has one owner, a GitHub login. An owner may have several profiles: the
one that is --primary then stands for the owner where nobody names a profile.`,
		Example: `  claude-hub profile set staging --owner alice --max-cost 5 --timeout 1h
  claude-hub profile set staging --unset max-cost,timeout`,
		Args:              args(want("NAME")),
		ValidArgsFunction: firstArg(a.completeProfiles),
	}
	f := c.Flags()
	f.StringVar(&o.owner, "owner", "", "the GitHub login of the owner")
	f.BoolVar(&o.primary, "primary", false, "have it stand for its owner, and no other profile")
	f.StringVar(&o.delivery, "delivery", "", "gateway or copy")
	f.StringVarP(&o.model, "model", "m", "", "the model that runs use")
	f.DurationVar(&o.timeout, "timeout", 0, "how long a run may take, and a lease of exec live")
	o.limits.flags(f)
	f.StringSliceVar(&o.unset, "unset", nil, "what to lay down no more: names of these flags, or all")
	c.RegisterFlagCompletionFunc("delivery", cobra.FixedCompletions( //nolint:errcheck // it fails only for a flag that isn't there
		[]cobra.Completion{string(hub.DeliveryGateway), string(hub.DeliveryCopy)}, cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("unset", cobra.FixedCompletions( //nolint:errcheck // likewise
		append([]cobra.Completion{"all"}, policyFields...), cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(c *cobra.Command, args []string) error {
		change, err := o.change(c.Flags().Changed)
		if err != nil {
			return hub.Hint(err, fmt.Sprintf("see `%s --help`", c.CommandPath()))
		}
		return a.profileSet(c.Context(), args[0], o.primary && c.Flags().Changed("primary"), change)
	}
	return c
}

// change returns what the flags that are given do to a policy.
func (o policyOptions) change(given func(flag string) bool) (func(*hub.Policy) error, error) {
	unset := o.unset
	if slices.Contains(unset, "all") {
		unset = policyFields
	}
	var set []string
	for _, name := range policyFields {
		if given(name) {
			set = append(set, name)
		}
	}
	for _, name := range unset {
		if !slices.Contains(policyFields, name) {
			return nil, fmt.Errorf("%w: a policy says nothing like %.60q, but %s", hub.ErrInvalid, name, strings.Join(policyFields, ", "))
		}
		if slices.Contains(set, name) && !slices.Contains(o.unset, "all") {
			return nil, fmt.Errorf("%w: --%s and --unset %s contradict each other", hub.ErrInvalid, name, name)
		}
	}
	if len(set)+len(unset) == 0 {
		return nil, fmt.Errorf("%w: nothing is to be set", hub.ErrInvalid)
	}
	var asked hub.Policy
	var err error
	if given("owner") {
		if asked.Owner, err = hub.ParseOwner(o.owner); err != nil {
			return nil, err
		}
	}
	if asked.Delivery, err = hub.ParseDelivery(o.delivery); err != nil {
		return nil, err
	}
	if asked.Limits, err = o.limits.limits(); err != nil {
		return nil, err
	}
	asked.Primary, asked.Model, asked.Timeout = o.primary, o.model, o.timeout
	return func(p *hub.Policy) error {
		was := p.Owner
		for _, name := range unset {
			copyField(p, hub.Policy{}, name)
		}
		for _, name := range set {
			copyField(p, asked, name)
		}
		if p.Owner != was && !given("primary") { // it was the primary one of somebody else
			p.Primary = false
		}
		return p.Check()
	}, nil
}

func copyField(to *hub.Policy, from hub.Policy, name string) {
	switch name {
	case "owner":
		to.Owner = from.Owner
	case "primary":
		to.Primary = from.Primary
	case "delivery":
		to.Delivery = from.Delivery
	case "model":
		to.Model = from.Model
	case "timeout":
		to.Timeout = from.Timeout
	case "max-requests":
		to.Limits.Requests = from.Limits.Requests
	case "max-tokens":
		to.Limits.Tokens = from.Limits.Tokens
	case "max-cost":
		to.Limits.Cost = from.Limits.Cost
	case "allowed-models":
		to.Limits.Models = from.Limits.Models
	case "max-parallel":
		to.Limits.Parallel = from.Limits.Parallel
	}
}

func (a *app) profileSet(ctx context.Context, name string, primary bool, change func(*hub.Policy) error) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	p, err := h.profile(ctx, name)
	if err != nil {
		return err
	}
	wanted := p.Policy
	if err := change(&wanted); err != nil {
		return err
	}
	if primary {
		// First, so that a kill leaves an owner without a primary profile, who is
		// asked to name one, and never one with two.
		if err := h.dethrone(ctx, wanted.Owner, p.ID); err != nil {
			return err
		}
	}
	p, err = h.vault.UpdateProfile(ctx, p.ID, func(p *hub.Profile) error { return change(&p.Policy) })
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(p)
	}
	fmt.Fprintf(a.stdout, "%s The policy of profile %q is:\n", a.style(a.stdout, green, "✓"), p.Name)
	if err := a.table(policyRows(p.Policy)); err != nil || p.Policy.Owner == "" {
		return err
	}
	if _, err := h.vault.ProfileOfOwner(ctx, p.Policy.Owner); err != nil {
		fmt.Fprintf(a.stderr, "%s %v\n", a.style(a.stderr, yellow, "note:"), err)
		a.printHint(hub.HintOf(err))
	}
	return nil
}

// dethrone has no profile of the owner's be primary but the one that is excepted.
func (h *home) dethrone(ctx context.Context, owner string, except hub.ProfileID) error {
	profiles, err := h.vault.Profiles(ctx)
	if err != nil {
		return err
	}
	for _, p := range profiles {
		if p.ID == except || p.Policy.Owner != owner || !p.Policy.Primary {
			continue
		}
		if _, err := h.vault.UpdateProfile(ctx, p.ID, func(p *hub.Profile) error { p.Policy.Primary = false; return nil }); err != nil {
			return err
		}
	}
	return nil
}

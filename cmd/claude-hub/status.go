package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
)

// statusReport is what `status --json` prints. Its names are an interface.
type statusReport struct {
	Dir      string          `json:"dir"`
	Profiles []profileStatus `json:"profiles"`
	Agent    agentState      `json:"agent"`
	Daemon   *api.Daemon     `json:"daemon,omitempty"` // absent when none runs
}

type profileStatus struct {
	Profile hub.Profile `json:"profile"`
	refresh.Status
}

func (a *app) statusCommand() *cobra.Command {
	var profile string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show who is signed in, until when, and whether the login is healthy",
		Args:  args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			report, err := a.status(c.Context(), profile)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(report)
			}
			return a.showStatus(report)
		},
	}
	c.Flags().StringVarP(&profile, "profile", "p", "", "only this profile")
	return c
}

func (a *app) status(ctx context.Context, only string) (statusReport, error) {
	h, err := a.openHome()
	if err != nil {
		return statusReport{}, err
	}
	profiles, err := h.chosen(ctx, only)
	if err != nil {
		return statusReport{}, err
	}
	r, err := a.newRefresher(h, a.log())
	if err != nil {
		return statusReport{}, err
	}
	defer r.Stop()
	report := statusReport{Dir: h.dir, Profiles: []profileStatus{}, Agent: h.agentState(ctx)}
	for _, p := range profiles {
		s, err := r.Status(ctx, p.ID)
		if err != nil {
			return report, fmt.Errorf("profile %q: %w", p.Name, err)
		}
		report.Profiles = append(report.Profiles, profileStatus{p, s})
	}
	if client, err := api.Dial(ctx, socketPath(h.dir)); err == nil {
		defer client.Close()
		if d, err := client.Daemon(ctx); err == nil {
			report.Daemon = &d
		}
	}
	return report, nil
}

// chosen returns the profile of that name, or all of them for "".
func (h *home) chosen(ctx context.Context, only string) ([]hub.Profile, error) {
	if only == "" {
		return h.vault.Profiles(ctx)
	}
	p, err := h.profile(ctx, only)
	return []hub.Profile{p}, err
}

func (a *app) showStatus(r statusReport) error {
	var rows [][]string
	for _, p := range r.Profiles {
		rows = append(rows, a.profileRows(p)...)
		rows = append(rows, []string{"", ""})
	}
	if len(r.Profiles) == 0 {
		rows = append(rows, []string{"profile", "none yet: sign in with `claude-hub login`"}, []string{"", ""})
	}
	cli := "not found"
	if r.Agent.Path != "" {
		cli = fmt.Sprintf("claude %s at %s", r.Agent.Version, r.Agent.Path)
	}
	rows = append(rows, []string{"agent", cli})
	if r.Agent.Warning != "" {
		rows = append(rows, []string{"", a.style(a.stdout, yellow, "warning: ") + printable(r.Agent.Warning, 200)})
	}
	daemon := "not running (runs and refreshes work without it)"
	if r.Daemon != nil {
		daemon = fmt.Sprintf("running, pid %d, since %s", r.Daemon.PID, r.Daemon.Started.Local().Format("2006-01-02 15:04"))
	}
	return a.table(append(rows, []string{"daemon", daemon}))
}

func (a *app) profileRows(p profileStatus) [][]string {
	t := now()
	rows := [][]string{
		{"profile", string(p.Profile.Name) + " (" + orDash(p.Account) + ")"},
		{"plan", orDash(p.Plan)},
		{"health", a.healthText(p.Status)},
		{"access", expiry(t, p.AccessExpires)},
		{"login", loginExpiry(t, p.LoginExpires)},
		{"generation", fmt.Sprint(p.Generation)},
	}
	if !p.LastRefresh.IsZero() {
		rows = append(rows, []string{"refreshed", ago(t, p.LastRefresh)})
	}
	spare := "none (add one with `claude-hub login --setup-token`)"
	if p.Spare != nil {
		spare = "setup token, " + expiry(t, p.Spare.Expires)
	}
	return append(rows, []string{"spare", spare})
}

func (a *app) healthText(s refresh.Status) string {
	sgr := map[hub.Health]string{hub.HealthOK: green, hub.HealthSuspect: yellow, hub.HealthLoginRequired: red}[s.Health]
	text := a.style(a.stdout, sgr, string(s.Health))
	if s.Reason != "" {
		text += ": " + printable(s.Reason, 300)
	}
	return text
}

func expiry(t, at time.Time) string {
	switch {
	case at.IsZero():
		return "not known"
	case at.Before(t):
		return "expired " + ago(t, at)
	}
	return fmt.Sprintf("for %s (until %s)", until(t, at), at.Local().Format("2006-01-02 15:04"))
}

func loginExpiry(t, at time.Time) string {
	if at.IsZero() {
		return "not known (the provider ends a login 30 days after its sign-in)"
	}
	return expiry(t, at)
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return printable(s, 80)
}

func (a *app) checkCommand() *cobra.Command {
	var live bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Say by the exit code whether a login can be relied on (0 yes, 4 sign in again)",
		Long: `For monitoring: refreshes the login if that is due, prints one line, and exits with
0 when all is well, 4 when you must sign in again, 1 on other trouble.

--live also has the platform accept the access token, with one small request that
uses no model.`,
		Args: args(cobra.NoArgs),
	}
	profile := profileFlag(c)
	c.Flags().BoolVar(&live, "live", false, "ask the platform, too")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.check(c.Context(), *profile, live) }
	return c
}

func (a *app) check(ctx context.Context, name string, live bool) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	p, err := h.profile(ctx, name)
	if err != nil {
		return err
	}
	r, err := a.newRefresher(h, a.log())
	if err != nil {
		return err
	}
	defer r.Stop()
	var probe refresh.Probe
	if live {
		client, err := refresh.PlatformClient()
		if err != nil {
			return err
		}
		probe = refresh.NewProbe(client)
	}
	s, err := r.Check(ctx, p.ID, probe)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(profileStatus{p, s})
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %s, access token %s\n", p.Name, a.healthText(s), expiry(now(), s.AccessExpires))
	return err
}

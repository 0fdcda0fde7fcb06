package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
)

// statusReport is what `status --json` prints. Its names are an interface.
type statusReport struct {
	Dir      string          `json:"dir"`
	Profiles []profileStatus `json:"profiles"`
	Agent    agentState      `json:"agent"`
	Sandbox  sandboxState    `json:"sandbox"`
	Daemon   *api.Daemon     `json:"daemon,omitempty"` // absent when none runs
	Parked   int             `json:"parked_runs,omitempty"`
}

type profileStatus struct {
	Profile hub.Profile `json:"profile"`
	Email   string      `json:"email,omitempty"` // absent where the sign-in did not tell it
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
	a.profileFlagVar(c, &profile, "", "only this profile")
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
	report.Sandbox = a.sandboxOf(ctx, h, report.Agent.Version)
	for _, p := range profiles {
		s, err := r.Status(ctx, p.ID)
		if err != nil {
			return report, fmt.Errorf("profile %q: %w", p.Name, err)
		}
		report.Profiles = append(report.Profiles, profileStatus{p, h.email(ctx, p.ID, s.Account), s})
	}
	report.Parked = h.parkedRuns(ctx)
	if client, err := api.Dial(ctx, socketPath(h.dir)); err == nil {
		defer client.Close()
		if d, err := client.Daemon(ctx); err == nil {
			report.Daemon = &d
		}
	}
	return report, nil
}

// email returns who is signed in, "" if that is not known. The name is kept apart
// from the login: where the login has an account, the name must be of that.
func (h *home) email(ctx context.Context, profile hub.ProfileID, account string) string {
	record, err := h.vault.Latest(ctx, profile, hub.KindAccount)
	if err != nil {
		return "" // the UUID says it, too
	}
	a, err := agent.ParseAccount(record.Payload)
	if err != nil || account != "" && a.UUID != account {
		return ""
	}
	return a.Email
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
	rows = append(rows, []string{"sandbox", r.Sandbox.text()})
	if r.Parked > 0 {
		rows = append(rows, []string{"parked", fmt.Sprintf("%d (they go on by themselves: `claude-hub runs --running` says when)", r.Parked)})
	}
	daemon := "not running (runs and refreshes work without it)"
	if r.Daemon != nil {
		daemon = fmt.Sprintf("running, pid %d, since %s", r.Daemon.PID, r.Daemon.Started.Local().Format("2006-01-02 15:04"))
		if r.Daemon.Page != "" {
			daemon += ", page at " + printable(r.Daemon.Page, 200)
		}
	}
	return a.table(append(rows, []string{"daemon", daemon}))
}

func (a *app) profileRows(p profileStatus) [][]string {
	t := now()
	rows := [][]string{
		{"profile", string(p.Profile.Name) + " (" + orDash(cmp.Or(p.Email, p.Account)) + ")"},
		{"plan", orDash(p.Plan)},
		{"health", a.healthText(p.Status)},
	}
	if p.Generation == 0 {
		rows = append(rows, []string{"login", "none (sign in with " + a.forProfile("`claude-hub login`", string(p.Profile.Name)) + ")"})
	} else {
		rows = append(rows, []string{"access", expiry(t, p.AccessExpires)}, []string{"login", loginExpiry(t, p.LoginExpires)},
			[]string{"generation", fmt.Sprint(p.Generation)})
	}
	if !p.LastRefresh.IsZero() {
		rows = append(rows, []string{"refreshed", ago(t, p.LastRefresh)})
	}
	if c := p.FullCopy; c != nil {
		rows = append(rows, []string{"copy", fmt.Sprintf("a second writer in waiting: all of this login was restored to %s, %s", printable(strings.Join(c.To, ", "), 1000), ago(t, c.At))})
	}
	return append(rows, []string{"spare", a.spareText(t, p)})
}

func (a *app) spareText(t time.Time, p profileStatus) string {
	switch s := p.Spare; {
	case s == nil:
		return "none (add one with " + a.forProfile("`claude-hub login --setup-token`", string(p.Profile.Name)) + ")"
	case s.Refused:
		return "setup token, refused by the platform: make a new one"
	case p.ServedBySpare:
		return "setup token, in use, " + expiry(t, s.Expires)
	default:
		return "setup token, " + expiry(t, s.Expires)
	}
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
uses no model. While a setup token (the spare) serves the runs, it asks the
platform nothing.`,
		Args: args(cobra.NoArgs),
	}
	profile := a.profileFlag(c)
	c.Flags().BoolVar(&live, "live", false, "ask the platform, too")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.check(c.Context(), *profile, live) }
	return c
}

func (a *app) check(ctx context.Context, name string, live bool) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	p, err := h.signedIn(ctx, name)
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
	if s.Profile == "" { // nothing could be found out
		return err
	}
	if s.Health == hub.HealthOK && errors.Is(err, hub.ErrLoginRequired) { // the platform has just said so
		s.Health, s.Reason = hub.HealthLoginRequired, err.Error()
	}
	if err := a.showCheck(profileStatus{p, h.email(ctx, p.ID, s.Account), s}); err != nil {
		return err
	}
	if s.Health == hub.HealthOK || err != nil && !errors.Is(err, hub.ErrLoginRequired) {
		return err
	}
	if s.Health == hub.HealthLoginRequired {
		a.printHint(a.forProfile("sign in with `claude-hub login`", name))
		return exitStatus(exitLoginRequired)
	}
	return exitStatus(exitError)
}

// showCheck prints the one line, or the record. It is told on standard output
// what is wrong, too: that is where monitoring looks.
func (a *app) showCheck(s profileStatus) error {
	if a.json {
		return a.printJSON(s)
	}
	until := ""
	switch {
	case s.ServedBySpare:
		until = ", runs use the setup token, " + expiry(now(), s.Spare.Expires)
	case s.Health == hub.HealthOK:
		until = ", access token " + expiry(now(), s.AccessExpires)
	}
	_, err := fmt.Fprintf(a.stdout, "%s: %s%s\n", s.Profile.Name, a.healthText(s.Status), until)
	return err
}

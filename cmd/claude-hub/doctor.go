package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/doctor"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker/image"
	"github.com/claude-hub/claude-hub/internal/vault"
)

type doctorOptions struct {
	fix, live, simulate bool
	look                []string
}

func (a *app) doctorCommand() *cobra.Command {
	var o doctorOptions
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong, say why, and mend what a program can mend",
		Long: `Looks at the hub's directory, its key and vault, the logins, the claude CLI, the
sandbox, the network and the daemon. Each finding has a symptom, a cause and a
fix. It works on a broken hub, too, and changes nothing.

--fix does the fixes that a program can do, looks again, and says what it did.
--live also asks the platform, with one small request without a login, whether it
is there and what time it is.
--dir looks at a directory with a captured login, such as one that a container
mounts, as well.
--simulate rehearses a refresh, a hub that is killed, a lost answer and the end of
a login with the real claude CLI, against a stand-in platform in a directory of
its own. Your hub and your login are not touched.

The exit code is 1 if something does not work, and 0 if all is well or there are
warnings only.`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.simulate {
				if o.fix || o.live || len(o.look) > 0 {
					return usageError{errors.New("--simulate goes with no other flag but --json")}
				}
				return a.rehearse(c.Context())
			}
			return a.doctor(c.Context(), o)
		},
	}
	c.Flags().BoolVar(&o.fix, "fix", false, "do the fixes that a program can do")
	c.Flags().BoolVar(&o.live, "live", false, "ask the platform, too")
	c.Flags().StringArrayVar(&o.look, "dir", nil, "look at this captured directory, too (may be given several times)")
	c.Flags().BoolVar(&o.simulate, "simulate", false, "rehearse a refresh, a lost answer and the end of a login, apart from your hub")
	c.MarkFlagDirname("dir") //nolint:errcheck // it fails only for a flag that isn't there
	return c
}

func (a *app) doctor(ctx context.Context, o doctorOptions) error {
	cfg, err := a.doctorConfig(o)
	if err != nil {
		return err
	}
	d := doctor.New(cfg)
	var report doctor.Report
	if o.fix {
		report = d.Treat(ctx)
	} else {
		report = d.Examine(ctx)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(report)
	} else {
		err = a.showReport(report)
	}
	if err == nil && report.Errors() > 0 {
		err = exitStatus(exitError)
	}
	return err
}

// doctorConfig joins what the doctor looks at. It opens nothing: each part may be
// what is broken.
func (a *app) doctorConfig(o doctorOptions) (doctor.Config, error) {
	dir, err := a.hubDir()
	if err != nil {
		return doctor.Config{}, err
	}
	cfg := doctor.Config{
		Dir: dir, KeyFile: a.getenv("CLAUDE_HUB_KEY_FILE"), Environ: a.environ, Version: version(),
		Settings: func() (doctor.Settings, error) { return a.doctorSettings(dir) },
		Logins: func(ctx context.Context, v *vault.Vault, profiles []hub.Profile) []doctor.Login {
			return a.doctorLogins(ctx, dir, v, profiles)
		},
		Finish:    a.finishRefresh,
		Sandboxes: func() []doctor.Sandbox { return a.doctorSandboxes(dir) },
		Images:    func(ctx context.Context) []doctor.Image { return a.doctorImages(ctx, dir) },
	}
	for _, look := range o.look {
		if look, err = filepath.Abs(look); err != nil {
			return doctor.Config{}, err
		}
		cfg.Look = append(cfg.Look, look)
	}
	if o.live {
		cfg.Date = platformDate
	}
	return cfg, nil
}

// doctorSettings reads config.yaml, and has the recovery recipients parsed, as
// opening the vault does.
func (a *app) doctorSettings(dir string) (doctor.Settings, error) {
	cfg, err := readConfig(configPath(dir))
	if err != nil {
		return doctor.Settings{}, err
	}
	if key, err := a.readKey(dir); err == nil {
		if _, err := vault.New(nil, key, vault.Options{Recipients: cfg.RecoveryRecipients}); err != nil {
			return doctor.Settings{}, err
		}
	}
	h := &home{dir: dir, config: cfg}
	if _, _, err := a.wantedDriver(h); err != nil {
		return doctor.Settings{}, err
	}
	if _, err := a.targets(h); err != nil {
		return doctor.Settings{}, err
	}
	return doctor.Settings{RecoveryRecipients: cfg.RecoveryRecipients}, nil
}

func (a *app) doctorLogins(ctx context.Context, dir string, v *vault.Vault, profiles []hub.Profile) []doctor.Login {
	r, err := a.newRefresher(&home{dir: dir, vault: v}, a.log())
	if err == nil {
		defer r.Stop()
	}
	var all []doctor.Login
	for _, p := range profiles {
		l := doctor.Login{Profile: p, Err: err}
		if err == nil {
			var s refresh.Status
			s, l.Err = r.Status(ctx, p.ID)
			fillLogin(&l, s)
		}
		all = append(all, l)
	}
	return all
}

func fillLogin(l *doctor.Login, s refresh.Status) {
	l.Health, l.Reason, l.SignedIn, l.LoginExpires, l.Failures = s.Health, s.Reason, s.SignedIn, s.LoginExpires, s.Failures
	l.Interrupted, l.ServedBySpare, l.SecondWriter = s.Interrupted, s.ServedBySpare, s.SecondWriter
	if s.HandedOver != nil {
		l.HandedOver = strings.Join(s.HandedOver.To, ", ")
	}
	if s.FullCopy != nil {
		l.CopiedTo = strings.Join(s.FullCopy.To, ", ")
	}
	if s.Spare != nil {
		l.Spare = &doctor.Spare{Expires: s.Spare.Expires, Refused: s.Spare.Refused}
	}
}

// finishRefresh has a helper finish an interrupted refresh. That the login is then
// to be signed in again is what the next examination says.
func (a *app) finishRefresh(ctx context.Context, profile hub.ProfileID) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	r, err := a.newRefresher(h, a.log())
	if err != nil {
		return err
	}
	defer r.Stop()
	_, err = r.Refresh(ctx, profile, false)
	if errors.Is(err, hub.ErrLoginRequired) {
		return nil
	}
	return err
}

// doctorHome is the hub as far as the choice of a driver needs it.
func (a *app) doctorHome(dir string) (*home, string, error) {
	cfg, err := readConfig(configPath(dir))
	h := &home{dir: dir, config: cfg}
	if err != nil {
		return h, driverAuto, err // what the settings say is not known; they have a finding of their own
	}
	name, _, err := a.wantedDriver(h)
	return h, name, err
}

// doctorSandboxes returns what is asked for, or all in their order. An engine is
// tried with a directory apart from the hub's, which stays as it is.
func (a *app) doctorSandboxes(dir string) []doctor.Sandbox {
	h, wanted, err := a.doctorHome(dir)
	if err != nil || wanted == driverAuto {
		wanted = ""
	}
	var all []doctor.Sandbox
	for _, name := range driverNames[1:] {
		if wanted != "" && name != wanted {
			continue
		}
		s := doctor.Sandbox{Name: name, Wanted: name == wanted, Engine: name != driverBubblewrap}
		s.Check = func(ctx context.Context) error { return a.tryEngine(ctx, h, name) }
		if name == driverBubblewrap {
			s.Check = func(ctx context.Context) error { return tryBubblewrap(ctx, a) }
		}
		all = append(all, s)
	}
	return all
}

func tryBubblewrap(ctx context.Context, a *app) error {
	d, err := bubblewrap.New(bubblewrap.Config{Log: a.log()})
	if err != nil {
		return err
	}
	return d.Check(ctx)
}

func (a *app) tryEngine(ctx context.Context, h *home, kind string) error {
	apart, err := os.MkdirTemp("", "claude-hub-doctor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(apart)
	d, err := docker.New(docker.Config{Kind: kind, Dir: apart, Image: a.runImage(ctx, h), Environ: a.environ, Log: a.log()})
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Check(ctx)
}

// runImage is what containers of runs are made of.
func (a *app) runImage(ctx context.Context, h *home) string {
	if h.config.Image != "" {
		return h.config.Image
	}
	return image.Name(image.Agent, a.askVersion(ctx, h))
}

// askVersion returns the CLI's version, without the hub's remembering it.
func (a *app) askVersion(ctx context.Context, h *home) string {
	path, err := h.agentPath()
	if err != nil {
		return ""
	}
	version, err := agent.Version(ctx, path)
	if err != nil {
		return "" // the CLI has a finding of its own
	}
	return version
}

// doctorImages looks at the image of runs, where the settings ask for an engine.
func (a *app) doctorImages(ctx context.Context, dir string) []doctor.Image {
	h, wanted, err := a.doctorHome(dir)
	if err != nil || wanted == driverAuto || wanted == driverBubblewrap {
		return nil
	}
	engine, err := docker.Dial(ctx, wanted, "", a.environ)
	if err != nil {
		return nil // the engine has a finding of its own
	}
	defer engine.Close()
	return []doctor.Image{a.lookAtImage(ctx, engine, a.runImage(ctx, h), a.askVersion(ctx, h))}
}

func (a *app) lookAtImage(ctx context.Context, engine *client.Client, name, version string) doctor.Image {
	i := doctor.Image{Name: name}
	there, err := engine.ImageInspect(ctx, name)
	switch {
	case err != nil:
		i.Err = hub.Hint(err, "build it with `claude-hub image build`")
	case there.Config != nil && there.Config.Labels[image.LabelVersion] != "" && version != "" && there.Config.Labels[image.LabelVersion] != version:
		i.Stale = fmt.Sprintf("it has claude %s, the hub %s", there.Config.Labels[image.LabelVersion], version)
	}
	return i
}

// platformDate asks the platform for its time, with a request that carries no
// login and that the CLI makes, too.
func platformDate(ctx context.Context) (time.Time, error) {
	client, err := refresh.PlatformClient()
	if err != nil {
		return time.Time{}, err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://api.anthropic.com/api/hello", nil)
	if err != nil {
		return time.Time{}, err
	}
	req.Header.Set("User-Agent", "claude-hub")
	resp, err := client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	resp.Body.Close()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("its answer (status %d) has no date", resp.StatusCode)
	}
	return date, nil
}

// showReport prints the findings in groups, worst first in none of them: the order
// is that of the checks, which is that of mending.
func (a *app) showReport(r doctor.Report) error {
	var b strings.Builder
	for _, repair := range r.Repairs {
		if repair.Error != "" {
			fmt.Fprintf(&b, "%s %s could not be mended: %s\n", a.style(a.stdout, red, "✗"), repair.ID, repair.Error)
		} else {
			fmt.Fprintf(&b, "%s %s: %s\n", a.style(a.stdout, green, "✓"), repair.ID, repair.Did)
		}
	}
	if len(r.Repairs) > 0 {
		b.WriteString("\n")
	}
	group, fixable := "", 0
	for _, f := range r.Findings {
		if g := groupOf(f.ID); g != group {
			group = g
			fmt.Fprintf(&b, "%s\n", a.style(a.stdout, bold, group))
		}
		a.writeFinding(&b, f)
		if f.Fixable {
			fixable++
		}
	}
	if len(r.Findings) == 0 {
		fmt.Fprintf(&b, "%s All is well: %d things were looked for.\n", a.style(a.stdout, green, "✓"), len(r.Checked))
		a.writeForecasts(&b, r.Forecasts)
	}
	if fixable > 0 && len(r.Repairs) == 0 {
		fmt.Fprintf(&b, "Next: %s mends %d of %d.\n", a.style(a.stdout, bold, "claude-hub doctor --fix"), fixable, len(r.Findings))
	}
	_, err := fmt.Fprint(a.stdout, b.String())
	return err
}

func (a *app) writeFinding(b *strings.Builder, f doctor.Finding) {
	mark, sgr := "✗", red
	if f.Level == doctor.LevelWarning {
		mark, sgr = "!", yellow
	}
	fmt.Fprintf(b, "  %s %s: %s\n", a.style(a.stdout, sgr, mark), f.ID, printable(f.Symptom, 700))
	fmt.Fprintf(b, "      why  %s\n", printable(f.Cause, 700))
	fmt.Fprintf(b, "      fix  %s\n\n", printable(f.Fix, 700))
}

func (a *app) writeForecasts(b *strings.Builder, forecasts []doctor.Forecast) {
	for _, f := range forecasts {
		what, latest := "login", ""
		if f.What != "login" {
			what = "setup token"
		}
		if f.AtLatest {
			latest = " at the latest"
		}
		fmt.Fprintf(b, "  The %s of %q ends on %s, in %s%s.\n", what, f.Profile, f.Ends.Local().Format("2006-01-02"), until(now(), f.Ends), latest)
	}
}

// groupOf returns the heading that a finding belongs under.
func groupOf(id string) string {
	all := doctor.Catalog()
	if i := slices.IndexFunc(all, func(e doctor.Entry) bool { return e.ID == id }); i >= 0 {
		return all[i].Group()
	}
	return "other"
}

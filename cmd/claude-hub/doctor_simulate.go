package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/doctor"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// rehearsal is `doctor --simulate`: what would happen, played with the real CLI
// against a stand-in platform, in a directory that is removed afterwards.
type rehearsal struct {
	*demo
	acts []act
}

// act is one step of a rehearsal. Its JSON is an interface.
type act struct {
	Step  string        `json:"step"`
	Sees  string        `json:"owner_sees"` // what the owner would see, in one line
	Lost  bool          `json:"login_lost"` // by whoever's fault
	OK    bool          `json:"ok"`         // whether the hub did what it promises
	Wrong string        `json:"wrong,omitempty"`
	Took  time.Duration `json:"took_ns"`
}

// rehearsed is what `doctor --simulate --json` prints.
type rehearsed struct {
	Acts         []act `json:"acts"`
	SpentReplays int   `json:"spent_tokens_replayed"` // at the platform, in all of it
	OK           bool  `json:"ok"`
}

func (a *app) rehearse(ctx context.Context) error {
	d, err := a.newDemo(demoOptions{ttl: 8 * time.Hour})
	if err != nil {
		return err
	}
	defer d.close()
	r := &rehearsal{demo: d}
	if !a.json {
		fmt.Fprintf(a.stderr, "A stand-in platform runs on loopback, a hub in %s. Your own are not touched.\n", d.dir)
	}
	if _, err := d.hub(ctx, "init"); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		play func(context.Context) (act, error)
	}{
		{"a sign-in", r.playSignIn},
		{"a refresh", r.playRefresh},
		{"the hub is killed in the middle of a refresh", r.playKill},
		{"a refresh that the platform did not carry out, and whose answer is lost", r.playDropped},
		{"a refresh that the platform carried out, and whose answer is lost", r.playLost},
		{"a new sign-in", r.playSignInAgain},
		{"the last days of a login", r.playWarning},
		{"the end of a login, after 30 days", r.playExpiry},
	} {
		if err := r.play(ctx, step.name, step.play); err != nil {
			return fmt.Errorf("rehearsing %s: %w", step.name, err)
		}
	}
	return r.end()
}

func (r *rehearsal) play(ctx context.Context, name string, play func(context.Context) (act, error)) error {
	if !r.a.json {
		fmt.Fprintf(r.a.stderr, "  %s %s …\n", r.a.style(r.a.stderr, dim, "▸"), name)
	}
	start := time.Now()
	done, err := play(ctx)
	if err != nil {
		return err
	}
	done.Step, done.Took = name, time.Since(start).Round(time.Millisecond)
	done.OK = done.Wrong == ""
	r.acts = append(r.acts, done)
	return nil
}

// end prints what came of it.
func (r *rehearsal) end() error {
	report := rehearsed{Acts: r.acts, SpentReplays: r.sim.Counters().SpentReplays, OK: true}
	for _, done := range r.acts {
		report.OK = report.OK && done.OK
	}
	report.OK = report.OK && report.SpentReplays == 0
	if r.a.json {
		if err := r.a.printJSON(report); err != nil {
			return err
		}
	} else {
		r.show(report)
	}
	if !report.OK {
		return exitStatus(exitError)
	}
	return nil
}

func (r *rehearsal) show(report rehearsed) {
	out := r.a.stdout
	for _, done := range report.Acts {
		mark := r.a.style(out, green, "✓")
		if !done.OK {
			mark = r.a.style(out, red, "✗")
		}
		fmt.Fprintf(out, "%s %s (%s)\n    %s\n", mark, done.Step, done.Took, printable(done.Sees, 500))
		if done.Wrong != "" {
			fmt.Fprintf(out, "    %s\n", r.a.style(out, red, printable(done.Wrong, 500)))
		}
	}
	verdict := "No login was lost by the hub, and no spent refresh token was sent again."
	if !report.OK {
		verdict = "The hub did not do what it promises: see above."
	}
	fmt.Fprintf(out, "\n%s\n", verdict)
}

// status asks the hub of the rehearsal what the owner would ask it.
func (r *rehearsal) status(ctx context.Context) (profileStatus, error) {
	out, err := r.hub(ctx, "status", "--json")
	if err != nil {
		return profileStatus{}, err
	}
	var report statusReport
	if err := json.Unmarshal(out, &report); err != nil {
		return profileStatus{}, err
	}
	if len(report.Profiles) != 1 {
		return profileStatus{}, fmt.Errorf("status shows %d profiles", len(report.Profiles))
	}
	return report.Profiles[0], nil
}

// expect returns the act after the hub's own doctor was asked about the login.
func (r *rehearsal) expect(ctx context.Context, rotations, wantRotations int, wantFinding string) (act, error) {
	s, err := r.status(ctx)
	if err != nil {
		return act{}, err
	}
	out, err := r.hub(ctx, "doctor", "--json")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return act{}, err
	}
	var report doctor.Report
	if err := json.Unmarshal(out, &report); err != nil {
		return act{}, err
	}
	done := act{Sees: fmt.Sprintf("health %s, generation %d", s.Health, s.Generation)}
	found := ""
	for _, f := range report.Findings {
		if groupOf(f.ID) == groupOf("login-required") {
			found = f.ID
			done.Sees += fmt.Sprintf("; doctor: %s: %s; %s; fix: %s", f.ID, f.Symptom, f.Cause, f.Fix)
		}
	}
	switch got := r.sim.Counters().Rotations - rotations; {
	case found != wantFinding:
		done.Wrong = fmt.Sprintf("doctor finds %q where %q was to be", found, wantFinding)
	case got != wantRotations:
		done.Wrong = fmt.Sprintf("%d rotations where %d were to be", got, wantRotations)
	}
	return done, nil
}

func (r *rehearsal) playSignIn(ctx context.Context) (act, error) {
	if err := r.signInWith(ctx, "--in", inHere); err != nil {
		return act{}, err
	}
	done, err := r.expect(ctx, 0, 0, "")
	done.Sees = "a link and a box for the code; then " + done.Sees
	return done, err
}

func (r *rehearsal) playSignInAgain(ctx context.Context) (act, error) {
	rotations := r.sim.Counters().Rotations
	if err := r.signInWith(ctx, "--in", inHere); err != nil {
		return act{}, err
	}
	return r.expect(ctx, rotations, 0, "")
}

// force refreshes the login now, and returns what the owner would see if that
// fails.
func (r *rehearsal) force(ctx context.Context) (said string, err error) {
	cmd := r.command(ctx, r.self, "refresh", "--force")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", err
	}
	return strings.Join(strings.Fields(string(out)), " "), nil
}

func (r *rehearsal) playRefresh(ctx context.Context) (act, error) {
	rotations := r.sim.Counters().Rotations
	if _, err := r.force(ctx); err != nil {
		return act{}, err
	}
	return r.expect(ctx, rotations, 1, "")
}

// playKill kills the asking process as soon as the platform has the refresh token
// and before it answers. The helper goes on by itself.
func (r *rehearsal) playKill(ctx context.Context) (act, error) {
	before := r.sim.Counters()
	r.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultSlow, Delay: 2 * time.Second, Times: 1})
	cmd := r.command(ctx, r.self, "refresh", "--force")
	if err := cmd.Start(); err != nil {
		return act{}, err
	}
	if err := r.await(ctx, func() bool { return r.sim.Counters().TokenRequests > before.TokenRequests }); err != nil {
		return act{}, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return act{}, err
	}
	cmd.Wait()                                       //nolint:errcheck // it was killed
	if _, err := r.hub(ctx, "refresh"); err != nil { // waits for the helper, and finishes what there is
		return act{}, err
	}
	return r.expect(ctx, before.Rotations, 1, "")
}

// await waits for something that happens at the platform.
func (r *rehearsal) await(ctx context.Context, happened func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// playDropped: nothing was rotated, which the hub finds out by the old access
// token; the next try succeeds.
func (r *rehearsal) playDropped(ctx context.Context) (act, error) {
	rotations := r.sim.Counters().Rotations
	r.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultDrop, Times: 1})
	said, err := r.force(ctx)
	if err != nil {
		return act{}, err
	}
	if _, err := r.force(ctx); err != nil {
		return act{}, err
	}
	done, err := r.expect(ctx, rotations, 1, "")
	done.Sees = said + " The next try: " + done.Sees
	return done, err
}

// playLost: on a platform whose refresh tokens are good for one use, nobody can
// keep that login. What the hub promises is to say so, and to do no harm.
func (r *rehearsal) playLost(ctx context.Context) (act, error) {
	rotations := r.sim.Counters().Rotations
	r.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultLostReply, Times: 1})
	if _, err := r.force(ctx); err != nil {
		return act{}, err
	}
	done, err := r.expect(ctx, rotations, 1, "login-required")
	done.Lost = true
	done.Sees = "The platform's answer was all that there was of the new tokens: no client can keep such a login, and a setup token (`claude-hub login --setup-token`) carries runs over it. " + done.Sees
	return done, err
}

// playWarning shows what is said ahead of the end.
func (r *rehearsal) playWarning(ctx context.Context) (act, error) {
	rotations := r.sim.Counters().Rotations
	if _, err := r.adopt(ctx, 72*time.Hour); err != nil {
		return act{}, err
	}
	return r.expect(ctx, rotations, 0, "login-expiring")
}

// littleLeft is what the login of playExpiry has left when it comes to the hub.
const littleLeft = 10 * time.Second

// playExpiry has a login whose 30 days are over in a moment.
func (r *rehearsal) playExpiry(ctx context.Context) (act, error) {
	rotations := r.sim.Counters().Rotations
	ends, err := r.adopt(ctx, littleLeft)
	if err != nil {
		return act{}, err
	}
	if err := r.await(ctx, func() bool { return time.Now().After(ends) }); err != nil {
		return act{}, err
	}
	said, err := r.force(ctx)
	if err != nil {
		return act{}, err
	}
	done, err := r.expect(ctx, rotations, 0, "login-expired")
	done.Lost = true
	done.Sees = said + " Then: " + done.Sees
	return done, err
}

// adopt gives the hub a login with that much of its life left.
func (r *rehearsal) adopt(ctx context.Context, left time.Duration) (ends time.Time, err error) {
	dir, err := os.MkdirTemp(r.dir, "captured-")
	if err != nil {
		return ends, err
	}
	login := r.sim.SignIn(simulator.SignIn{LoginTTL: left})
	if err := os.WriteFile(filepath.Join(dir, agent.CredentialFile), login.Credentials, 0o600); err != nil {
		return ends, err
	}
	_, err = r.hub(ctx, "import", dir)
	return login.LoginExpiresAt, err
}

package refresh_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// The pinned CLI, driven by the helper through its door, against each answer of
// the platform: one token request, and the outcome that the hub relies on.
func TestRealCLI(t *testing.T) {
	t.Parallel()
	claude := hubtest.Claude(t)
	token := simulator.EndpointToken
	for name, c := range map[string]struct {
		cfg       simulator.Config
		fault     simulator.Fault
		rotations int
		health    hub.Health
		words     string // of the CLI
		reason    string // in the status
	}{
		"rotated":              {rotations: 1, health: hub.HealthOK},
		"slow":                 {fault: simulator.Fault{Endpoint: token, Kind: simulator.FaultSlow, Delay: 9 * time.Second}, rotations: 1, health: hub.HealthOK},
		"profile hangs":        {fault: simulator.Fault{Endpoint: simulator.EndpointProfile, Kind: simulator.FaultHang}, rotations: 1, health: hub.HealthOK},
		"no refresh token":     {cfg: simulator.Config{OmitRefreshToken: true}, health: hub.HealthOK},
		"near its expiry":      {cfg: simulator.Config{AccessTTL: 3 * time.Second}, rotations: 1, health: hub.HealthOK},
		"lost":                 {fault: fault(simulator.FaultLostReply, 0), rotations: 1, health: hub.HealthLoginRequired, words: "socket hang up"},
		"half":                 {fault: fault(simulator.FaultHalfReply, 0), rotations: 1, health: hub.HealthLoginRequired},
		"broken":               {fault: fault(simulator.FaultBrokenJSON, 0), rotations: 1, health: hub.HealthLoginRequired},
		"silence":              {fault: fault(simulator.FaultLostHang, 0), rotations: 1, health: hub.HealthLoginRequired, words: "timeout of 30000ms exceeded"},
		"500 after the commit": {fault: fault(simulator.FaultErrorAfterCommit, 0), rotations: 1, health: hub.HealthLoginRequired},
		"hung up":              {fault: fault(simulator.FaultDrop, 0), health: hub.HealthSuspect, words: "socket hang up", reason: "nothing was rotated"},
		"400":                  {fault: fault(simulator.FaultInvalidGrant, 0), health: hub.HealthLoginRequired, words: "status code 400", reason: "status code 400"},
		"429":                  {fault: fault(simulator.FaultRateLimit, 0), health: hub.HealthSuspect, words: "status code 429", reason: "status code 429"},
		"500":                  {fault: fault(simulator.FaultServerError, 0), health: hub.HealthSuspect, words: "status code 500", reason: "status code 500"},
		"529":                  {fault: fault(simulator.FaultOverloaded, 0), health: hub.HealthSuspect, words: "status code 529", reason: "status code 529"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, simulator.Config{OmitRefreshToken: c.cfg.OmitRefreshToken}, claude)
			if c.cfg.AccessTTL != 0 {
				w.sim.SetAccessTTL(c.cfg.AccessTTL)
			}
			if c.fault.Kind != "" {
				w.sim.Inject(c.fault)
			}
			// The CLI and the hub's own question both make do with Node's variable.
			r := w.refresher(impatient, with("TEST_BACKOFF=1h", "SSL_CERT_FILE="))
			out, err := r.Refresh(t.Context(), w.profile.ID, true)
			s := w.status(r)
			if s.Health != c.health || !strings.Contains(s.Reason, c.reason) {
				t.Errorf("status = %s, %q; want %s, %q", s.Health, s.Reason, c.health, c.reason)
			}
			if rotated := c.health == hub.HealthOK; rotated != (err == nil && out.Generation == 2) {
				t.Errorf("Refresh = %+v, %v", out, err)
			}
			if c.health == hub.HealthOK {
				w.wantGoodSuccessor(c.cfg.OmitRefreshToken)
			}
			w.wantCounts(1, c.rotations)
			if log := w.helperLog(); !strings.Contains(log, c.words) || !strings.Contains(log, c.reason) {
				t.Errorf("the log does not say %q and %q:\n%s", c.words, c.reason, log)
			}
		})
	}
}

// wantGoodSuccessor checks that generation 2 has new tokens, the plan of the
// sign-in, and its end.
func (w *world) wantGoodSuccessor(keepsRefreshToken bool) {
	w.t.Helper()
	rec, err := w.vault.Latest(w.t.Context(), w.profile.ID, hub.KindLogin)
	if err != nil {
		w.t.Fatal(err)
	}
	cred, err := agent.ParseCredentials(rec.Payload)
	if err != nil {
		w.t.Fatal(err)
	}
	if rec.Generation != 2 || cred.AccessToken.Reveal() == w.login.AccessToken || (cred.RefreshToken.Reveal() == w.login.RefreshToken) != keepsRefreshToken {
		w.t.Errorf("generation %d does not have the new tokens", rec.Generation)
	}
	if cred.Subscription != "max" || cred.RateLimitTier != w.login.Account.RateLimitTier || cred.AccountUUID != w.login.Account.UUID || cred.LoginExpiresAt.Sub(w.login.LoginExpiresAt).Abs() > time.Minute {
		w.t.Errorf("generation 2 is on plan %q, %q, ends %v; want those of the sign-in", cred.Subscription, cred.RateLimitTier, cred.LoginExpiresAt)
	}
}

// facts is a CLI beside a platform, with nothing of ours between them.
type facts struct {
	t      *testing.T
	claude string
	sim    *simulator.Simulator
	login  simulator.Login // its access token has expired
	home   string
	output string
	exit   int
	took   time.Duration
}

func newFacts(t *testing.T, f simulator.Fault) *facts {
	t.Helper()
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	c := &facts{t: t, claude: hubtest.Claude(t), sim: sim, home: t.TempDir(), login: sim.SignIn(simulator.SignIn{AccessTTL: -time.Minute})}
	if err := os.Mkdir(filepath.Join(c.home, ".claude"), 0o700); err != nil {
		t.Fatal(err)
	}
	if f.Kind != "" {
		sim.Inject(f)
	}
	return c
}

// run runs a command of the CLI for at most the given time.
func (c *facts) run(most time.Duration, set map[string]string, args ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), most)
	defer cancel()
	variables := map[string]string{"HOME": c.home, "CLAUDE_CONFIG_DIR": filepath.Join(c.home, ".claude"), "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
	for _, kv := range c.sim.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		variables[name] = value
	}
	for name, value := range set {
		variables[name] = value
	}
	cmd := exec.CommandContext(ctx, c.claude, args...)
	cmd.Dir = c.home
	cmd.Env = agent.Environ([]string{"PATH=" + os.Getenv("PATH")}, variables)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	c.output, c.exit, c.took = string(out), cmd.ProcessState.ExitCode(), time.Since(start)
}

// authLogin gives the refresh token in the environment.
func (c *facts) authLogin(most time.Duration) {
	c.t.Helper()
	c.run(most, map[string]string{"CLAUDE_CODE_OAUTH_REFRESH_TOKEN": c.login.RefreshToken, "CLAUDE_CODE_OAUTH_SCOPES": strings.Join(c.login.Scopes, " ")}, "auth", "login")
}

// expiredFile leaves the login as a sign-in does.
func (c *facts) expiredFile() {
	c.t.Helper()
	if err := os.WriteFile(agent.CredentialPath(c.home), c.login.Credentials, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// file returns the CLI's credential file.
func (c *facts) file() []byte {
	b, _ := os.ReadFile(agent.CredentialPath(c.home))
	return b
}

func (c *facts) want(what string, ok bool) {
	c.t.Helper()
	if !ok {
		n := c.sim.Counters()
		c.t.Errorf("not any more: %s\nexit %d after %v, %d token requests, %d rotations, %d spent, words %q, file of %d bytes",
			what, c.exit, c.took, n.TokenRequests, n.Rotations, n.SpentReplays, c.output, len(c.file()))
	}
}

// What three commands of the pinned CLI do about a token that has expired. The hub
// is built on the first column; the others show why. If an update changes any of
// it, this is where it is seen.
func TestFactsAboutTheCLI(t *testing.T) {
	t.Parallel()
	t.Run("auth login", func(t *testing.T) {
		for name, c := range map[string]struct {
			fault simulator.Fault
			exit  int
			words string
		}{
			"rotates":       {exit: 0, words: "Login successful."},
			"lost answer":   {fault: fault(simulator.FaultLostReply, 0), exit: 1, words: "Couldn't log in: socket hang up"},
			"invalid_grant": {fault: fault(simulator.FaultInvalidGrant, 0), exit: 1, words: "Couldn't log in: Request failed with status code 400"},
			"429":           {fault: fault(simulator.FaultRateLimit, 0), exit: 1, words: "Couldn't log in: Request failed with status code 429"},
			"500":           {fault: fault(simulator.FaultServerError, 0), exit: 1, words: "Couldn't log in: Request failed with status code 500"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := newFacts(t, c.fault)
				f.authLogin(time.Minute)
				f.want("exactly one token request", f.sim.Counters().TokenRequests == 1)
				f.want("the words", f.exit == c.exit && strings.Contains(f.output, c.words))
				f.want("a file if, and only if, it rotated", (len(f.file()) > 0) == (c.exit == 0))
			})
		}
		t.Run("without a door it writes late when the profile endpoint hangs", func(t *testing.T) {
			t.Parallel()
			f := newFacts(t, simulator.Fault{Endpoint: simulator.EndpointProfile, Kind: simulator.FaultHang})
			f.authLogin(6 * time.Second) // it would take 40
			f.want("the answer came, and after seconds there is no file yet", f.sim.Counters().Rotations == 1 && len(f.file()) == 0)
		})
	})
	t.Run("auth status", func(t *testing.T) {
		status := func(t *testing.T, fault simulator.Fault) *facts {
			f := newFacts(t, fault)
			f.expiredFile()
			f.run(time.Minute, nil, "auth", "status")
			return f
		}
		t.Run("says that all is well when the answer was lost", func(t *testing.T) {
			t.Parallel()
			f := status(t, fault(simulator.FaultLostReply, 0))
			f.want("one token request, exit 0, loggedIn: true", f.sim.Counters().TokenRequests == 1 && f.exit == 0 && strings.Contains(f.output, `"loggedIn": true`))
		})
		t.Run("loses a rotation after 8 s", func(t *testing.T) {
			t.Parallel()
			f := status(t, simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultSlow, Delay: 15 * time.Second})
			f.want("it gave up, and the file holds the spent token", f.took < 14*time.Second && bytes.Contains(f.file(), []byte(f.login.RefreshToken)))
		})
		t.Run("loses a rotation when the profile endpoint hangs", func(t *testing.T) {
			t.Parallel()
			f := status(t, simulator.Fault{Endpoint: simulator.EndpointProfile, Kind: simulator.FaultHang})
			f.want("rotated, and the file holds the spent token", f.sim.Counters().Rotations == 1 && bytes.Contains(f.file(), []byte(f.login.RefreshToken)))
		})
		t.Run("blanks the file on invalid_grant", func(t *testing.T) {
			t.Parallel()
			f := status(t, fault(simulator.FaultInvalidGrant, 0))
			f.want("exit 1, and no tokens", f.exit == 1 && !bytes.Contains(f.file(), []byte(f.login.RefreshToken)))
		})
	})
	t.Run("-p replays after a lost answer", func(t *testing.T) {
		t.Parallel()
		// The first request asks for scopes that this login does not have, and is refused.
		f := newFacts(t, simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultLostReply, Skip: 1, Times: 1})
		f.expiredFile()
		f.run(time.Minute, nil, "-p", "hello")
		f.want("the spent token was sent again, and the login is gone", f.sim.Counters().SpentReplays > 0 && f.sim.Counters().FamiliesRevoked == 1)
	})
}

package refresh_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// The test binary plays every process of the story, by this variable.
const roleVariable = "REFRESH_TEST_ROLE"

// quickExit keeps a binary with the race detector from sleeping a second at its end.
const quickExit = "GORACE=atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	roles := map[string]func() error{"helper": playHelper, "cli": playCLI, "asker": playAsker, "daemon": playDaemon, "naive": playNaive, "smalldisk": playSmallDisk}
	if role := roles[os.Getenv(roleVariable)]; role != nil {
		if err := role(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// world is a hub's directory beside a platform.
type world struct {
	t       testing.TB
	sim     *simulator.Simulator
	dir     string
	vault   *vault.Vault
	profile hub.Profile
	environ []string // of helpers
	login   simulator.Login
}

// newWorld signs a profile in. The CLI is a stand-in, unless agent names another.
func newWorld(t testing.TB, cfg simulator.Config, agent string) *world {
	t.Helper()
	sim, err := simulator.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	w := &world{t: t, sim: sim, dir: t.TempDir(), profile: hub.Profile{ID: hub.NewProfileID(), Name: hub.DefaultProfile, Created: time.Now()}}
	if err := os.Chmod(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.CreateKey(filepath.Join(w.dir, "key")); err != nil {
		t.Fatal(err)
	}
	if err := vault.Init(filepath.Join(w.dir, "vault")); err != nil {
		t.Fatal(err)
	}
	if w.vault, err = openVault(w.dir); err != nil {
		t.Fatal(err)
	}
	if err := w.vault.CreateProfile(t.Context(), w.profile); err != nil {
		t.Fatal(err)
	}
	if agent == "" {
		agent = standIn(t)
	}
	w.environ = append(sim.Environ(), roleVariable+"=helper", "TEST_HUB="+w.dir, "TEST_AGENT="+agent, "TEST_BACKOFF=10ms", quickExit, "PATH="+os.Getenv("PATH"))
	w.signIn(simulator.SignIn{})
	t.Cleanup(w.reap)
	return w
}

// reap waits for helpers that are still at work, so that they don't outlive the
// test's directory.
func (w *world) reap() {
	f, err := os.OpenFile(filepath.Join(w.refreshDir(), "lock"), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
}

func openVault(dir string) (*vault.Vault, error) {
	key, err := vault.ReadKey(filepath.Join(dir, "key"))
	if err != nil {
		return nil, err
	}
	files, err := vault.Open(filepath.Join(dir, "vault"))
	if err != nil {
		return nil, err
	}
	return vault.New(files, key, vault.Options{})
}

// standIn writes a program that this binary plays: it does what the real CLI does
// at `auth login`, only faster.
func standIn(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "claude")
	script := "#!/bin/sh\n" + roleVariable + "=cli " + quickExit + " exec '" + os.Args[0] + "' \"$@\"\n"
	hubtest.Script(t, path, script)
	return path
}

// signIn commits a new sign-in as the next generation.
func (w *world) signIn(in simulator.SignIn) {
	w.t.Helper()
	w.login = w.sim.SignIn(in)
	w.commit(hub.KindLogin, w.login.Credentials)
}

func (w *world) commit(kind hub.Kind, payload []byte) {
	w.t.Helper()
	gen, err := w.vault.Generation(context.Background(), w.profile.ID, kind)
	if err == nil {
		_, err = w.vault.Commit(context.Background(), w.profile.ID, kind, gen, payload)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// spare commits a setup token and returns it.
func (w *world) spare() string {
	w.t.Helper()
	token := w.sim.SetupToken()
	s, err := agent.NewSetupToken(secret.New(token), time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	payload, err := s.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	w.commit(hub.KindSetupToken, payload)
	return token
}

func config(dir string, v *vault.Vault, environ []string) refresh.Config {
	return refresh.Config{Vault: v, Dir: dir, Command: []string{os.Args[0]}, Environ: environ, Backoff: 10 * time.Millisecond}
}

// refresher returns a refresher as one process of the hub has it.
func (w *world) refresher(options ...func(*refresh.Config)) *refresh.Refresher {
	w.t.Helper()
	cfg := config(w.dir, w.vault, w.environ)
	if testing.Verbose() {
		cfg.Log = slog.New(slog.NewTextHandler(w.t.Output(), nil))
	}
	for _, o := range options {
		o(&cfg)
	}
	r, err := refresh.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Stop)
	return r
}

// at moves the clocks of a refresher and its helpers.
func (w *world) at(skew time.Duration) func(*refresh.Config) {
	return func(cfg *refresh.Config) {
		cfg.Now = func() time.Time { return time.Now().Add(skew) }
		cfg.Environ = append(slices.Clone(cfg.Environ), "TEST_SKEW="+skew.String())
	}
}

// with adds variables to the helpers' environment; later ones win.
func with(variables ...string) func(*refresh.Config) {
	return func(cfg *refresh.Config) { cfg.Environ = append(slices.Clone(cfg.Environ), variables...) }
}

// impatient makes AccessToken report trouble at once.
func impatient(cfg *refresh.Config) { cfg.MaxWait = -1 }

func (w *world) refreshDir() string { return filepath.Join(w.dir, "refresh", string(w.profile.ID)) }

// leftovers returns the names in the profile's refresh directory that start with prefix.
func (w *world) leftovers(prefix string) []string {
	w.t.Helper()
	names, err := filepath.Glob(filepath.Join(w.refreshDir(), prefix+"*"))
	if err != nil {
		w.t.Fatal(err)
	}
	return names
}

// failAt makes the next helper that comes to the failpoint do something there,
// once: "kill" itself, return an "error", or "hold" until release.
func (w *world) failAt(point, action string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "failpoint"), []byte(point+" "+action), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// failed checks that a helper has come to the failpoint.
func (w *world) failed() {
	w.t.Helper()
	if _, err := os.Stat(filepath.Join(w.dir, "failpoint")); err == nil {
		w.t.Error("no helper came to the failpoint")
	}
}

// holding waits until a helper is held at its failpoint.
func (w *world) holding() {
	w.t.Helper()
	w.eventually("a helper comes to the failpoint", func() bool {
		_, err := os.Stat(filepath.Join(w.dir, "holding"))
		return err == nil
	})
}

func (w *world) release() { os.Remove(filepath.Join(w.dir, "holding")) }

// eventually polls: what it waits for is the doing of other processes.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited a minute in vain: %s\n%s", what, w.helperLog())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) helperLog() string {
	b, _ := os.ReadFile(filepath.Join(w.refreshDir(), "helper.log"))
	return string(b)
}

func (w *world) status(r *refresh.Refresher) refresh.Status {
	w.t.Helper()
	s, err := r.Status(w.t.Context(), w.profile.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// token asks for an access token that must come and must be alive.
func (w *world) token(r *refresh.Refresher, stale hub.Generation) (string, hub.Generation) {
	w.t.Helper()
	token, gen, err := r.AccessToken(w.t.Context(), w.profile.ID, stale)
	if err != nil {
		w.t.Fatalf("AccessToken after generation %d: %v\n%s", stale, err, w.helperLog())
	}
	if !w.sim.Live(token.Reveal()) {
		w.t.Fatalf("the platform does not accept the token of generation %d\n%s", gen, w.helperLog())
	}
	return token.Reveal(), gen
}

// wantCounts checks what the platform saw at its token endpoint, and that no
// spent token was ever shown to it.
func (w *world) wantCounts(tokenRequests, rotations int) {
	w.t.Helper()
	c := w.sim.Counters()
	if c.TokenRequests != tokenRequests || c.Rotations != rotations || c.SpentReplays != 0 || c.FamiliesRevoked != 0 {
		w.t.Errorf("the platform saw %d token requests, %d rotations, %d spent tokens, revoked %d logins; want %d, %d, 0, 0\n%s",
			c.TokenRequests, c.Rotations, c.SpentReplays, c.FamiliesRevoked, tokenRequests, rotations, w.helperLog())
	}
}

// playHelper is the hidden command.
func playHelper() error {
	dir := os.Getenv("TEST_HUB")
	v, err := openVault(dir)
	if err != nil {
		return err
	}
	cfg := refresh.HelperConfig{Vault: v, Dir: dir, Agent: os.Getenv("TEST_AGENT"), Args: os.Args[1:], Failpoint: failpoint(dir)}
	if cfg.Backoff, err = time.ParseDuration(os.Getenv("TEST_BACKOFF")); err != nil {
		return err
	}
	if p := os.Getenv("TEST_PATIENCE"); p != "" {
		if cfg.Patience, err = time.ParseDuration(p); err != nil {
			return err
		}
	}
	if s := os.Getenv("TEST_SKEW"); s != "" {
		skew, err := time.ParseDuration(s)
		if err != nil {
			return err
		}
		cfg.Now = func() time.Time { return time.Now().Add(skew) }
	}
	return refresh.HelperMain(context.Background(), cfg)
}

func failpoint(dir string) func(string) error {
	file, held := filepath.Join(dir, "failpoint"), filepath.Join(dir, "holding")
	return func(name string) error {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil
		}
		point, action, _ := strings.Cut(string(b), " ")
		if point != name {
			return nil
		}
		os.Remove(file)
		switch action {
		case "kill":
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		case "hold":
			if err := os.WriteFile(held, nil, 0o600); err != nil {
				return err
			}
			for err == nil {
				time.Sleep(time.Millisecond)
				_, err = os.Stat(held)
			}
			return nil
		}
		return errors.New("injected at " + name)
	}
}

// playCLI is `claude auth login` with a refresh token in its environment, as the
// real one was seen to behave (TestRealCLI holds it to that).
func playCLI() error {
	if err := exchange(); err != nil {
		fmt.Println("Couldn't log in: " + err.Error())
		os.Exit(1)
	}
	fmt.Println("Login successful.")
	return nil
}

func exchange() error {
	b, err := json.Marshal(map[string]string{
		"grant_type": "refresh_token", "refresh_token": os.Getenv("CLAUDE_CODE_OAUTH_REFRESH_TOKEN"),
		"client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e", "scope": os.Getenv("CLAUDE_CODE_OAUTH_SCOPES"),
	})
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Post("https://platform.claude.com/v1/oauth/token", "application/json", bytes.NewReader(b))
	if err != nil {
		return errors.New("socket hang up")
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("Request failed with status code %d", resp.StatusCode)
	}
	b, err = io.ReadAll(resp.Body)
	if err != nil {
		return errors.New("stream has been aborted")
	}
	return writeCredentials(b)
}

func writeCredentials(answer []byte) error {
	b, err := credentialsOf(answer, os.Getenv("CLAUDE_CODE_OAUTH_REFRESH_TOKEN"))
	if err != nil {
		return errors.Join(os.WriteFile(credentialPath(), []byte("{}"), 0o600), errors.New("proxy refused the connection"))
	}
	return os.WriteFile(credentialPath(), b, 0o600)
}

// credentialsOf makes a credential file of the token endpoint's answer.
func credentialsOf(answer []byte, oldRefresh string) ([]byte, error) {
	var a struct {
		Access       string `json:"access_token"`
		Refresh      string `json:"refresh_token"`
		Expires      int64  `json:"expires_in"`
		LoginExpires int64  `json:"refresh_token_expires_in"`
		Scope        string `json:"scope"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, err
	}
	if a.Refresh == "" {
		a.Refresh = oldRefresh
	}
	login := map[string]any{
		"accessToken": a.Access, "refreshToken": a.Refresh, "expiresAt": time.Now().UnixMilli() + a.Expires*1000,
		"scopes": strings.Fields(a.Scope), "subscriptionType": nil, "rateLimitTier": nil,
	}
	if a.LoginExpires != 0 {
		login["refreshTokenExpiresAt"] = time.Now().UnixMilli() + a.LoginExpires*1000
	}
	return json.Marshal(map[string]any{"claudeAiOauth": login})
}

func credentialPath() string {
	return filepath.Join(os.Getenv("CLAUDE_CONFIG_DIR"), agent.CredentialFile)
}

package login_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/vault"
)

func TestMain(m *testing.M) {
	if shim.Wanted(os.Args) { // inside a sandbox
		syscall.Exit(shim.Main(os.Args)) // os.Exit takes a second under the race detector
	}
	if os.Getenv(childMode) != "" {
		os.Exit(childMain())
	}
	goleak.VerifyTestMain(m)
}

// patienceInTests bounds what a test waits for. Nothing is measured against it.
const patienceInTests = time.Minute

// desk is one hub directory with a profile, and a Login on it.
type desk struct {
	*login.Login
	t       *testing.T
	dir     string
	vault   *vault.Vault
	profile hub.Profile
}

// newDesk makes a hub directory. change may adjust the configuration.
func newDesk(t *testing.T, change func(*login.Config)) *desk {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hub")
	d := &desk{t: t, dir: dir, vault: makeVault(t, dir), profile: hub.Profile{ID: "p-test", Name: "default", Created: time.Now()}}
	if err := d.vault.CreateProfile(t.Context(), d.profile); err != nil {
		t.Fatal(err)
	}
	cfg := deskConfig(dir, d.vault)
	if change != nil {
		change(&cfg)
	}
	l, err := login.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d.Login = l
	return d
}

func deskConfig(dir string, v *vault.Vault) login.Config {
	return login.Config{Vault: v, Dir: filepath.Join(dir, "login"), RefreshDir: filepath.Join(dir, "refresh")}
}

func makeVault(t *testing.T, dir string) *vault.Vault {
	t.Helper()
	if _, err := vault.CreateKey(filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	if err := vault.Init(filepath.Join(dir, "vault")); err != nil {
		t.Fatal(err)
	}
	v, err := openVault(dir)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func openVault(dir string) (*vault.Vault, error) {
	key, err := vault.ReadKey(filepath.Join(dir, "key"))
	if err != nil {
		return nil, err
	}
	b, err := vault.Open(filepath.Join(dir, "vault"))
	if err != nil {
		return nil, err
	}
	return vault.New(b, key, vault.Options{})
}

// login returns the committed login.
func (d *desk) login() (vault.Record, agent.Credentials) {
	d.t.Helper()
	r, err := d.vault.Latest(context.Background(), d.profile.ID, hub.KindLogin)
	if err != nil {
		d.t.Fatalf("there is no login: %v", err)
	}
	c, err := agent.ParseCredentials(r.Payload)
	if err != nil {
		d.t.Fatalf("the committed login is no good: %v", err)
	}
	return r, c
}

// account returns who is signed in, zero if that is not known.
func (d *desk) account() agent.Account {
	d.t.Helper()
	r, err := d.vault.Latest(context.Background(), d.profile.ID, hub.KindAccount)
	if errors.Is(err, hub.ErrNotFound) {
		return agent.Account{}
	}
	if err != nil {
		d.t.Fatal(err)
	}
	a, err := agent.ParseAccount(r.Payload)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

func (d *desk) generation(kind hub.Kind) hub.Generation {
	d.t.Helper()
	g, err := d.vault.Generation(context.Background(), d.profile.ID, kind)
	if err != nil {
		d.t.Fatal(err)
	}
	return g
}

// wantNothing checks that no login was committed and no scratch home is left.
func (d *desk) wantNothing() {
	d.t.Helper()
	if g := d.generation(hub.KindLogin); g != 0 {
		d.t.Errorf("a login of generation %d was committed", g)
	}
	d.wantNoScratch()
}

func (d *desk) wantNoScratch() {
	d.t.Helper()
	homes, err := filepath.Glob(filepath.Join(d.dir, "login", "*"))
	if err != nil || len(homes) > 0 {
		d.t.Errorf("scratch homes are left: %v, %v", homes, err)
	}
}

// owner is a UI whose person is a function.
type owner struct {
	code func(ctx context.Context, link string) (string, error)

	mu       sync.Mutex
	links    []string
	troubles []string
}

func (o *owner) ShowURL(url string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.links = append(o.links, url)
}

func (o *owner) Code(ctx context.Context) (secret.Text, error) {
	o.mu.Lock()
	link := o.links[len(o.links)-1]
	o.mu.Unlock()
	s, err := o.code(ctx, link)
	return secret.New(s), err
}

func (o *owner) Trouble(message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.troubles = append(o.troubles, message)
}

// waiting is an owner who has no code.
func waiting() *owner {
	return &owner{code: func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}}
}

// codes is an owner who pastes these one after the other.
func codes(list ...string) *owner {
	o := &owner{}
	o.code = func(context.Context, string) (string, error) {
		if len(list) == 0 {
			return "", io.EOF
		}
		s := list[0]
		list = list[1:]
		return s, nil
	}
	return o
}

// script writes a program that stands in for the CLI where the CLI can't be
// made to misbehave. $CODE is what was pasted, once "ask" was called.
func script(t *testing.T, body string) string {
	t.Helper()
	const head = `#!/bin/sh
link() { printf 'If the browser didn'"'"'t open, visit:\r\nhttps://claude.com/cai/oauth/authorize?code=true&state=fakestate&code_challenge=fake\r\n'; }
ask() { printf 'Paste code here if prompted > '; read -r CODE; }
save() { printf '%s' '` + fakeLogin + `' >"$CLAUDE_CONFIG_DIR/tmp"; chmod 600 "$CLAUDE_CONFIG_DIR/tmp"; mv "$CLAUDE_CONFIG_DIR/tmp" "$CLAUDE_CONFIG_DIR/.credentials.json"; }
`
	path := filepath.Join(t.TempDir(), "claude")
	hubtest.Script(t, path, head+body)
	return path
}

const (
	fakeCode  = "fakecode#fakestate"
	fakeLogin = `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-fake-access","refreshToken":"sk-ant-ort01-fake-refresh",` +
		`"expiresAt":4102444800000,"refreshTokenExpiresAt":4102444800000,"scopes":["user:inference","user:profile"],"subscriptionType":"max","future":"kept"}}`
)

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		t.Fatal(err)
	}
}

// eventually waits until ok, for what cannot be awaited.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patienceInTests)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// children returns the IDs of this process's children.
func children(t *testing.T) []int {
	t.Helper()
	paths, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, path := range paths {
		b, _ := os.ReadFile(path) // a thread may be gone
		for _, word := range strings.Fields(string(b)) {
			var pid int
			if _, err := fmt.Sscan(word, &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

package bundle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/bundle"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// The test binary plays the processes that are killed, by this variable.
const roleVariable = "BUNDLE_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// station is a hub, of which there are several.
type station struct {
	t     testing.TB
	dir   string
	key   vault.Key
	vault *vault.Vault
	now   func() time.Time
	fail  func(name string) error // the failpoint; nil for none
	*bundle.Carrier
	refresher *refresh.Refresher
}

func newStation(t testing.TB) *station {
	t.Helper()
	s := &station{t: t, dir: t.TempDir(), now: time.Now}
	s.must(os.Chmod(s.dir, 0o700))
	var err error
	s.key, err = vault.CreateKey(filepath.Join(s.dir, "key"))
	s.must(err)
	s.must(vault.Init(filepath.Join(s.dir, "vault")))
	s.must(s.open())
	t.Cleanup(s.refresher.Stop)
	return s
}

// open opens the vault in the station's directory, with its key.
func (s *station) open() error {
	files, err := vault.Open(filepath.Join(s.dir, "vault"))
	if err != nil {
		return err
	}
	if s.vault, err = vault.New(files, s.key, vault.Options{}); err != nil {
		return err
	}
	s.refresher, err = refresh.New(refresh.Config{Vault: s.vault, Dir: s.dir, Command: []string{"/nonexistent"}})
	if err != nil {
		return err
	}
	s.Carrier, err = bundle.New(bundle.Config{
		Vault: s.vault, Key: s.key, Dir: s.dir,
		Hold:      func(ctx context.Context, id hub.ProfileID) (bundle.Hold, error) { return s.refresher.Hold(ctx, id) },
		Now:       func() time.Time { return s.now() },
		Failpoint: func(name string) error { return s.failpoint(name) },
	})
	return err
}

func (s *station) failpoint(name string) error {
	if s.fail == nil {
		return nil
	}
	return s.fail(name)
}

func (s *station) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *station) sender() string { return bundle.FormatSender(s.key.SigningKey()) }

// profile makes an empty profile.
func (s *station) profile(name string) hub.Profile {
	s.t.Helper()
	p := hub.Profile{ID: hub.NewProfileID(), Name: hub.ProfileName(name), Created: time.Now(), Policy: hub.Policy{Model: "claude-fake"}}
	s.must(s.vault.CreateProfile(s.t.Context(), p))
	return p
}

// signedIn makes a profile with all that a capture leaves, and a setup token.
func (s *station) signedIn(name string, in simulator.Login) hub.Profile {
	s.t.Helper()
	p := s.profile(name)
	s.commit(p, hub.KindSnapshot, snapshot(s.t, map[string]string{".claude.json": `{"fake":1}`, "settings.json": "{}", "hooks/run.sh": "#!/bin/sh\n"}))
	account, err := agent.Account{UUID: in.Account.UUID, Email: in.Account.Email}.Encode()
	s.must(err)
	s.commit(p, hub.KindAccount, account)
	token, err := agent.NewSetupToken(secret.New("sk-ant-oat01-fake-setup-token-0123456789"), time.Now())
	s.must(err)
	payload, err := token.Encode()
	s.must(err)
	s.commit(p, hub.KindSetupToken, payload)
	s.commit(p, hub.KindLogin, in.Credentials)
	return p
}

func (s *station) commit(p hub.Profile, kind hub.Kind, payload []byte) {
	s.t.Helper()
	gen, err := s.vault.Generation(s.t.Context(), p.ID, kind)
	s.must(err)
	_, err = s.vault.Commit(s.t.Context(), p.ID, kind, gen, payload)
	s.must(err)
}

// latest returns the newest payload of a kind, nil if there is none.
func (s *station) latest(p hub.Profile, kind hub.Kind) []byte {
	s.t.Helper()
	rec, err := s.vault.Latest(s.t.Context(), p.ID, kind)
	if errors.Is(err, hub.ErrNotFound) {
		return nil
	}
	s.must(err)
	return rec.Payload
}

func (s *station) login(p hub.Profile) agent.Credentials {
	s.t.Helper()
	c, err := agent.ParseCredentials(s.latest(p, hub.KindLogin))
	s.must(err)
	return c
}

// export returns the bundle of an order that must succeed.
func (s *station) export(o bundle.Order) ([]byte, bundle.Exported) {
	s.t.Helper()
	var sealed []byte
	o.Write = func(b []byte) error { sealed = bytes.Clone(b); return nil }
	e, err := s.Export(s.t.Context(), o)
	s.must(err)
	return sealed, e
}

// take opens and imports a bundle.
func (s *station) take(sealed []byte, p hub.Profile, from ...string) (bundle.Imported, error) {
	s.t.Helper()
	parcel, err := s.Open(bytes.NewReader(sealed), from)
	if err != nil {
		return bundle.Imported{}, err
	}
	return s.Import(s.t.Context(), parcel, p)
}

// free checks that nothing keeps the refreshes of a profile out any more.
func (s *station) free(p hub.Profile) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 100*time.Millisecond)
	defer cancel()
	hold, err := s.refresher.Hold(ctx, p.ID)
	if err != nil {
		s.t.Errorf("the profile is still held: %v", err)
		return
	}
	hold.Release()
}

// snapshot packs files, whose modes are 0644, or 0755 for scripts.
func snapshot(t testing.TB, files map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), mode)); err != nil {
			t.Fatal(err)
		}
	}
	var packed bytes.Buffer
	if _, err := archive.Pack(&packed, dir, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// platform mints logins that look real; nothing is asked of it.
func platform(t testing.TB) *simulator.Simulator {
	t.Helper()
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	return sim
}

// wantError checks an error's kind, that a person is told what to do, and that no
// token is in it.
func wantError(t testing.TB, what string, err, kind error, words string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error()+hub.HintOf(err), words) || hub.HintOf(err) == "" {
		t.Errorf("%s: %v (hint %q); want %v with %q and a hint", what, err, hub.HintOf(err), kind, words)
	}
	if err != nil && strings.Contains(err.Error()+hub.HintOf(err), "sk-ant-") {
		t.Errorf("%s: a token is in the error: %v", what, err)
	}
}

package vault_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
	"github.com/claude-hub/claude-hub/internal/vault/vaulttest"
)

// aged makes a vault with a profile and three generations of a login, from before
// there was a recovery key, and returns it as opened with one.
func aged(t *testing.T) (b *vault.FileBackend, key vault.Key, v *vault.Vault, profile hub.Profile, recovery *age.X25519Identity) {
	t.Helper()
	b, key = newFileBackend(t), newKey(t)
	before, err := vault.New(b, key, vault.Options{})
	must(t, err)
	profile = hub.Profile{ID: hub.NewProfileID(), Name: "default", Created: time.Now().UTC().Round(0)}
	must(t, before.CreateProfile(t.Context(), profile))
	commits(t, before, profile.ID, hub.KindLogin, 0, 3)
	recovery, err = age.GenerateX25519Identity()
	must(t, err)
	v, err = vault.New(b, key, vault.Options{Recipients: []string{recovery.Recipient().String()}})
	must(t, err)
	return b, key, v, profile, recovery
}

// recovered returns what a recovery key brings back of a vault.
func recovered(t *testing.T, b vault.Backend, recovery *age.X25519Identity) (*vault.Vault, error) {
	t.Helper()
	to, err := vault.New(newFileBackend(t), newKey(t), vault.Options{})
	must(t, err)
	_, err = vault.Recover(t.Context(), b, strings.NewReader(recovery.String()+"\n"), to)
	return to, err
}

// TestReseal: what a recovery key could not open it can afterwards, and nothing
// else has changed.
func TestReseal(t *testing.T) {
	b, _, v, profile, recovery := aged(t)
	ctx := t.Context()
	if _, err := recovered(t, b, recovery); err == nil {
		t.Fatal("the recovery key opens what was not sealed to it")
	}
	login, err := v.Latest(ctx, profile.ID, hub.KindLogin)
	must(t, err)
	n, err := v.Reseal(ctx)
	if n != 3 || err != nil { // the profile, its login, its name
		t.Fatalf("Reseal = %d, %v", n, err)
	}
	after, err := v.Latest(ctx, profile.ID, hub.KindLogin)
	must(t, err)
	if after.Generation != 3 || !after.Created.Equal(login.Created) || string(after.Payload) != "3" {
		t.Errorf("the login is %v of %s now", after, after.Created)
	}
	if p, err := v.Profile(ctx, "default"); err != nil || p.ID != profile.ID {
		t.Errorf("the profile is %v, %v", p, err)
	}
	if _, err := v.Commit(ctx, profile.ID, hub.KindLogin, 3, []byte("4")); err != nil {
		t.Error(err)
	}
	to, err := recovered(t, b, recovery)
	if err == nil || strings.Contains(err.Error(), "names/") || strings.Contains(err.Error(), "/profile/") {
		t.Errorf("recovering: %v; want the two old generations to be missing", err)
	}
	if p, err := to.Profile(ctx, "default"); err != nil || p.ID != profile.ID {
		t.Errorf("recovered %v, %v", p, err)
	}
}

// TestResealLeavesWhatDoesNotOpen: the others are done, and it is named.
func TestResealLeavesWhatDoesNotOpen(t *testing.T) {
	b, _, v, profile, _ := aged(t)
	path := filepath.Join(b.Dir(), vault.RecordKey(profile.ID, hub.KindLogin, 3))
	must(t, os.Truncate(path, 200))
	was, err := os.ReadFile(path)
	must(t, err)
	n, err := v.Reseal(t.Context())
	if n != 2 || !errors.Is(err, hub.ErrFormat) || !strings.Contains(err.Error(), "login") {
		t.Errorf("Reseal = %d, %v", n, err)
	}
	is, err := os.ReadFile(path)
	must(t, err)
	if diff := cmp.Diff(was, is); diff != "" {
		t.Error(diff)
	}
}

// TestResealWaitsForTheLock: a removal that is under way is not undone.
func TestResealWaitsForTheLock(t *testing.T) {
	b, _, v, _, _ := aged(t)
	unlock, err := b.Lock(t.Context())
	must(t, err)
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := v.Reseal(ctx); n != 0 || err == nil {
		t.Errorf("Reseal = %d, %v", n, err)
	}
}

func TestResealNeedsABackendThatCan(t *testing.T) {
	v, err := vault.New(vaulttest.NewMemory(), newKey(t), vault.Options{})
	must(t, err)
	if _, err := v.Reseal(t.Context()); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("Reseal = %v, want ErrInvalid", err)
	}
}

// TestReplaceKeepsToWhatIsThere: nothing is made by it.
func TestReplaceKeepsToWhatIsThere(t *testing.T) {
	b := newFileBackend(t)
	if err := b.Replace(t.Context(), "names/nobody", []byte("x")); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Replace = %v, want ErrNotFound", err)
	}
	if keys, err := b.List(t.Context(), ""); len(keys) != 0 || err != nil {
		t.Errorf("there is %v, %v", keys, err)
	}
}

// TestPowerLossDuringReseal takes the power away after each step: every record is
// there, whole.
func TestPowerLossDuringReseal(t *testing.T) {
	b, key, v, profile, recovery := aged(t)
	p := newPlatter(t, b.Dir())
	images := 0
	b.SetHook(p.watch(t, func() {
		for _, allNames := range []bool{false, true} {
			images++
			image := filepath.Join(privateDir(t), "image")
			p.write(t, p.root, image, allNames)
			after, err := vault.New(openFile(t, image), key, vault.Options{})
			must(t, err)
			r, err := after.Latest(t.Context(), profile.ID, hub.KindLogin)
			if err != nil || r.Generation != 3 || string(r.Payload) != "3" {
				t.Fatalf("the login: %v, %v", r, err)
			}
			if got, err := after.Profile(t.Context(), "default"); err != nil || got.ID != profile.ID {
				t.Fatalf("the profile: %v, %v", got, err)
			}
		}
	}))
	if _, err := v.Reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(privateDir(t), "image")
	p.write(t, p.root, image, false)
	to, _ := recovered(t, openFile(t, image), recovery)
	if r, err := to.Get(t.Context(), profile.ID, hub.KindLogin, 3); err != nil || string(r.Payload) != "3" {
		t.Errorf("what was sealed anew has not survived: %v, %v", r, err)
	}
	if images < 24 { // five steps and more for each of three records
		t.Errorf("only %d losses of power", images)
	}
}

// TestResealFailsAtEachStep: an error leaves the old record or the new one, and no
// temporary file.
func TestResealFailsAtEachStep(t *testing.T) {
	for _, step := range []string{"create", "write", "sync", "rename", "syncdir"} {
		for _, when := range []string{"before", "after"} {
			t.Run(step+"-"+when, func(t *testing.T) {
				b, _, v, profile, _ := aged(t)
				b.SetHook(func(w, s, _ string) error {
					if w == when && s == step {
						return errBoom
					}
					return nil
				})
				if _, err := v.Reseal(t.Context()); !errors.Is(err, errBoom) {
					t.Errorf("Reseal = %v", err)
				}
				b.SetHook(nil)
				if r, err := v.Latest(t.Context(), profile.ID, hub.KindLogin); err != nil || string(r.Payload) != "3" {
					t.Errorf("the login: %v, %v", r, err)
				}
				if left, _ := filepath.Glob(filepath.Join(b.Dir(), "*", ".tmp-*")); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

package vault_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
	"github.com/claude-hub/claude-hub/internal/vault/vaulttest"
)

// lost returns a vault whose key is lost, and the recovery key.
func lost(t *testing.T) (*vaulttest.Memory, *age.X25519Identity, hub.Profile) {
	recovery, err := age.GenerateX25519Identity()
	must(t, err)
	m := vaulttest.NewMemory()
	v, err := vault.New(m, newKey(t), vault.Options{Recipients: []string{recovery.Recipient().String()}})
	must(t, err)
	p := newProfile("alice")
	must(t, v.CreateProfile(t.Context(), p))
	commits(t, v, p.ID, hub.KindLogin, 0, 3)
	return m, recovery, p
}

func TestALostKeyIsRecoveredFrom(t *testing.T) {
	from, recovery, p := lost(t)
	to, err := vault.New(newFileBackend(t), newKey(t), vault.Options{})
	must(t, err)
	for _, want := range []int{5, 0} { // and again
		n, err := vault.Recover(t.Context(), from, strings.NewReader(recovery.String()+"\n"), to)
		if err != nil || n != want {
			t.Errorf("Recover = %d, %v; want %d", n, err, want)
		}
	}
	if got, err := to.Profile(t.Context(), "alice"); err != nil || !same(got, p) {
		t.Errorf("Profile = %v, %v; want %v", got, err, p)
	}
	mustLatest(t, to, p.ID, hub.KindLogin, 3, "3")
	commits(t, to, p.ID, hub.KindLogin, 3, 1)
}

func TestRecoverNamesWhatItCannotOpen(t *testing.T) {
	from, recovery, p := lost(t)
	bad := vault.RecordKey(p.ID, hub.KindLogin, 2)
	put(t, from, bad, []byte("garbage"))
	must(t, from.Create(t.Context(), "stray", nil))
	to, err := vault.New(vaulttest.NewMemory(), newKey(t), vault.Options{})
	must(t, err)
	n, err := vault.Recover(t.Context(), from, strings.NewReader(recovery.String()), to)
	if n != 4 || !errors.Is(err, hub.ErrFormat) || !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "stray") {
		t.Errorf("Recover = %d, %v; want 4 and both named", n, err)
	}
	mustLatest(t, to, p.ID, hub.KindLogin, 3, "3")
}

func TestRecoverRefusesAnotherKey(t *testing.T) {
	from, _, _ := lost(t)
	to, err := vault.New(vaulttest.NewMemory(), newKey(t), vault.Options{})
	must(t, err)
	stranger, err := age.GenerateX25519Identity()
	must(t, err)
	if n, err := vault.Recover(t.Context(), from, strings.NewReader(stranger.String()), to); n != 0 || !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("a stranger's key: %d, %v; want ErrWrongKey", n, err)
	}
	if _, err := vault.Recover(t.Context(), from, strings.NewReader("no key"), to); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("no key: %v; want ErrInvalid", err)
	}
}

func TestARecordIsRescuedByHandAsDocumented(t *testing.T) {
	from, recovery, p := lost(t)
	data, err := from.Get(t.Context(), vault.RecordKey(p.ID, hub.KindLogin, 3), 1<<20)
	must(t, err)
	parts := bytes.SplitN(data, []byte("\n"), 3) // tail -n +3
	r, err := age.Decrypt(bytes.NewReader(parts[2]), recovery)
	must(t, err)
	plain, err := io.ReadAll(r)
	must(t, err)
	if _, payload, _ := bytes.Cut(plain, []byte("\n")); string(payload) != "3" {
		t.Errorf("rescued %q", plain)
	}
}

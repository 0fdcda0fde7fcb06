package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
	"github.com/claude-hub/claude-hub/internal/vault/vaulttest"
)

// sealed returns a vault in memory with one login of alice, and its bytes.
func sealed(t testing.TB, key vault.Key, opts vault.Options) (*vault.Vault, *vaulttest.Memory, []byte) {
	t.Helper()
	m := vaulttest.NewMemory()
	v, err := vault.New(m, key, opts)
	must(t, err)
	commits(t, v, alice, hub.KindLogin, 0, 1)
	data, err := m.Get(t.Context(), vault.RecordKey(alice, hub.KindLogin, 1), 1<<20)
	must(t, err)
	return v, m, data
}

// put replaces a record's bytes.
func put(t testing.TB, b vault.Backend, key string, data []byte) {
	t.Helper()
	must(t, b.Delete(t.Context(), key))
	must(t, b.Create(t.Context(), key, data))
}

func TestDamagedRecordsAreRefused(t *testing.T) {
	v, m, data := sealed(t, newKey(t), vault.Options{})
	key := vault.RecordKey(alice, hub.KindLogin, 1)
	refused := func(what string, bad []byte, kinds ...error) {
		t.Helper()
		put(t, m, key, bad)
		r, err := v.Latest(t.Context(), alice, hub.KindLogin)
		ok := false
		for _, kind := range kinds {
			ok = ok || errors.Is(err, kind)
		}
		if !ok || hub.HintOf(err) == "" || r.Payload != nil {
			t.Fatalf("%s: %v, %v; want one of %v with a hint", what, r, err, kinds)
		}
	}
	for n := range data {
		refused(fmt.Sprintf("cut to %d bytes", n), data[:n], hub.ErrFormat)
	}
	for i := range data {
		for _, bit := range []byte{0x01, 0x80} {
			flipped := bytes.Clone(data)
			flipped[i] ^= bit
			// A flip in the key ID makes it look like another key's.
			refused(fmt.Sprintf("bit %#x of byte %d flipped", bit, i), flipped, hub.ErrFormat, vault.ErrWrongKey)
		}
	}
	refused("one byte more", append(bytes.Clone(data), 0), hub.ErrFormat)
	refused("nothing", nil, hub.ErrFormat)
	refused("zeros", make([]byte, 4096), hub.ErrFormat)
	put(t, m, key, data)
	mustLatest(t, v, alice, hub.KindLogin, 1, "1")
}

func TestADamagedNewestIsNotSkipped(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	commits(t, v, alice, hub.KindLogin, 0, 2)
	put(t, f, vault.RecordKey(alice, hub.KindLogin, 2), []byte("garbage"))
	if r, err := v.Latest(t.Context(), alice, hub.KindLogin); !errors.Is(err, hub.ErrFormat) {
		t.Errorf("Latest = %v, %v; want ErrFormat, not the spent generation 1", r, err)
	}
	// A new sign-in goes on from there.
	gen, err := v.Generation(t.Context(), alice, hub.KindLogin)
	must(t, err)
	commits(t, v, alice, hub.KindLogin, gen, 1)
	mustLatest(t, v, alice, hub.KindLogin, 3, "3")
}

func TestRecordsInAnothersPlaceAreRefused(t *testing.T) {
	v, m, data := sealed(t, newKey(t), vault.Options{})
	for name, place := range map[string]struct {
		profile hub.ProfileID
		kind    hub.Kind
		gen     hub.Generation
	}{
		"generation renamed": {alice, hub.KindLogin, 2},
		"another kind":       {alice, hub.KindSetupToken, 1},
		"another profile":    {bob, hub.KindLogin, 1},
	} {
		must(t, m.Create(t.Context(), vault.RecordKey(place.profile, place.kind, place.gen), data))
		if r, err := v.Latest(t.Context(), place.profile, place.kind); !errors.Is(err, hub.ErrFormat) || r.Payload != nil {
			t.Errorf("%s: %v, %v; want ErrFormat", name, r, err)
		}
	}
}

func TestWrongKeyIsSaid(t *testing.T) {
	_, m, _ := sealed(t, newKey(t), vault.Options{})
	other, err := vault.New(m, newKey(t), vault.Options{})
	must(t, err)
	_, err = other.Latest(t.Context(), alice, hub.KindLogin)
	if !errors.Is(err, vault.ErrWrongKey) || !strings.Contains(err.Error(), "another key") || hub.HintOf(err) == "" {
		t.Errorf("error = %v, hint %q", err, hub.HintOf(err))
	}
}

func TestAStrangerWhoKnowsThePublicKeyCannotWrite(t *testing.T) {
	key := newKey(t)
	v, m, data := sealed(t, key, vault.Options{})
	recipient, err := age.ParseX25519Recipient(key.Recipient())
	must(t, err)
	head, _, _ := bytes.Cut(data, []byte("age-encryption.org"))
	forged := bytes.NewBuffer(bytes.Clone(head))
	w, err := age.Encrypt(forged, recipient)
	must(t, err)
	fmt.Fprintf(w, `{"profile":%q,"kind":"login","generation":1,"created":"2026-01-01T00:00:00Z"}`+"\nforged", alice)
	must(t, w.Close())
	put(t, m, vault.RecordKey(alice, hub.KindLogin, 1), forged.Bytes())
	if r, err := v.Latest(t.Context(), alice, hub.KindLogin); !errors.Is(err, hub.ErrFormat) {
		t.Errorf("a forged record: %v, %v; want ErrFormat", r, err)
	}
}

func TestNewerRecordFormatIsSaid(t *testing.T) {
	v, m, data := sealed(t, newKey(t), vault.Options{})
	put(t, m, vault.RecordKey(alice, hub.KindLogin, 1), bytes.Replace(data, []byte("vault/1"), []byte("vault/2"), 1))
	_, err := v.Latest(t.Context(), alice, hub.KindLogin)
	if !errors.Is(err, hub.ErrFormat) || !strings.Contains(err.Error(), "newer claude-hub") || hub.HintOf(err) == "" {
		t.Errorf("error = %v, hint %q", err, hub.HintOf(err))
	}
}

func TestAnOversizedRecordIsNotRead(t *testing.T) {
	v, m, _ := sealed(t, newKey(t), vault.Options{})
	put(t, m, vault.RecordKey(alice, hub.KindLogin, 1), make([]byte, 2<<20))
	if _, err := v.Latest(t.Context(), alice, hub.KindLogin); !errors.Is(err, hub.ErrTooLarge) {
		t.Errorf("a credential record of 2 MiB: %v; want ErrTooLarge", err)
	}
}

func TestSealedRecordsHideTheirPayload(t *testing.T) {
	m := vaulttest.NewMemory()
	v, err := vault.New(m, newKey(t), vault.Options{})
	must(t, err)
	_, err = v.Commit(t.Context(), alice, hub.KindLogin, 0, []byte("sk-ant-ort01-fake-canary"))
	must(t, err)
	data, err := m.Get(t.Context(), vault.RecordKey(alice, hub.KindLogin, 1), 1<<20)
	must(t, err)
	if bytes.Contains(data, []byte("canary")) || bytes.Contains(data, []byte(alice)) {
		t.Error("the payload or the header is in the sealed bytes")
	}
}

// FuzzOpen feeds plaintexts that are sealed as they should be, so that the fuzzer
// gets to the header, and sealed bytes as they are.
func FuzzOpen(f *testing.F) {
	key := newKey(f)
	v, _, data := sealed(f, key, vault.Options{})
	f.Add(data, true)
	f.Add([]byte("claude-hub-vault/2\n"), true)
	f.Add([]byte(`{"profile":"p-alice","kind":"login","generation":1,"created":"2026-01-01T00:00:00Z"}`+"\npayload"), false)
	f.Add([]byte(`{"profile":"p-bob","kind":"login","generation":1,"created":"2026-01-01T00:00:00Z"}`+"\n"), false)
	f.Add([]byte(`{"generation":18446744073709551616}`+"\n"), false)
	f.Add([]byte("{}"), false)
	f.Fuzz(func(t *testing.T, in []byte, asIs bool) {
		if !asIs {
			var err error
			if in, err = v.SealPlain(in); err != nil {
				t.Fatal(err)
			}
		}
		r, err := v.OpenAs(in, alice, hub.KindLogin, 1)
		if err == nil && (r.Profile != alice || r.Kind != hub.KindLogin || r.Generation != 1) {
			t.Fatalf("opened as %v", r)
		}
		if err == nil && asIs && !bytes.Equal(in, data) {
			t.Fatal("bytes that nobody sealed were accepted")
		}
	})
}

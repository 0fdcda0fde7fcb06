package vault_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

func TestKeySignsAndDecrypts(t *testing.T) {
	newKey := func() vault.Key {
		path := filepath.Join(t.TempDir(), "own", "key")
		k, err := vault.CreateKey(path)
		if err != nil {
			t.Fatal(err)
		}
		again, err := vault.ReadKey(path)
		if err != nil || !again.SigningKey().Equal(k.SigningKey()) {
			t.Errorf("the key read again has another signing key, %v", err)
		}
		return k
	}
	ours, theirs := newKey(), newKey()
	message := []byte("a message")
	if !ed25519.Verify(ours.SigningKey(), message, ours.Sign(message)) {
		t.Error("what the hub signs is not verified by its signing key")
	}
	if ed25519.Verify(theirs.SigningKey(), message, ours.Sign(message)) {
		t.Error("two hubs sign alike")
	}

	var sealed bytes.Buffer
	r, err := age.ParseX25519Recipient(ours.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	w, err := age.Encrypt(&sealed, r)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(message)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := ours.Decrypt(bytes.NewReader(sealed.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(plain); err != nil || !bytes.Equal(got, message) {
		t.Errorf("Decrypt = %q, %v", got, err)
	}
	if _, err := theirs.Decrypt(bytes.NewReader(sealed.Bytes())); !errors.Is(err, hub.ErrRefused) {
		t.Errorf("another hub's Decrypt = %v; want ErrRefused", err)
	}
	for _, bad := range [][]byte{nil, []byte("nonsense"), sealed.Bytes()[:30]} {
		if _, err := ours.Decrypt(bytes.NewReader(bad)); !errors.Is(err, hub.ErrFormat) {
			t.Errorf("Decrypt of %d bad bytes = %v; want ErrFormat", len(bad), err)
		}
	}
}

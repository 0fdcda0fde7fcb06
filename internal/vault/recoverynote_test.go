package vault

import (
	"bytes"
	"testing"

	"filippo.io/age"
)

// TestRecoveryNote: a record says to whom it was sealed, in any order of them, to
// the holder of the key alone; and what has the note opens as ever, also for a
// recovery key.
func TestRecoveryNote(t *testing.T) {
	var keys []*age.X25519Identity
	var public []string
	for range 4 {
		k, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		keys, public = append(keys, k), append(public, k.Recipient().String())
	}
	key, other := Key{keys[0]}, Key{keys[1]}
	s, err := newSealer(key, public[2:])
	if err != nil {
		t.Fatal(err)
	}
	want := Record{Profile: "p-note", Kind: "login", Generation: 1}
	sealed, err := s.seal(want)
	if err != nil {
		t.Fatal(err)
	}
	note := key.RecoveryNote([]string{public[3], " " + public[2]})
	if !bytes.Contains(sealed, []byte("\n"+note+"\n")) {
		t.Errorf("%q is not in it", note)
	}
	for _, different := range []string{other.RecoveryNote(public[2:]), key.RecoveryNote(public[1:3]), key.RecoveryNote(public[2:3]), key.RecoveryNote(nil)} {
		if different == note {
			t.Errorf("%q stands for two", note)
		}
	}
	if _, err := s.open(sealed, want); err != nil {
		t.Error(err)
	}
	for _, k := range keys[2:] {
		if _, err := openAge(sealed[prefixLen:], want, k); err != nil {
			t.Error(err)
		}
	}
}

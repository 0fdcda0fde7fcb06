package bundle_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/claude-hub/claude-hub/internal/bundle"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// fuzzed returns a bundle and its plaintext, whose sender and recipient are made
// for this run: no input of a corpus is signed by them.
func fuzzed(f *testing.F) (a, b *station, sealed, plain []byte) {
	f.Helper()
	a, b = newStation(f), newStation(f)
	p := a.signedIn("work", platform(f).SignIn(simulator.SignIn{}))
	sealed, _ = a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
	return a, b, sealed, b.unseal(sealed)
}

// Whatever a file holds: nothing but the bundle itself is opened, and errors are
// of known kinds.
func FuzzOpen(f *testing.F) {
	a, b, sealed, _ := fuzzed(f)
	f.Add(sealed)
	f.Add([]byte("claude-hub-bundle/9\nage-encryption.org/v1\n"))
	f.Add([]byte(magicLine + "age-encryption.org/v1\n-> X25519 x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := b.Open(bytes.NewReader(data), []string{a.sender()})
		if (err == nil) != bytes.Equal(data, sealed) {
			t.Errorf("Open = %v", err)
		}
		if err != nil && !errors.Is(err, hub.ErrFormat) && !errors.Is(err, hub.ErrRefused) && !errors.Is(err, hub.ErrTooLarge) {
			t.Errorf("an error of no kind: %v", err)
		}
	})
}

// Whatever is encrypted to a hub: nothing but what the sender signed is believed.
func FuzzOpenPlain(f *testing.F) {
	a, b, _, plain := fuzzed(f)
	f.Add(plain)
	f.Add(plain[:len(plain)-1])
	f.Add([]byte(a.sender() + "\n\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, err := bundle.OpenPlain(data, b.key, []string{a.sender()})
		if (err == nil) != bytes.Equal(data, plain) {
			t.Errorf("OpenPlain = %v", err)
		}
	})
}

// A header that is believed is within its bounds.
func FuzzParseHeader(f *testing.F) {
	a, _, _, plain := fuzzed(f)
	f.Add(bytes.Split(plain, []byte("\n"))[2])
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, head []byte) {
		h, err := bundle.ParseHeader(head, a.sender())
		if err != nil {
			return
		}
		if _, err := hub.ParseProfileName(string(h.Profile.Name)); err != nil || len(h.Recipients) == 0 || len(h.Recipients) > 16 || len(h.Parts) > 5 || h.Generation == 0 {
			t.Errorf("%q gives %+v", head, h)
		}
	})
}

func FuzzParseLedger(f *testing.F) {
	f.Add([]byte(`{"imports":[{"sender":"hubsig1fake","source":"p-fake","bundle":"b-fake","generation":3}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = bundle.ParseLedger(b) })
}

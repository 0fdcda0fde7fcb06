package vault_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// TestReadMountedKey: a secret store's file may be a link and readable by its
// group, and nothing looser.
func TestReadMountedKey(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "key")
	made, err := vault.CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]error{
		0o600: nil, 0o400: nil, 0o440: nil, 0o640: nil,
		0o660: hub.ErrRefused, 0o444: hub.ErrRefused, 0o604: hub.ErrRefused, 0o601: hub.ErrRefused,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, link} {
			key, err := vault.ReadMountedKey(p)
			if !errors.Is(err, want) || want == nil && (err != nil || key.Recipient() != made.Recipient()) {
				t.Errorf("%s with mode %04o: %v, want %v", filepath.Base(p), mode, err, want)
			}
			if err != nil && hub.HintOf(err) == "" {
				t.Errorf("no hint with %v", err)
			}
		}
	}
	for p, want := range map[string]error{filepath.Join(dir, "none"): hub.ErrNotFound, dir: hub.ErrInvalid} {
		if _, err := vault.ReadMountedKey(p); !errors.Is(err, want) || hub.HintOf(err) == "" {
			t.Errorf("%s: %v, want %v", p, err, want)
		}
	}
	foreign := filepath.Join(dir, "foreign")
	if err := os.WriteFile(foreign, []byte("AGE-SECRET-KEY-1FAKE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.ReadMountedKey(foreign); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("a file that is no key: %v", err)
	}
	if os.Getuid() == 0 {
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, 4711, 4711); err != nil {
			t.Fatal(err)
		}
		if _, err := vault.ReadMountedKey(path); !errors.Is(err, hub.ErrRefused) {
			t.Errorf("another user's file: %v", err)
		}
	}
}

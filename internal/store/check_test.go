package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/store"
)

// TestCheck looks at a database that is whole and in use, at one whose pages were
// overwritten, at one of another program, and at none.
func TestCheck(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "hub.db")
	if err := store.Check(ctx, path); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("no database: %v, want ErrNotFound", err)
	}
	s, err := store.Create(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for range 400 {
		now = now.Add(time.Second)
		if err := s.CreateRun(ctx, hub.Run{ID: hub.NewRunID(now), Started: now, Prompt: "some words of a prompt"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Check(ctx, path); err != nil {
		t.Errorf("a database in use: %v", err)
	}
	if n, err := store.CountParked(ctx, path); n != 0 || err != nil {
		t.Errorf("parked runs: %d, %v", n, err)
	}
	parked := hub.Run{ID: hub.NewRunID(now), Started: now, Parked: &hub.Parking{Cause: hub.ParkedForLogin}}
	if err := s.CreateRun(ctx, parked); err != nil {
		t.Fatal(err)
	}
	if n, err := store.CountParked(ctx, path); n != 1 || err != nil {
		t.Errorf("parked runs: %d, %v, want 1", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	junk := make([]byte, 8192)
	for i := range junk {
		junk[i] = 0xa5
	}
	if _, err := f.WriteAt(junk, info.Size()/2&^4095); err != nil {
		t.Fatal(err)
	}
	if err := store.Check(ctx, path); !errors.Is(err, hub.ErrFormat) {
		t.Errorf("a damaged database: %v, want ErrFormat", err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("these are the words of some other program, and no database at all\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.Check(ctx, other); !errors.Is(err, hub.ErrFormat) {
		t.Errorf("another file: %v, want ErrFormat", err)
	}
}

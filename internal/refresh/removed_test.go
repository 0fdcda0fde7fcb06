package refresh_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// A process that has served a profile's token serves it no more once another
// process has removed the profile, however long the token would live.
func TestARemovedProfileIsNotServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	w.spare()
	var passed atomic.Int64
	r := w.refresher(func(cfg *refresh.Config) {
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
	})
	w.token(r, 0)
	other, err := openVault(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Remove(t.Context(), w.profile.ID); err != nil {
		t.Fatal(err)
	}
	passed.Store(int64(time.Second)) // past the time for which one look at the vault counts
	for range 2 {
		if token, gen, err := r.AccessToken(t.Context(), w.profile.ID, 0); !errors.Is(err, hub.ErrLoginRequired) {
			t.Errorf("a removed profile is served: %v, generation %d, %v", token, gen, err)
		}
	}
	if s, err := r.Status(t.Context(), w.profile.ID); err != nil || s.Generation != 0 {
		t.Errorf("the status of a removed profile names generation %d, %v", s.Generation, err)
	}
	w.wantCounts(0, 0)
}

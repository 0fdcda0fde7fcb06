package main

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
)

// newHome opens a new hub in this process.
func newHome(t *testing.T) (*app, *home) {
	t.Helper()
	a := &app{environ: []string{"HOME=" + t.TempDir(), "CLAUDE_HUB_DIR=" + t.TempDir() + "/hub", "PATH=/usr/bin:/bin"}}
	a.stdout, a.stderr = io.Discard, io.Discard
	if code := a.main(t.Context(), []string{"init"}); code != exitOK {
		t.Fatalf("init: %d", code)
	}
	h, err := a.openHome()
	if err != nil {
		t.Fatal(err)
	}
	return a, h
}

var errNothingCame = errors.New("nothing came of it")

func TestACaptureThatFailsRemovesTheProfileThatItMade(t *testing.T) {
	a, h := newHome(t)
	p, _, err := a.captured(t.Context(), h, "fresh", func(hub.Profile) (login.Result, error) { return login.Result{}, errNothingCame })
	if !errors.Is(err, errNothingCame) {
		t.Fatal(err)
	}
	if _, err := h.vault.Profile(t.Context(), "fresh"); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("the profile: %v; want it gone", err)
	}
	if _, err := os.Stat(h.refreshDir(p.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its place for refreshes: %v; want it gone", err)
	}
}

// TestACaptureThatFailsLeavesWhatHasCome has a login come from elsewhere while the
// owner takes their time, and one whose own commit was not known to have worked.
func TestACaptureThatFailsLeavesWhatHasCome(t *testing.T) {
	for _, kind := range []hub.Kind{hub.KindLogin, hub.KindSetupToken} {
		a, h := newHome(t)
		_, _, err := a.captured(t.Context(), h, "fresh", func(p hub.Profile) (login.Result, error) {
			_, err := h.vault.Commit(t.Context(), p.ID, kind, 0, []byte("sk-ant-ort01-fake"))
			return login.Result{}, errors.Join(err, errNothingCame)
		})
		if !errors.Is(err, errNothingCame) {
			t.Fatal(err)
		}
		p, err := h.vault.Profile(t.Context(), "fresh")
		if err != nil {
			t.Fatalf("a %s had come, and the profile is gone: %v", kind, err)
		}
		if gen, err := h.vault.Generation(t.Context(), p.ID, kind); gen != 1 || err != nil {
			t.Errorf("the %s has generation %d, %v; want it to be there", kind, gen, err)
		}
	}
}

// TestAProfileIsRemovedUnderTheRefreshLock has an import hold the lock, under
// which it is going to commit.
func TestAProfileIsRemovedUnderTheRefreshLock(t *testing.T) {
	a, h := newHome(t)
	p := hub.Profile{ID: hub.NewProfileID(), Name: "fresh", Created: now()}
	if err := h.vault.CreateProfile(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	r, err := a.newRefresher(h, a.log())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	hold, err := r.Hold(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it waits as long as it is let, and need not here
	if err := a.removeEmpty(ctx, h, p); !errors.Is(err, hub.ErrLocked) {
		t.Errorf("removing it: %v; want ErrLocked", err)
	}
	if _, err := h.vault.Profile(t.Context(), "fresh"); err != nil {
		t.Errorf("the profile: %v; want it to be there", err)
	}
}

package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/notify"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/store"
)

// damage overwrites what the vault has of one kind for a profile.
func damage(t *testing.T, h *home, id hub.ProfileID, kind hub.Kind) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(filepath.Join(h.dir, "vault", "records", string(id), string(kind)), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		return os.WriteFile(path, []byte("damaged"), 0o600)
	})
	if err != nil || n == 0 {
		t.Fatalf("%d records were damaged, %v", n, err)
	}
}

// world is a hub with a profile that is whole, one whose record is damaged, and
// one whose login is.
type world struct {
	a                  *app
	h                  *home
	r                  *refresh.Refresher
	whole, bad, locked hub.Profile
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	w.a, w.h = newHome(t)
	for name, p := range map[hub.ProfileName]*hub.Profile{"whole": &w.whole, "bad": &w.bad, "locked": &w.locked} {
		*p = hub.Profile{ID: hub.NewProfileID(), Name: name, Created: now()}
		if err := w.h.vault.CreateProfile(t.Context(), *p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.h.vault.Commit(t.Context(), w.locked.ID, hub.KindLogin, 0, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	damage(t, w.h, w.locked.ID, hub.KindLogin)
	damage(t, w.h, w.bad.ID, hub.KindProfile)
	r, err := w.a.newRefresher(w.h, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	w.r = r
	return w
}

func TestADamagedProfileEndsNoRunOfAnother(t *testing.T) {
	w := newWorld(t)
	l := logins{w.h.vault, w.r}
	if _, err := l.Allow(t.Context(), run.Request{Profile: hub.Profile{ID: w.whole.ID}}); err != nil {
		t.Errorf("Allow = %v; want the run to go on", err)
	}
	if _, _, err := l.Login(t.Context(), w.whole.ID); err != nil {
		t.Errorf("Login = %v", err)
	}
	if _, err := l.Allow(t.Context(), run.Request{Profile: hub.Profile{ID: w.bad.ID}}); !errors.Is(err, hub.ErrFormat) {
		t.Errorf("Allow of the damaged one = %v; want ErrFormat", err)
	}
	if _, _, err := l.Login(t.Context(), hub.NewProfileID()); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Login of one that is gone = %v; want ErrNotFound", err)
	}
}

func TestADamagedProfileIsTheTroubleOfNobodyElse(t *testing.T) {
	w := newWorld(t)
	runs, err := store.Open(t.Context(), storePath(w.h.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer runs.Close()
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	teller := &teller{home: w.h, refresher: w.r, store: runs, log: logger, notifier: notify.New(notify.Config{Dir: w.h.dir})}
	conditions, unreadable, err := teller.conditions(t.Context())
	if err != nil || len(conditions) != 1 || conditions[0].Name != "whole" {
		t.Errorf("%+v, %v; want how the whole one stands", conditions, err)
	}
	for _, name := range []string{"bad", "locked"} {
		if unreadable == nil || !strings.Contains(unreadable.Error(), name) {
			t.Errorf("%v; want %s to be named", unreadable, name)
		}
	}
	for range 3 {
		if err := teller.runOnce(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("the log has %d errors; want one:\n%s", n, log.String())
	}
	if list, err := (desk{w.a, w.h, w.r, logger}).Profiles(t.Context()); err != nil || len(list) != 1 || list[0].Name != "whole" {
		t.Errorf("the page's list: %+v, %v; want the whole one", list, err)
	}
	if err := w.h.ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
	damage(t, w.h, w.whole.ID, hub.KindProfile)
	damage(t, w.h, w.locked.ID, hub.KindProfile)
	if err := w.h.ready(t.Context()); err == nil {
		t.Error("ready, and no profile can be read")
	}
}

package login_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// failing is a backend whose Create fails, before or after its effect, for keys
// that hold a word.
type failing struct {
	vault.Backend
	word   string
	after  bool
	times  int // how often; it counts down
	failed int
}

var errDiskFull = syscall.ENOSPC

func (f *failing) Create(ctx context.Context, key string, data []byte) error {
	strike := f.word != "" && strings.Contains(key, f.word) && f.times > 0
	if strike {
		f.times--
		f.failed++
		if !f.after {
			return errDiskFull
		}
	}
	err := f.Backend.Create(ctx, key, data)
	if strike {
		return errDiskFull
	}
	return err
}

// failingDesk is a desk on a backend that can be made to fail.
func failingDesk(t *testing.T) (*desk, *failing) {
	t.Helper()
	var f *failing
	d := newDesk(t, func(cfg *login.Config) {
		dir := filepath.Dir(cfg.Dir)
		key, err := vault.ReadKey(filepath.Join(dir, "key"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := vault.Open(filepath.Join(dir, "vault"))
		if err != nil {
			t.Fatal(err)
		}
		f = &failing{Backend: b}
		if cfg.Vault, err = vault.New(f, key, vault.Options{}); err != nil {
			t.Fatal(err)
		}
		cfg.Agent = script(t, `echo '{}' >"$CLAUDE_CONFIG_DIR/.claude.json"; link; ask; save`)
	})
	return d, f
}

// A commit that fails for good leaves the old login as it was, whichever of the
// two it is.
func TestDiskFullLeavesTheOldLogin(t *testing.T) {
	old := strings.ReplaceAll(fakeLogin, "fake-refresh", "fake-old")
	for _, kind := range []hub.Kind{hub.KindSnapshot, hub.KindLogin} {
		t.Run(string(kind), func(t *testing.T) {
			d, f := failingDesk(t)
			if _, err := d.vault.Commit(t.Context(), d.profile.ID, hub.KindLogin, 0, []byte(old)); err != nil {
				t.Fatal(err)
			}
			f.word, f.times = string(kind), 1000
			_, err := d.SignIn(t.Context(), d.profile, codes(fakeCode))
			if !errors.Is(err, errDiskFull) || !strings.Contains(err.Error(), "keeping") {
				t.Errorf("error = %v; want the disk's", err)
			}
			if r, _ := d.login(); string(r.Payload) != old || r.Generation != 1 {
				t.Errorf("the old login is gone: generation %d", r.Generation)
			}
			d.wantNoScratch()
		})
	}
}

// An error that hides a stored record does not make a capture half a capture.
func TestAmbiguousCommitIsSettled(t *testing.T) {
	for _, kind := range []hub.Kind{hub.KindSnapshot, hub.KindLogin} {
		for times := 1; times <= 2; times++ {
			d, f := failingDesk(t)
			f.word, f.after, f.times = string(kind), true, times
			result, err := d.SignIn(t.Context(), d.profile, codes(fakeCode))
			if err != nil || result.Generation != 1 || f.failed == 0 {
				t.Errorf("%s failing %d times after its effect: %+v, %v", kind, times, result, err)
			}
			if g := d.generation(hub.KindSnapshot); g != 1 {
				t.Errorf("%d snapshots of one sign-in", g)
			}
			d.login()
		}
	}
}

// The snapshot is there before the login, so that nobody finds a login without.
func TestSnapshotComesFirst(t *testing.T) {
	d, f := failingDesk(t)
	f.word, f.times = "login", 1000
	if _, err := d.SignIn(t.Context(), d.profile, codes(fakeCode)); err == nil {
		t.Fatal("the commit did not fail")
	}
	r, err := d.vault.Latest(t.Context(), d.profile.ID, hub.KindSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := archive.Unpack(bytes.NewReader(r.Payload), filepath.Join(t.TempDir(), "x"), archive.Limits{})
	if _, found := manifest.Find(".credentials.json"); err != nil || found {
		t.Errorf("the unused snapshot holds a credential, or is broken: %v", err)
	}
}

// A refresh that never ends is not waited for without end, and not overrun.
func TestStuckRefreshEndsTheCapture(t *testing.T) {
	d := newDesk(t, nil)
	d.SetCapturePatience(100 * time.Millisecond)
	path := filepath.Join(d.dir, "refresh", string(d.profile.ID), "lock")
	write(t, path, "", 0o600)
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Import(t.Context(), d.profile, signedIn(t)); !errors.Is(err, hub.ErrLocked) || hub.HintOf(err) == "" {
		t.Errorf("error = %v with hint %q; want ErrLocked", err, hub.HintOf(err))
	}
	d.wantNothing()
}

func TestOddProfileIDTouchesNothing(t *testing.T) {
	d := newDesk(t, nil)
	for _, id := range []hub.ProfileID{"", "../x", "a/b", "."} {
		if _, err := d.Import(t.Context(), hub.Profile{ID: id}, signedIn(t)); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("profile %q: error = %v; want ErrInvalid", id, err)
		}
	}
	if _, err := os.Stat(filepath.Join(d.dir, "refresh")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

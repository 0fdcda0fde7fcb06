package doctor_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/doctor"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// bob is somebody else than the user of the tests.
const bob = 4321

// foreign makes a captured directory that is healthy, and bob's.
func (w *world) foreign() string {
	w.t.Helper()
	dir := w.captured(w.sim.SignIn(simulator.SignIn{}).Credentials)
	w.give(dir)
	w.give(filepath.Join(dir, agent.CredentialFile))
	return dir
}

func (w *world) give(path string) {
	w.t.Helper()
	w.must(os.Lchown(path, bob, bob))
}

// asRoot makes a test of what root could do to others. Nobody else can do it.
func asRoot(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if os.Geteuid() != 0 {
		w.t.Log("not root: what is tested here can't happen")
		return nil
	}
	return w
}

// untouched says whether a file still belongs to bob.
func untouched(t *testing.T, path string) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != bob {
		t.Errorf("%s now belongs to user %d", path, stat.Uid)
	}
}

// TestNobodyLosesHisLogin: the treatment by root leaves another user's login to
// that user, also where a link or an open directory leads to it.
func TestNobodyLosesHisLogin(t *testing.T) {
	for name, arrange := range map[string]func(w *world, dir string){
		"as it is": func(*world, string) {},
		"through a link": func(w *world, dir string) {
			link := filepath.Join(w.t.TempDir(), "link")
			w.must(os.Symlink(dir, link))
			w.cfg.Look = []string{link}
		},
		"in a directory open to all": func(w *world, dir string) {
			w.must(os.Lchown(dir, 0, 0))
			w.must(os.Chmod(dir, 0o1777))
		},
		"with a second name in ours": func(w *world, dir string) {
			mine := w.captured(nil)
			w.must(os.Link(filepath.Join(dir, agent.CredentialFile), filepath.Join(mine, agent.CredentialFile)))
			w.cfg.Look = []string{mine}
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			w := asRoot(t)
			if w == nil {
				return
			}
			dir := w.foreign()
			arrange(w, dir)
			r := w.doctor().Treat(t.Context())
			untouched(t, filepath.Join(dir, agent.CredentialFile))
			f, ok := found(r, "credential-unreadable")
			if !ok || !strings.Contains(f.Fix, "sudo -u '#4321'") {
				t.Errorf("the finding: %s", show(r.Findings))
			}
			if len(r.Repairs) > 0 && r.Repairs[0].Error == "" {
				t.Errorf("repairs: %s", show(r.Repairs))
			}
		})
	}
}

// TestForeignHub: in a hub that is somebody else's nothing is mended, made or
// removed, and each finding says how its owner does it.
func TestForeignHub(t *testing.T) {
	w := asRoot(t)
	if w == nil {
		return
	}
	w.must(os.Remove(w.path("hub.db")))
	w.write("vault/.DS_Store", "")
	w.must(os.MkdirAll(w.path("login", "signin-123"), 0o700))
	w.must(filepath.WalkDir(w.dir, func(path string, _ os.DirEntry, err error) error {
		w.give(path)
		return err
	}))
	before := contents(t, w.dir)
	r := w.doctor().Treat(t.Context())
	if len(r.Repairs) != 0 {
		t.Errorf("repairs: %s", show(r.Repairs))
	}
	if after := contents(t, w.dir); len(after) != len(before) {
		t.Errorf("there was %v, and is %v", before, after)
	}
	if _, ok := found(r, "owner"); !ok {
		t.Errorf("no owner finding: %s", show(r.Findings))
	}
	f, ok := found(r, "store-missing")
	if !ok || f.Fixable || !strings.Contains(f.Fix, "sudo -u '#4321' claude-hub doctor --fix") {
		t.Errorf("the missing store: %s", show(f))
	}
}

// TestHubThatChangesHands: a hub that is swapped for somebody else's after the
// examination is not mended.
func TestHubThatChangesHands(t *testing.T) {
	w := asRoot(t)
	if w == nil {
		return
	}
	w.must(os.Remove(w.path("hub.db")))
	w.write("vault/.DS_Store", "")
	swapped := false
	d := doctor.AfterExamination(w.doctor(), func() {
		if !swapped {
			swapped = true
			w.give(w.dir)
		}
	})
	r := d.Treat(t.Context())
	if len(r.Repairs) == 0 {
		t.Fatal("nothing was tried")
	}
	for _, repair := range r.Repairs {
		if repair.Error == "" {
			t.Errorf("repaired: %s", show(repair))
		}
	}
	if _, err := os.Stat(w.path("hub.db")); err == nil {
		t.Error("there is a store of root's")
	}
}

// staleLock makes a lock that nobody holds.
func staleLock(w *world, path string) {
	w.t.Helper()
	w.must(os.MkdirAll(path, 0o700))
	w.must(os.WriteFile(filepath.Join(path, "pid"), []byte("1"), 0o600))
	old := time.Now().Add(-time.Hour)
	w.must(os.Chtimes(path, old, old))
}

// TestLocksOfOthers: root removes neither a lock in somebody else's directory, nor
// one of somebody else's, nor a file of somebody else's in one of its own.
func TestLocksOfOthers(t *testing.T) {
	for name, arrange := range map[string]func(w *world, dir, lock string){
		"directory": func(w *world, dir, _ string) { w.give(dir) },
		"lock":      func(w *world, _, lock string) { w.give(lock) },
		"file":      func(w *world, _, lock string) { w.give(filepath.Join(lock, "pid")) },
		"open":      func(w *world, dir, _ string) { w.must(os.Chmod(dir, 0o777)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := asRoot(t)
			if w == nil {
				return
			}
			dir := w.captured(w.sim.SignIn(simulator.SignIn{}).Credentials)
			lock := filepath.Join(dir, ".oauth_refresh.lock")
			staleLock(w, lock)
			arrange(w, dir, lock)
			r := w.doctor().Treat(t.Context())
			if _, ok := found(r, "stale-lock"); !ok {
				t.Errorf("not found: %s", show(r.Findings))
			}
			if _, err := os.Stat(filepath.Join(lock, "pid")); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLockSwappedForALink: the lock becomes a link to another directory between
// the look and the treatment, whose files stay.
func TestLockSwappedForALink(t *testing.T) {
	for name, swap := range map[string]func(w *world, dir, victim string){
		"lock": func(w *world, dir, victim string) {
			w.must(os.RemoveAll(filepath.Join(dir, ".oauth_refresh.lock")))
			w.must(os.Symlink(victim, filepath.Join(dir, ".oauth_refresh.lock")))
		},
		"directory": func(w *world, dir, victim string) {
			w.must(os.Rename(dir, dir+".away"))
			w.must(os.Symlink(filepath.Dir(victim), dir))
			w.must(os.Chmod(filepath.Dir(victim), 0o777)) // somebody else has his hand in it
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			dir := w.captured(w.sim.SignIn(simulator.SignIn{}).Credentials)
			staleLock(w, filepath.Join(dir, ".oauth_refresh.lock"))
			victim := filepath.Join(t.TempDir(), ".oauth_refresh.lock")
			staleLock(w, victim)
			swapped := false
			d := doctor.AfterExamination(w.doctor(), func() {
				if !swapped {
					swapped = true
					swap(w, dir, victim)
				}
			})
			r := d.Treat(t.Context())
			if len(r.Repairs) == 0 || r.Repairs[0].Error == "" {
				t.Errorf("repairs: %s", show(r.Repairs))
			}
			if _, err := os.Stat(filepath.Join(victim, "pid")); err != nil {
				t.Error(err)
			}
		})
	}
}

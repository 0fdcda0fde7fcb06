package bundle_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/bundle"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// restoring returns an order for a directory in a fresh parent.
func restoring(t *testing.T, p hub.Profile) bundle.Restore {
	t.Helper()
	return bundle.Restore{Profile: p, Dir: filepath.Join(t.TempDir(), "config"), UID: -1, GID: -1}
}

// credentialIn reads a restored directory as the CLI does: strictly.
func credentialIn(t *testing.T, dir string) agent.Credentials {
	t.Helper()
	b, err := agent.ReadCredentialFile(filepath.Join(dir, agent.CredentialFile))
	if err != nil {
		t.Fatal(err)
	}
	c, err := agent.ParseCredentials(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// treeOf returns what is below dir: names, modes, contents.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		tree[name] = info.Mode().String()
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			tree[name] += " " + string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestRestore(t *testing.T) {
	old := syscall.Umask(0) // the modes must not depend on it
	defer syscall.Umask(old)
	sim := platform(t)
	s := newStation(t)
	p := s.signedIn("work", sim.SignIn(simulator.SignIn{}))
	o := restoring(t, p)
	r, err := s.Restore(t.Context(), o)
	s.must(err)
	if r.Dir != o.Dir || r.Files != 3 || r.FullLogin || r.Replaced || !r.LoginExpires.IsZero() || r.AccessExpires.IsZero() {
		t.Errorf("Restore = %+v", r)
	}
	c := credentialIn(t, o.Dir)
	if !c.RefreshToken.IsZero() || !c.AccessToken.Equal(s.login(p).AccessToken) || c.Subscription != "max" {
		t.Error("the credential file is not the access token alone")
	}
	got := treeOf(t, o.Dir)
	delete(got, agent.CredentialFile)
	for name, want := range map[string]string{
		".": "drwx------", "hooks": "drwx------", ".claude.json": `-rw------- {"fake":1}`, "settings.json": "-rw------- {}", "hooks/run.sh": "-rwx------ #!/bin/sh\n",
	} {
		if got[name] != want {
			t.Errorf("%s is %q; want %q", name, got[name], want)
		}
		delete(got, name)
	}
	if names, err := os.ReadDir(filepath.Dir(o.Dir)); len(got) > 0 || err != nil || len(names) != 1 {
		t.Errorf("more than what was captured: %v beside %v, %v", got, names, err)
	}
	if s.latest(p, hub.KindHandover) != nil {
		t.Error("an access token was noted as a second writer")
	}

	s.free(p)

	// An empty directory is as good as none; a full login is noted.
	o = restoring(t, p)
	s.must(os.Mkdir(o.Dir, 0o755))
	o.FullLogin = true
	if r, err = s.Restore(t.Context(), o); err != nil || !r.FullLogin || r.LoginExpires.IsZero() {
		t.Errorf("Restore of the full login = %+v, %v", r, err)
	}
	if c := credentialIn(t, o.Dir); !c.RefreshToken.Equal(s.login(p).RefreshToken) || treeOf(t, o.Dir)["."] != "drwx------" {
		t.Error("the full login is not there, or open to others")
	}
	if st, err := s.refresher.Status(t.Context(), p.ID); err != nil || st.FullCopy == nil || st.FullCopy.To[0] != o.Dir || st.Health != hub.HealthOK {
		t.Errorf("status with a full copy outside = %+v, %v", st, err)
	}
}

// Every full copy is said for as long as its login goes on, whatever else leaves
// after it.
func TestFullCopiesAreRemembered(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	s, other := newStation(t), newStation(t)
	p := s.signedIn("work", sim.SignIn(simulator.SignIn{}))
	want := func(when string, moved bool, dirs ...string) {
		t.Helper()
		st, err := s.refresher.Status(t.Context(), p.ID)
		s.must(err)
		if (st.HandedOver != nil) != moved || (st.FullCopy == nil) != (dirs == nil) || st.FullCopy != nil && !slices.Equal(st.FullCopy.To, dirs) {
			t.Errorf("%s: handed over %+v, full copy %+v; want %v and %v", when, st.HandedOver, st.FullCopy, moved, dirs)
		}
	}
	first, second := restoring(t, p), restoring(t, p)
	first.FullLogin, second.FullLogin, first.Replace = true, true, true
	for _, o := range []bundle.Restore{first, second} {
		_, err := s.Restore(t.Context(), o)
		s.must(err)
	}
	want("two copies", false, second.Dir, first.Dir)
	_, err := s.Restore(t.Context(), first)
	s.must(err)
	want("the first once more", false, first.Dir, second.Dir)
	s.commit(p, hub.KindLogin, sim.SignIn(simulator.SignIn{}).Credentials) // as a refresh does
	want("refreshed", false, first.Dir, second.Dir)
	s.export(bundle.Order{Profile: p, To: []string{other.key.Recipient()}, Move: true})
	want("moved", true, first.Dir, second.Dir)
	_, err = s.TakeBack(t.Context(), p)
	s.must(err)
	want("taken back", false, first.Dir, second.Dir)
	s.commit(p, hub.KindSnapshot, snapshot(t, map[string]string{"settings.json": "{}"})) // as a sign-in does
	s.commit(p, hub.KindLogin, sim.SignIn(simulator.SignIn{}).Credentials)
	want("signed in again", false)
	third := restoring(t, p)
	third.FullLogin = true
	_, err = s.Restore(t.Context(), third)
	s.must(err)
	want("a copy of the new sign-in", false, third.Dir)
}

func TestRestoreReplaces(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	s := newStation(t)
	p := s.signedIn("work", sim.SignIn(simulator.SignIn{}))
	o := restoring(t, p)
	s.must(os.MkdirAll(filepath.Join(o.Dir, "old"), 0o700))
	_, err := s.Restore(t.Context(), o)
	wantError(t, "not empty", err, hub.ErrExists, "--force")
	o.Replace = true
	_, err = s.Restore(t.Context(), o)
	wantError(t, "not empty, and no config directory", err, hub.ErrRefused, "is not replaced")
	s.must(os.WriteFile(filepath.Join(o.Dir, agent.CredentialFile), []byte("{}"), 0o600))
	o.Replace = false
	_, err = s.Restore(t.Context(), o)
	wantError(t, "a config directory", err, hub.ErrExists, "--force")
	if left := treeOf(t, filepath.Dir(o.Dir)); left["config/old"] == "" || len(left) != 4 {
		t.Errorf("a refusal has changed something: %v", left)
	}
	o.Replace = true
	if r, err := s.Restore(t.Context(), o); err != nil || !r.Replaced {
		t.Errorf("Restore = %+v, %v", r, err)
	}
	left := treeOf(t, filepath.Dir(o.Dir))
	if left["config/old"] != "" || left["config/settings.json"] == "" || len(left) != 7 {
		t.Errorf("after it was replaced: %v", left)
	}
}

func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	s, other := newStation(t), newStation(t)
	p := s.signedIn("work", sim.SignIn(simulator.SignIn{}))
	dir := t.TempDir()
	s.must(os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	s.must(os.Symlink(t.TempDir(), filepath.Join(dir, "link")))
	s.must(os.Symlink(s.dir, filepath.Join(dir, "hub")))
	s.must(os.WriteFile(filepath.Join(s.dir, agent.CredentialFile), []byte("{}"), 0o600)) // an older project's copy
	before := treeOf(t, s.dir)
	for name, c := range map[string]struct {
		dir   string
		kind  error
		words string
	}{
		"a file":             {filepath.Join(dir, "file"), hub.ErrExists, "not a directory"},
		"a link":             {filepath.Join(dir, "link"), hub.ErrExists, "not a directory"},
		"nowhere":            {filepath.Join(dir, "none", "config"), hub.ErrNotFound, "first"},
		"the hub itself":     {s.dir, hub.ErrRefused, "hub's own"},
		"what holds the hub": {filepath.Dir(s.dir), hub.ErrRefused, "hub's own"},
		"within the hub":     {filepath.Join(s.dir, "vault", "x"), hub.ErrRefused, "hub's own"},
		"within, by a link":  {filepath.Join(dir, "hub", "x"), hub.ErrRefused, "hub's own"},
	} {
		_, err := s.Restore(t.Context(), bundle.Restore{Profile: p, Dir: c.dir, Replace: true, UID: -1, GID: -1})
		wantError(t, name, err, c.kind, c.words)
	}
	if _, err := s.Restore(t.Context(), bundle.Restore{Profile: p, Dir: "/", UID: -1, GID: -1}); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("the root = %v; want ErrInvalid", err)
	}
	if after := treeOf(t, s.dir); after["vault"] != before["vault"] || after["key"] != before["key"] {
		t.Error("the hub has changed")
	}

	lent := s.profile("lent")
	s.commit(lent, hub.KindLogin, mustEncode(t, s.login(p).WithoutRefreshToken()))
	ended, expired, moved, empty := s.profile("ended"), s.profile("expired"), s.signedIn("moved", sim.SignIn(simulator.SignIn{})), s.profile("empty")
	s.commit(ended, hub.KindLogin, sim.SignIn(simulator.SignIn{LoginTTL: -time.Minute}).Credentials)
	s.commit(expired, hub.KindLogin, sim.SignIn(simulator.SignIn{AccessTTL: -time.Minute}).Credentials)
	s.export(bundle.Order{Profile: moved, To: []string{other.key.Recipient()}, Move: true})
	for name, c := range map[string]struct {
		profile hub.Profile
		full    bool
		kind    error
	}{
		"no login":         {empty, false, hub.ErrLoginRequired},
		"ended":            {ended, true, hub.ErrLoginRequired},
		"expired":          {expired, false, hub.ErrLoginRequired},
		"moved":            {moved, false, hub.ErrLoginRequired},
		"moved, all of it": {moved, true, hub.ErrLoginRequired},
		"lent, all of it":  {lent, true, hub.ErrRefused},
	} {
		o := restoring(t, c.profile)
		o.FullLogin = c.full
		if _, err := s.Restore(t.Context(), o); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v; want %v", name, err, c.kind)
		}
		if names, err := os.ReadDir(filepath.Dir(o.Dir)); err != nil || len(names) != 0 {
			t.Errorf("%s: left over: %v, %v", name, names, err)
		}
	}
	if _, err := s.Restore(t.Context(), restoring(t, lent)); err != nil {
		t.Errorf("an access token that was lent: %v", err)
	}
}

func mustEncode(t *testing.T, c agent.Credentials) []byte {
	t.Helper()
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Wherever a restore fails, the directory is as it was and nothing is left beside
// it; the refresh token is on the disk only after that was noted.
func TestRestoreInterrupted(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	for _, replace := range []bool{false, true} {
		for _, point := range []string{"copy.before", "copy.after", "credential.before", "credential.after", "sync.before", "sync.after", "rename.before", "rename.after"} {
			s := newStation(t)
			p := s.signedIn("work", sim.SignIn(simulator.SignIn{}))
			o := restoring(t, p)
			o.FullLogin, o.Replace = true, replace
			if replace {
				s.must(os.Mkdir(o.Dir, 0o700))
				s.must(os.WriteFile(filepath.Join(o.Dir, agent.CredentialFile), []byte("{}"), 0o600))
			}
			s.fail = func(name string) error {
				noted := s.latest(p, hub.KindHandover) != nil
				for path, text := range treeOf(t, filepath.Dir(o.Dir)) {
					if strings.Contains(text, s.login(p).RefreshToken.Reveal()) && !noted {
						t.Errorf("at %s the refresh token is in %s, and nobody knows", name, path)
					}
				}
				return at(point)(name)
			}
			before := treeOf(t, filepath.Dir(o.Dir))
			if _, err := s.Restore(t.Context(), o); !errors.Is(err, errInjected) {
				t.Fatalf("%s: Restore = %v", point, err)
			}
			after := treeOf(t, filepath.Dir(o.Dir))
			if point == "rename.after" {
				if after["config/settings.json"] == "" || len(after) != 7 {
					t.Errorf("%s: %v", point, after)
				}
				continue
			}
			delete(before, ".") // the order of a directory's life is not the same
			delete(after, ".")
			if len(before) != len(after) || before["config/"+agent.CredentialFile] != after["config/"+agent.CredentialFile] {
				t.Errorf("%s: %v has become %v", point, before, after)
			}
			s.fail = nil
			if _, err := s.Restore(t.Context(), o); err != nil {
				t.Errorf("%s, again: %v", point, err)
			}
		}
	}
}

// What a killed restore has left goes with the next one; what a living one is at
// work on, and what is another's, stays.
func TestRestoreSweeps(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	s := newStation(t)
	p := s.signedIn("work", sim.SignIn(simulator.SignIn{}))
	o := restoring(t, p)
	beside := func(name string) string {
		dir := filepath.Join(filepath.Dir(o.Dir), name)
		s.must(os.MkdirAll(filepath.Join(dir, "x"), 0o700))
		return dir
	}
	dead, live, other := beside(".config.claude-hub-restore-dead"), beside(".config.claude-hub-restore-live"), beside(".other.claude-hub-restore-dead")
	f, err := os.Open(live)
	s.must(err)
	defer f.Close()
	s.must(syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	_, err = s.Restore(t.Context(), o)
	s.must(err)
	for dir, want := range map[string]bool{dead: false, live: true, other: true, o.Dir: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v; want it there: %v", dir, err, want)
		}
	}
}

// Root gives all of it to its owner; others can't, and are told so.
func TestRestoreOwner(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	s := newStation(t)
	p := s.signedIn("work", sim.SignIn(simulator.SignIn{}))
	o := restoring(t, p)
	o.UID, o.GID = 4321, 8765
	_, err := s.Restore(t.Context(), o)
	if os.Geteuid() != 0 {
		wantError(t, "another owner", err, hub.ErrRefused, "root")
		return
	}
	s.must(err)
	s.must(filepath.WalkDir(o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 4321 || st.Gid != 8765 {
			t.Errorf("%s belongs to %+v", path, info.Sys())
		}
		return err
	}))
}

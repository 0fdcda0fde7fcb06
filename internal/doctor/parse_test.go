package doctor_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/doctor"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// TestWhatIsNoFault: what looks like a fault and is none is not found.
func TestWhatIsNoFault(t *testing.T) {
	for name, arrange := range map[string]func(w *world){
		"a writer at work in the vault": func(w *world) {
			w.write("vault/records/.tmp-abcdefgh", "half a rec")
			lock(w, "vault/records/.tmp-abcdefgh")
		},
		"a sign-in under way": func(w *world) {
			w.must(os.MkdirAll(w.path("login", "signin-123"), 0o700))
			lock(w, "login/signin-123")
		},
		"a lock that its holder renews": func(w *world) {
			dir := w.captured(w.sim.SignIn(simulator.SignIn{}).Credentials)
			w.must(os.Mkdir(filepath.Join(dir, ".oauth_refresh.lock"), 0o700))
		},
		"a job's open files": func(w *world) {
			w.write("runs/r-222/home/file", "")
			w.must(os.Chmod(w.path("runs", "r-222", "home", "file"), 0o666))
			w.must(os.Chmod(w.path("runs", "r-222", "home"), 0o777))
		},
		"a record of a newer version's": func(w *world) {
			w.write("vault/records/"+string(w.profile.ID)+"/shiny/00000000000000000001", "who knows")
		},
		"a key from a secret store": func(w *world) {
			w.cfg.KeyFile = filepath.Join(w.t.TempDir(), "secret")
			w.must(os.Rename(w.path("key"), w.cfg.KeyFile))
		},
		"a profile with a spare and no login": func(w *world) {
			w.must(w.vault.Remove(w.t.Context(), w.profile.ID))
			w.profile = hub.Profile{ID: hub.NewProfileID(), Name: "robot", Created: time.Now()}
			w.must(w.vault.CreateProfile(w.t.Context(), w.profile))
			w.spare(time.Hour)
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			w := newWorld(t)
			arrange(w)
			if r := w.examine(); len(r.Findings) != 0 {
				t.Errorf("found: %s", show(r.Findings))
			}
		})
	}
}

func lock(w *world, name string) {
	w.t.Helper()
	f, err := os.Open(w.path(name))
	w.must(err)
	w.t.Cleanup(func() { f.Close() })
	w.must(flock(f))
}

// TestLockThatIsNone: what holds more than a lock does is not removed.
func TestLockThatIsNone(t *testing.T) {
	w := newWorld(t)
	dir := w.captured(w.sim.SignIn(simulator.SignIn{}).Credentials)
	precious := filepath.Join(dir+".lock", "a", "b")
	w.must(os.MkdirAll(precious, 0o700))
	old := time.Now().Add(-time.Hour)
	w.must(os.Chtimes(dir+".lock", old, old))
	r := w.doctor().Treat(t.Context())
	if len(r.Repairs) != 1 || r.Repairs[0].Error == "" {
		t.Errorf("repairs: %s", show(r.Repairs))
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// TestLinksLeadNowhere: a link in the hub's directory does not have the treatment
// change what it leads to.
func TestLinksLeadNowhere(t *testing.T) {
	w := newWorld(t)
	victim := w.file("victim", nil)
	w.must(os.Chmod(victim, 0o644))
	w.must(os.Remove(w.path("config.yaml")))
	w.must(os.Symlink(victim, w.path("config.yaml")))
	w.must(os.Symlink(victim, w.path("vault", "link")))
	w.doctor().Treat(t.Context())
	if info, err := os.Stat(victim); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the treatment has changed %v (%v)", info.Mode(), err)
	}
}

func TestParseMounts(t *testing.T) {
	text := `22 27 0:21 / /proc rw,relatime - proc proc rw
30 27 8:1 /srv/captured/.credentials.json//deleted /home/node/.claude/.credentials.json ro - ext4 /dev/sda1 rw
31 27 8:1 /a\040b /home/a\040b\134c rw - ext4 /dev/sda1 rw
nonsense
`
	got := doctor.ParseMounts(strings.NewReader(text))
	if len(got) != 3 || got[1].Target() != "/home/node/.claude/.credentials.json" || !got[1].Deleted() || got[2].Target() != `/home/a b\c` || got[2].Deleted() {
		t.Errorf("%+v", got)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("31 27 8:1 /a\\040b /home/a\\1 rw - ext4 /dev/sda1 rw\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range doctor.ParseMounts(strings.NewReader(text)) {
			if m.Target() == "" {
				t.Error("a mount without a target")
			}
		}
	})
}

func FuzzParseVaultPath(f *testing.F) {
	f.Add("records/p-abc/login/00000000000000000001")
	f.Add("names/default")
	f.Add(".lock")
	f.Fuzz(func(t *testing.T, path string) {
		if gen, stranger := doctor.ParseVaultPath(path); gen > 0 && stranger {
			t.Errorf("%q is a generation and a stranger", path)
		}
	})
}

func TestSealedTo(t *testing.T) {
	record := "claude-hub-vault/1\n0123 mac\nage-encryption.org/v1\n-> X25519 abc\nbody\n-> X25519 def\nbody\n--- mac\npayload\n-> X25519 no\n"
	for text, want := range map[string]int{
		record: 2, "": 0, "other\n" + record: 0, strings.Replace(record, "--- mac\n", "", 1): 0,
		"claude-hub-vault/1\n" + strings.Repeat("-> X25519 \n", 5000): 0,
	} {
		if got := doctor.SealedTo([]byte(text)); got != want {
			t.Errorf("%.60q: %d recipients, want %d", text, got, want)
		}
	}
}

func FuzzSealedTo(f *testing.F) {
	f.Add([]byte("claude-hub-vault/1\n0123 mac\nage-encryption.org/v1\n-> X25519 abc\nbody\n--- mac\n"))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if n := doctor.SealedTo(sealed); n < 0 || n > bytes.Count(sealed, []byte("-> X25519 ")) {
			t.Errorf("%d recipients", n)
		}
	})
}

func FuzzParseCertificates(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(_ *testing.T, data []byte) { doctor.ParseCertificates(data) })
}

func TestProxyAddress(t *testing.T) {
	for text, want := range map[string]string{
		"http://proxy:3128": "proxy:3128", "proxy:3128": "proxy:3128", "https://proxy": "proxy:443", "http://u:p@proxy": "proxy:80",
		"http://[::1]:8": "[::1]:8", "socks5://proxy:1": "", "http://": "", "http://%zz": "",
	} {
		got, err := doctor.ProxyAddress(text)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: the error quotes it: %v", text, err)
		}
	}
}

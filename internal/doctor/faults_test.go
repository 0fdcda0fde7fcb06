package doctor_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/doctor"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/server"
	"github.com/claude-hub/claude-hub/internal/simulator"
	"github.com/claude-hub/claude-hub/internal/store"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// fault is one thing that goes wrong with a healthy hub.
type fault struct {
	id, name string
	warning  bool // its level; else it is an error
	fixable  bool
	says     string // in one of its texts
	arrange  func(w *world)
	after    func(w *world) // what must hold after the treatment

	more   bool // other findings come with it
	again  bool // one that can't be fixed stays beside it
	whole  bool // it is about the CLI or the sandbox, whose checks take seconds
	mounts bool // it needs a mount namespace
}

func (f fault) level() doctor.Level {
	if f.warning {
		return doctor.LevelWarning
	}
	return doctor.LevelError
}

var faults = join(homeFaults, vaultFaults, loginFaults, capturedFaults, machineFaults, daemonFaults)

func join(lists ...[]fault) []fault {
	var all []fault
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

var homeFaults = []fault{
	{id: "hub-missing", name: "absent", says: "`claude-hub init`", arrange: func(w *world) {
		w.must(os.RemoveAll(w.dir))
	}},
	{id: "hub-missing", name: "empty mount", says: "left side of the mount", arrange: func(w *world) {
		w.must(os.RemoveAll(w.dir))
		w.must(os.Mkdir(w.dir, 0o700))
	}},
	{id: "hub-missing", name: "file", says: "not a directory", arrange: func(w *world) {
		w.must(os.RemoveAll(w.dir))
		w.must(os.WriteFile(w.dir, nil, 0o600))
	}},
	{id: "permissions", name: "key", fixable: true, says: "chmod 0600", arrange: func(w *world) {
		w.must(os.Chmod(w.path("key"), 0o644))
	}},
	{id: "permissions", name: "directories", fixable: true, says: "0755", arrange: func(w *world) {
		w.must(os.Chmod(w.dir, 0o755))
		w.must(os.Chmod(w.path("vault"), 0o755))
	}},
	{id: "permissions", name: "exposed key", fixable: true, says: "make a new hub and sign in again", arrange: func(w *world) {
		w.must(os.Chmod(w.dir, 0o755))
		w.must(os.Chmod(w.path("key"), 0o640))
	}},
	{id: "permissions", name: "inside", warning: true, fixable: true, says: "hub.db (0644)", arrange: func(w *world) {
		w.must(os.Chmod(w.path("hub.db"), 0o644))
		w.must(os.Chmod(w.path("vault", "names", "default"), 0o640))
		w.must(os.Chmod(w.path("vault", "names"), 0o711))
		w.must(os.Chmod(w.path("config.yaml"), 0o666))
	}},
	{id: "permissions", name: "closed to its owner", fixable: true, more: true, arrange: func(w *world) {
		w.must(os.Chmod(w.path("key"), 0))
		w.must(os.Chmod(w.path("vault", "records"), 0))
		w.t.Cleanup(func() { os.Chmod(w.path("vault", "records"), 0o700) })
	}},
	{id: "owner", name: "of the directory", more: os.Geteuid() != 0, says: "sudo -u '#", arrange: func(w *world) {
		if os.Geteuid() != 0 {
			w.cfg.Dir = "/usr" // root's
			return
		}
		w.must(os.Chown(w.dir, 4321, 4321))
	}},
	{id: "owner", name: "of the key", fixable: os.Geteuid() == 0, more: os.Geteuid() != 0, says: "chown", arrange: func(w *world) {
		if os.Geteuid() != 0 { // nobody but root can make this fault
			w.cfg.Dir = "/usr"
			return
		}
		w.must(os.Chown(w.path("key"), 4321, 4321))
		w.must(os.Chown(w.path("vault", "names"), 4321, 4321))
	}},
	{id: "config-invalid", says: "mend the line that it names", arrange: func(w *world) {
		w.write("config.yaml", "recovery_recipents: []\n")
	}},
	{id: "disk-full", mounts: true, says: "refreshes wait", arrange: func(w *world) {
		w.ownDisk("size=24m")
	}},
	{id: "disk-full", name: "to the last byte", mounts: true, more: true, says: "make room", arrange: func(w *world) {
		w.ownDisk("size=8m")
		err := os.WriteFile(w.path("filler"), make([]byte, 8<<20), 0o600)
		if !errors.Is(err, syscall.ENOSPC) {
			w.t.Fatalf("filling the disk: %v", err)
		}
	}},
	{id: "disk-full", name: "inodes", mounts: true, says: "inodes", arrange: func(w *world) {
		w.ownDisk("nr_inodes=900,size=1g")
	}},
	{id: "disk-write", name: "read-only", mounts: true, says: "read-only", arrange: func(w *world) {
		w.ownDisk("size=1g")
		w.must(syscall.Mount("", w.dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=1g,mode=0700"))
	}},
	{id: "wrong-mount", name: "file", mounts: true, warning: true, says: "mount the directory, not the file", arrange: func(w *world) {
		w.fileMount()
	}},
	{id: "wrong-mount", name: "stale file", mounts: true, says: "has been replaced since", arrange: func(w *world) {
		file := w.fileMount()
		w.must(os.WriteFile(file+".new", []byte("{}"), 0o600))
		w.must(os.Rename(file+".new", file)) // as each refresh does
	}},
}

// ownDisk moves the hub to a small file system of its own.
func (w *world) ownDisk(options string) {
	w.t.Helper()
	aside := filepath.Join(w.t.TempDir(), "aside")
	w.must(os.Rename(w.dir, aside))
	w.must(os.Mkdir(w.dir, 0o700))
	w.mount("small", w.dir, "tmpfs", 0, options+",mode=0700")
	w.must(os.CopyFS(w.dir, os.DirFS(aside)))
	w.must(filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return errors.Join(err, os.Chmod(path, 0o600))
	}))
}

// fileMount mounts a credential file into a container's home, so to speak, and
// returns its source.
func (w *world) fileMount() string {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "a captured login") // the kernel escapes blanks
	file := filepath.Join(dir, agent.CredentialFile)
	home := w.t.TempDir()
	target := filepath.Join(home, agent.CredentialFile)
	w.must(os.Mkdir(dir, 0o700))
	w.must(os.WriteFile(file, w.sim.SignIn(simulator.SignIn{}).Credentials, 0o600))
	w.must(os.WriteFile(target, nil, 0o600))
	w.mount(file, target, "", syscall.MS_BIND, "")
	return file
}

var vaultFaults = []fault{
	{id: "key-missing", says: "put your copy of it back", arrange: func(w *world) {
		w.must(os.Remove(w.path("key")))
	}},
	{id: "key-missing", name: "and vault", says: "`claude-hub init` makes what is missing", arrange: func(w *world) {
		w.must(os.Remove(w.path("key")))
		w.must(os.RemoveAll(w.path("vault")))
	}},
	{id: "key-missing", name: "secret", says: "CLAUDE_HUB_KEY_FILE", arrange: func(w *world) {
		w.cfg.KeyFile = filepath.Join(w.t.TempDir(), "secret")
	}},
	{id: "key-invalid", name: "open secret", says: "0644", arrange: func(w *world) {
		key, err := os.ReadFile(w.path("key"))
		w.must(err)
		w.cfg.KeyFile = w.file("secret", key)
		w.must(os.Chmod(w.cfg.KeyFile, 0o644))
	}},
	{id: "key-invalid", says: "AGE-SECRET-KEY-1", arrange: func(w *world) {
		w.write("key", "this is my key\n")
	}},
	{id: "key-invalid", name: "link", says: "symbolic link", arrange: func(w *world) {
		w.must(os.Rename(w.path("key"), w.path("elsewhere")))
		w.must(os.Symlink("elsewhere", w.path("key")))
	}},
	{id: "vault-missing", says: "put your copy of it back", arrange: func(w *world) {
		w.must(os.RemoveAll(w.path("vault")))
	}},
	{id: "vault-missing", name: "newer", says: "newer", arrange: func(w *world) {
		w.write("vault/format", "claude-hub-vault 9\n")
	}},
	{id: "key-wrong", says: "does not open", arrange: func(w *world) {
		w.must(os.Remove(w.path("key")))
		_, err := vault.CreateKey(w.path("key"))
		w.must(err)
	}},
	{id: "vault-damaged", name: "cut off", says: "a record in use", arrange: func(w *world) {
		path := w.path(w.record(hub.KindLogin, 1))
		info, err := os.Stat(path)
		w.must(err)
		w.must(os.Truncate(path, info.Size()/2))
	}},
	{id: "vault-damaged", name: "old generation", warning: true, says: "an old generation", arrange: func(w *world) {
		w.signIn(simulator.SignIn{})
		w.flip(w.record(hub.KindLogin, 1))
	}},
	{id: "vault-damaged", name: "name", says: "names/default", arrange: func(w *world) {
		w.flip("vault/names/default")
	}},
	{id: "vault-damaged", name: "swapped", says: "a record in use", arrange: func(w *world) {
		w.signIn(simulator.SignIn{})
		b, err := os.ReadFile(w.path(w.record(hub.KindLogin, 1)))
		w.must(err)
		w.write(w.record(hub.KindLogin, 2), string(b))
	}},
	{id: "vault-unknown", name: "among generations", fixable: true, says: "no record", arrange: func(w *world) {
		w.write(filepath.Join("vault", "records", string(w.profile.ID), "login", "notes"), "hello")
	}, after: func(w *world) {
		if _, err := w.vault.Latest(w.t.Context(), w.profile.ID, hub.KindLogin); err != nil {
			w.t.Errorf("the login after the treatment: %v", err)
		}
		kept, _ := filepath.Glob(w.path("set-aside", "*", "records", "*", "login", "notes"))
		if len(kept) != 1 {
			w.t.Errorf("the stranger was not kept: %v", kept)
		}
	}},
	{id: "vault-unknown", name: "elsewhere", warning: true, fixable: true, says: ".DS_Store", arrange: func(w *world) {
		w.write("vault/.DS_Store", "hello")
	}},
	{id: "vault-leftover", warning: true, fixable: true, says: "killed while it wrote", arrange: func(w *world) {
		w.write("vault/records/.tmp-abcdefgh", "half a rec")
	}},
	{id: "recovery-none", warning: true, more: true, says: "age-keygen", arrange: func(w *world) {
		w.write("config.yaml", "recovery_recipients: []\n")
	}},
	{id: "recovery-stale", warning: true, fixable: true, says: "records/", arrange: func(w *world) {
		settings, err := w.settings()
		w.must(err)
		second, err := age.GenerateX25519Identity()
		w.must(err)
		w.write("config.yaml", "recovery_recipients: ["+settings.RecoveryRecipients[0]+","+second.Recipient().String()+"]\n")
		w.second = second
	}, after: func(w *world) { // the new recovery key alone opens what is in use
		lost, err := vault.Open(w.path("vault"))
		w.must(err)
		to := newWorld(w.t)
		w.must(to.vault.Remove(w.t.Context(), to.profile.ID)) // of the same name
		if _, err := vault.Recover(w.t.Context(), lost, strings.NewReader(w.second.String()), to.vault); err != nil {
			w.t.Errorf("recovering: %v", err)
		}
		if _, err := to.vault.Latest(w.t.Context(), w.profile.ID, hub.KindLogin); err != nil {
			w.t.Errorf("the recovered login: %v", err)
		}
	}},
	{id: "recovery-stale", name: "exchanged", warning: true, fixable: true, says: "exchanged", arrange: func(w *world) {
		other, err := age.GenerateX25519Identity()
		w.must(err)
		w.write("config.yaml", "recovery_recipients: ["+other.Recipient().String()+"]\n")
	}},
	{id: "recovery-stale", name: "withdrawn", warning: true, fixable: true, more: true, says: "withdrawn", arrange: func(w *world) {
		w.write("config.yaml", "recovery_recipients: []\n")
	}, after: func(w *world) {
		b, err := os.ReadFile(w.path(w.record(hub.KindLogin, 1)))
		w.must(err)
		if n := doctor.SealedTo(b); n != 1 {
			w.t.Errorf("the login is sealed to %d keys", n)
		}
	}},
}

// flip changes one bit in the middle of a file.
func (w *world) flip(name string) {
	w.t.Helper()
	b, err := os.ReadFile(w.path(name))
	w.must(err)
	b[len(b)*2/3] ^= 1
	w.write(name, string(b))
}

const blanked = `{"claudeAiOauth":{"accessToken":"","refreshToken":"","expiresAt":0,"scopes":[]}}`

var loginFaults = []fault{
	{id: "login-none", name: "new hub", warning: true, says: "`claude-hub login`", arrange: func(w *world) {
		w.must(w.vault.Remove(w.t.Context(), w.profile.ID))
	}},
	{id: "login-none", name: "new profile", warning: true, says: "`claude-hub login --profile staging`", arrange: func(w *world) {
		w.must(w.vault.CreateProfile(w.t.Context(), hub.Profile{ID: hub.NewProfileID(), Name: "staging", Created: time.Now()}))
	}},
	{id: "login-expired", says: "30 days", arrange: func(w *world) {
		w.signIn(simulator.SignIn{LoginTTL: -time.Hour})
	}},
	{id: "login-required", says: "it was used or revoked elsewhere", arrange: func(w *world) {
		w.state(`{"generation":1,"health":"login-required","reason":"it was used or revoked elsewhere"}`)
	}},
	{id: "login-expiring", warning: true, says: "2 days", arrange: func(w *world) {
		w.signIn(simulator.SignIn{LoginTTL: 71 * time.Hour})
	}},
	{id: "refresh-failing", warning: true, says: "the last 3 refreshes", arrange: func(w *world) {
		w.state(`{"generation":1,"health":"suspect","reason":"the platform answered 503","failures":3}`)
	}},
	{id: "refresh-interrupted", warning: true, fixable: true, says: "never remove that directory", arrange: func(w *world) {
		attempt := w.path("refresh", string(w.profile.ID), "attempt-abcdefgh")
		w.must(os.MkdirAll(attempt, 0o700))
		w.cfg.Finish = func(_ context.Context, id hub.ProfileID) error {
			if id != w.profile.ID {
				return fmt.Errorf("finishing %s", id)
			}
			return os.Remove(attempt)
		}
	}},
	{id: "refresh-state", says: "remove that file", arrange: func(w *world) {
		w.state(`{"generation":1,"hea`)
	}},
	{id: "second-writer", says: "stop the other one", arrange: func(w *world) {
		w.state(`{"generation":1,"health":"login-required","reason":"refused","second_writer":true}`)
	}},
	{id: "handed-over", warning: true, says: "age1fake", arrange: func(w *world) {
		w.handover(hub.Handover{Generation: 1, To: []string{"age1fake"}, At: time.Now(), Bundle: "b-fake"})
	}},
	{id: "login-copied", warning: true, says: "/srv/copy", arrange: func(w *world) {
		w.handover(hub.Handover{Generation: 1, To: []string{"/srv/copy"}, At: time.Now(), Shared: true})
	}},
	{id: "spare-in-use", warning: true, more: true, says: "setup token", arrange: func(w *world) {
		w.spare(0)
		w.signIn(simulator.SignIn{LoginTTL: -time.Hour, AccessTTL: -time.Hour})
	}},
	{id: "setup-token-expired", warning: true, says: "one year", arrange: func(w *world) {
		w.spare(366 * 24 * time.Hour)
	}},
	{id: "setup-token-expired", name: "and no login", more: true, says: "`claude-hub login --setup-token`", arrange: func(w *world) {
		w.spare(366 * 24 * time.Hour)
		w.signIn(simulator.SignIn{LoginTTL: -time.Hour, AccessTTL: -time.Hour})
	}},
	{id: "setup-token-expiring", warning: true, says: "days", arrange: func(w *world) {
		w.spare(350 * 24 * time.Hour)
	}},
	{id: "setup-token-refused", warning: true, says: "revoked", arrange: func(w *world) {
		w.spare(0)
		w.state(`{"generation":1,"health":"ok","spare_dead":1}`)
	}},
	{id: "credential-empty", name: "in the vault", says: "blanked", arrange: func(w *world) {
		w.commit(hub.KindLogin, []byte(blanked))
	}},
	{id: "credential-empty", name: "setup token", says: "`claude-hub login --setup-token`", arrange: func(w *world) {
		w.commit(hub.KindSetupToken, []byte("{}"))
	}},
	{id: "signin-leftover", warning: true, fixable: true, says: "scratch homes", arrange: func(w *world) {
		w.write("login/signin-123/.claude/.credentials.json", blanked)
	}, after: func(w *world) {
		if _, err := os.Stat(w.path("login", "signin-123")); err == nil {
			w.t.Error("the scratch home is still there")
		}
	}},
	{id: "refresh-kept", warning: true, says: "kept-abc", arrange: func(w *world) {
		w.must(os.MkdirAll(w.path("refresh", string(w.profile.ID), "kept-abc"), 0o700))
	}},
}

func (w *world) handover(h hub.Handover) {
	w.t.Helper()
	payload, err := json.Marshal(h)
	w.must(err)
	w.commit(hub.KindHandover, payload)
}

var capturedFaults = []fault{
	{id: "credential-empty", name: "0 bytes", says: "is empty", arrange: func(w *world) { // the seed's first
		w.captured([]byte{})
	}},
	{id: "credential-empty", name: "blanked", says: "blanked", arrange: func(w *world) {
		w.captured([]byte(blanked))
	}},
	{id: "credential-empty", name: "braces", says: "holds no login", arrange: func(w *world) {
		w.captured([]byte("{}"))
	}},
	{id: "credential-empty", name: "in the hub", says: "is empty", arrange: func(w *world) {
		w.write(agent.CredentialFile, "")
	}},
	{id: "credential-missing", says: "sign-in was not completed", arrange: func(w *world) {
		dir := w.captured(nil)
		w.must(os.WriteFile(filepath.Join(dir, "settings.json"), []byte("{}"), 0o600))
	}},
	{id: "credential-missing", name: "no directory", says: "nothing is mounted there", arrange: func(w *world) {
		w.must(os.Remove(w.captured(nil)))
	}},
	{id: "credential-unreadable", fixable: true, says: "chmod 0600", arrange: func(w *world) { // the seed's second
		w.must(os.Chmod(filepath.Join(w.captured(w.sim.SignIn(simulator.SignIn{}).Credentials), agent.CredentialFile), 0o644))
	}},
	{id: "credential-unreadable", name: "another owner", fixable: true, says: ".credentials.json", arrange: func(w *world) {
		path := filepath.Join(w.captured(w.sim.SignIn(simulator.SignIn{}).Credentials), agent.CredentialFile)
		w.must(os.Chmod(path, 0o200))
		if os.Geteuid() == 0 {
			w.must(os.Chown(path, 1000, 1000))
		}
	}},
	{id: "credential-expired", says: "`claude-hub import", arrange: func(w *world) { // the seed's third
		w.captured(w.sim.SignIn(simulator.SignIn{AccessTTL: -time.Hour}).Credentials)
	}},
	{id: "login-expired", name: "captured", says: "`claude-hub login`", arrange: func(w *world) {
		w.captured(w.sim.SignIn(simulator.SignIn{LoginTTL: -time.Hour}).Credentials)
	}},
	{id: "wrong-mount", name: "a directory in its place", says: "makes a directory of a file", arrange: func(w *world) { // the seed's fourth
		w.must(os.Mkdir(filepath.Join(w.captured(nil), agent.CredentialFile), 0o700))
	}},
	{id: "wrong-mount", name: "one level off", says: "one level off", arrange: func(w *world) {
		dir := w.captured(nil)
		w.must(os.Mkdir(filepath.Join(dir, ".claude"), 0o700))
		w.must(os.WriteFile(filepath.Join(dir, ".claude", agent.CredentialFile), w.sim.SignIn(simulator.SignIn{}).Credentials, 0o600))
	}},
	{id: "wrong-mount", name: "empty", says: "left side of the mount", arrange: func(w *world) {
		w.captured(nil)
	}},
	{id: "credential-plain", warning: true, says: "`claude-hub import", arrange: func(w *world) {
		w.write(agent.CredentialFile, string(w.sim.SignIn(simulator.SignIn{}).Credentials))
	}},
	{id: "stale-lock", warning: true, fixable: true, says: ".oauth_refresh.lock", arrange: func(w *world) {
		lock := filepath.Join(w.captured(w.sim.SignIn(simulator.SignIn{}).Credentials), ".oauth_refresh.lock")
		w.must(os.Mkdir(lock, 0o700))
		old := time.Now().Add(-time.Hour)
		w.must(os.Chtimes(lock, old, old))
	}},
	{id: "stale-lock", name: "beside", warning: true, fixable: true, says: "captured.lock", arrange: func(w *world) {
		lock := w.captured(w.sim.SignIn(simulator.SignIn{}).Credentials) + ".lock"
		w.must(os.Mkdir(lock, 0o700))
		w.must(os.WriteFile(filepath.Join(lock, "pid"), []byte("1"), 0o600))
		old := time.Now().Add(-time.Hour)
		w.must(os.Chtimes(lock, old, old))
	}},
	{id: "api-key", warning: true, says: "unset ANTHROPIC_API_KEY", arrange: func(w *world) {
		w.cfg.Environ = append(w.cfg.Environ, "ANTHROPIC_API_KEY=sk-ant-api03-fake-0123456789")
	}},
}

var machineFaults = []fault{
	{id: "cli-missing", whole: true, says: "`claude-hub agent install`", arrange: func(w *world) {
		w.t.Setenv("PATH", w.t.TempDir())
		w.cfg.Sandboxes = nil
	}},
	{id: "cli-missing", name: "another program", whole: true, says: "is not a claude CLI", arrange: func(w *world) {
		w.fakeCLI("echo hello")
	}},
	{id: "cli-changed", whole: true, says: "Write tool", arrange: func(w *world) { // a flag has lost its meaning
		w.fakeCLI(`for a; do shift; case $a in --permission-mode=*) ;; *) set -- "$@" "$a" ;; esac; done; exec ` + hubtest.Claude(w.t) + ` "$@"`)
	}},
	{id: "cli-changed", name: "no auth", whole: true, says: "auth login", arrange: func(w *world) {
		w.fakeCLI(`[ "$1" = auth ] && { echo "unknown command auth"; exit 1; }; exec ` + hubtest.Claude(w.t) + ` "$@"`)
	}},
	{id: "cli-untested", whole: true, warning: true, says: "2.9.999", arrange: func(w *world) {
		w.fakeCLI(`[ "$1" = --version ] && { echo "2.9.999 (Claude Code)"; exit; }; exec ` + hubtest.Claude(w.t) + ` "$@"`)
	}},
	{id: "sandbox", whole: true, says: "bwrap", arrange: func(w *world) {
		w.cfg.Sandboxes = func() []doctor.Sandbox {
			return []doctor.Sandbox{{Name: "bubblewrap", Check: func(ctx context.Context) error {
				d, err := bubblewrap.New(bubblewrap.Config{Program: "/bin/false"})
				w.must(err)
				return d.Check(ctx)
			}}}
		}
	}},
	{id: "engine", whole: true, says: "systemctl", arrange: func(w *world) {
		w.cfg.Sandboxes = func() []doctor.Sandbox {
			return []doctor.Sandbox{{Name: "docker", Wanted: true, Engine: true, Check: func(context.Context) error {
				_, err := net.Dial("unix", w.path("no.sock"))
				return err
			}}}
		}
	}},
	{id: "image-missing", says: "`claude-hub image build`", arrange: func(w *world) {
		w.cfg.Images = func(context.Context) []doctor.Image {
			return []doctor.Image{{Name: "claude-hub-agent:fake", Err: fmt.Errorf("%w: no such image", hub.ErrNotFound)}}
		}
	}},
	{id: "image-stale", warning: true, says: "an older CLI", arrange: func(w *world) {
		w.cfg.Images = func(context.Context) []doctor.Image {
			return []doctor.Image{{Name: "claude-hub-agent:fake", Stale: "it has an older CLI"}, {Name: "claude-hub-setup:fake"}}
		}
	}},
	{id: "proxy-invalid", says: "HTTPS_PROXY", arrange: func(w *world) {
		w.cfg.Environ = append(w.cfg.Environ, "HTTPS_PROXY=socks5://user:sk-ant-api03-fake-0123456789@localhost:1")
	}},
	{id: "proxy-unreachable", says: "https_proxy", arrange: func(w *world) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		w.must(err)
		l.Close()
		w.cfg.Environ = append(w.cfg.Environ, "https_proxy=http://"+l.Addr().String())
	}},
	{id: "ca-unreadable", says: "NODE_EXTRA_CA_CERTS", arrange: func(w *world) {
		w.cfg.Environ = append(w.cfg.Environ, "NODE_EXTRA_CA_CERTS="+w.path("no.pem"))
	}},
	{id: "ca-unreadable", name: "fifo", says: "not a regular file", arrange: func(w *world) {
		fifo := filepath.Join(w.t.TempDir(), "fifo")
		w.must(syscall.Mkfifo(fifo, 0o600))
		w.cfg.Environ = append(w.cfg.Environ, "SSL_CERT_FILE="+fifo)
	}},
	{id: "ca-unreadable", name: "relative", says: "relative path", arrange: func(w *world) {
		w.cfg.Environ = append(w.cfg.Environ, "SSL_CERT_FILE=ca.pem")
	}},
	{id: "ca-invalid", says: "BEGIN CERTIFICATE", arrange: func(w *world) {
		w.cfg.Environ = append(w.cfg.Environ, "NODE_EXTRA_CA_CERTS="+w.file("ca.pem", []byte("not a certificate")))
	}},
	{id: "ca-expired", says: "NODE_EXTRA_CA_CERTS", arrange: func(w *world) {
		w.cfg.Environ = append(w.cfg.Environ, "NODE_EXTRA_CA_CERTS="+w.file("ca.pem", w.certificate(-time.Hour)))
	}},
	{id: "ca-expiring", warning: true, says: "end on", arrange: func(w *world) {
		w.cfg.Environ = append(w.cfg.Environ, "NODE_EXTRA_CA_CERTS="+w.file("ca.pem", append(w.certificate(-time.Hour), w.certificate(5*24*time.Hour)...)))
	}},
	{id: "clock-skew", name: "set back", says: "from now", arrange: func(w *world) {
		w.skew = -time.Hour
	}},
	{id: "clock-skew", name: "behind the platform", says: "behind the platform's", arrange: func(w *world) {
		w.sim.SetClockSkew(10 * time.Minute)
		w.cfg.Date = w.date
	}},
	{id: "clock-skew", name: "a little ahead", warning: true, says: "ahead of the platform's", arrange: func(w *world) {
		w.sim.SetClockSkew(-2 * time.Minute)
		w.cfg.Date = w.date
	}},
	{id: "platform-unreachable", says: "does not answer", arrange: func(w *world) {
		w.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointHello, Kind: simulator.FaultDrop})
		w.cfg.Date = w.date
	}},
}

// date asks the stand-in for its clock.
func (w *world) date(ctx context.Context) (time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+simulator.HostAPI+"/api/hello", nil)
	if err != nil {
		return time.Time{}, err
	}
	client := w.sim.Client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return time.Time{}, err
	}
	resp.Body.Close()
	return http.ParseTime(resp.Header.Get("Date"))
}

// file writes a file outside of the hub.
func (w *world) file(name string, content []byte) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name)
	w.must(os.WriteFile(path, content, 0o600))
	return path
}

// fakeCLI puts a program in front of the real CLI.
func (w *world) fakeCLI(script string) {
	w.t.Helper()
	dir := w.t.TempDir()
	hubtest.Script(w.t, filepath.Join(dir, "claude"), "#!/bin/sh\n"+script+"\n")
	w.t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// certificate returns one that ends in that time, as PEM.
func (w *world) certificate(ends time.Duration) []byte {
	w.t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a company"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(ends), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	w.must(err)
	var b bytes.Buffer
	w.must(pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return b.Bytes()
}

var daemonFaults = []fault{
	{id: "daemon-stuck", says: "serve.lock", arrange: func(w *world) {
		w.write("serve.lock", "pid 1\n")
		f, err := os.Open(w.path("serve.lock"))
		w.must(err)
		w.t.Cleanup(func() { f.Close() })
		w.must(syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	}},
	{id: "daemon-version", warning: true, says: "0.0.1", arrange: func(w *world) {
		s, err := server.New(server.Config{Socket: w.path("hub.sock"), Version: "0.0.1", Log: slog.New(slog.DiscardHandler)})
		w.must(err)
		w.t.Cleanup(func() { s.Close() })
	}},
	{id: "socket-stale", warning: true, fixable: true, says: "killed", arrange: func(w *world) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: w.path("hub.sock")})
		w.must(err)
		l.SetUnlinkOnClose(false)
		w.must(os.Chmod(w.path("hub.sock"), 0o600))
		w.must(l.Close())
		w.write("serve.lock", "pid 1\n")
	}},
	{id: "runs-parked", warning: true, says: "`claude-hub serve`", arrange: func(w *world) {
		s, err := store.Open(w.t.Context(), w.path("hub.db"))
		w.must(err)
		r := hub.Run{ID: hub.NewRunID(time.Now()), Started: time.Now(), Parked: &hub.Parking{Cause: hub.ParkedForLogin, Since: time.Now()}}
		w.must(errors.Join(s.CreateRun(w.t.Context(), r), s.Close()))
	}},
	{id: "store-missing", fixable: true, says: "--fix", arrange: func(w *world) {
		w.must(os.Remove(w.path("hub.db")))
	}},
	{id: "store-damaged", fixable: true, says: "--fix", arrange: func(w *world) {
		w.write("hub.db", strings.Repeat("this is no database ", 1000))
	}, after: func(w *world) {
		if kept, _ := filepath.Glob(w.path("set-aside", "*", "hub.db")); len(kept) != 1 {
			w.t.Errorf("the damaged database was not kept: %v", kept)
		}
	}},
	{id: "store-damaged", name: "newer", says: "update this one", arrange: func(w *world) {
		db, err := sql.Open("sqlite", w.path("hub.db"))
		w.must(err)
		_, err = db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`)
		w.must(errors.Join(err, db.Close()))
	}},
}

package doctor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/doctor"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
	"github.com/claude-hub/claude-hub/internal/store"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// world is a healthy hub with one profile that is signed in, and a stand-in
// platform.
type world struct {
	t       *testing.T
	dir     string
	cfg     doctor.Config
	sim     *simulator.Simulator
	vault   *vault.Vault
	profile hub.Profile
	gens    map[hub.Kind]hub.Generation
	skew    time.Duration       // of the clock that the doctor reads
	second  *age.X25519Identity // a recovery key that was added later
	whole   bool                // make the checks that take seconds, too
}

func newWorld(t *testing.T) *world {
	t.Helper()
	sim, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	dir := filepath.Join(t.TempDir(), "hub")
	w := &world{t: t, dir: dir, sim: sim, gens: map[hub.Kind]hub.Generation{}}
	w.must(os.Mkdir(dir, 0o700))
	recovery, err := age.GenerateX25519Identity()
	w.must(err)
	w.write("config.yaml", "recovery_recipients: ["+recovery.Recipient().String()+"]\n")
	w.must(vault.Init(w.path("vault")))
	_, err = vault.CreateKey(w.path("key"))
	w.must(err)
	runs, err := store.Create(t.Context(), w.path("hub.db"))
	w.must(err)
	w.must(runs.Close())
	w.vault = w.open()
	w.profile = hub.Profile{ID: hub.NewProfileID(), Name: "default", Created: time.Now()}
	w.must(w.vault.CreateProfile(t.Context(), w.profile))
	w.signIn(simulator.SignIn{})
	w.cfg = doctor.Config{
		Dir: dir, Environ: sim.Environ(), Version: "test", Now: w.now,
		Settings: w.settings, Logins: w.logins,
		Sandboxes: func() []doctor.Sandbox {
			return []doctor.Sandbox{{Name: "bubblewrap", Check: func(ctx context.Context) error {
				d, err := bubblewrap.New(bubblewrap.Config{})
				if err != nil {
					return err
				}
				return d.Check(ctx)
			}}}
		},
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

func (w *world) now() time.Time { return time.Now().Add(w.skew) }

func (w *world) write(name, text string) {
	w.t.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.path(name)), 0o700))
	w.must(os.WriteFile(w.path(name), []byte(text), 0o600))
}

// open opens the vault as the hub does, with the recipients of its settings.
func (w *world) open() *vault.Vault {
	w.t.Helper()
	backend, err := vault.Open(w.path("vault"))
	w.must(err)
	key, err := vault.ReadKey(w.path("key"))
	w.must(err)
	settings, err := w.settings()
	w.must(err)
	v, err := vault.New(backend, key, vault.Options{Recipients: settings.RecoveryRecipients, Now: w.now})
	w.must(err)
	return v
}

// settings reads the one line that config.yaml has here.
func (w *world) settings() (doctor.Settings, error) {
	b, err := os.ReadFile(w.path("config.yaml"))
	if err != nil {
		return doctor.Settings{}, err
	}
	list, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "recovery_recipients: [")
	if !ok {
		return doctor.Settings{}, hub.Hint(errors.New("config.yaml:1: unknown key"), "mend the line that it names")
	}
	list = strings.TrimSuffix(list, "]")
	if list == "" {
		return doctor.Settings{}, nil
	}
	return doctor.Settings{RecoveryRecipients: strings.Split(list, ",")}, nil
}

func (w *world) logins(ctx context.Context, v *vault.Vault, profiles []hub.Profile) []doctor.Login {
	r, err := refresh.New(refresh.Config{Vault: v, Dir: w.dir, Command: []string{"/bin/false"}, Now: w.now})
	w.must(err)
	defer r.Stop()
	var all []doctor.Login
	for _, p := range profiles {
		s, err := r.Status(ctx, p.ID)
		l := doctor.Login{
			Profile: p, Err: err, Health: s.Health, Reason: s.Reason, SignedIn: s.SignedIn, LoginExpires: s.LoginExpires,
			Failures: s.Failures, Interrupted: s.Interrupted, ServedBySpare: s.ServedBySpare, SecondWriter: s.SecondWriter,
		}
		if s.HandedOver != nil {
			l.HandedOver = s.HandedOver.To[0]
		}
		if s.FullCopy != nil {
			l.CopiedTo = s.FullCopy.To[0]
		}
		if s.Spare != nil {
			l.Spare = &doctor.Spare{Expires: s.Spare.Expires, Refused: s.Spare.Refused}
		}
		all = append(all, l)
	}
	return all
}

func (w *world) signIn(in simulator.SignIn) simulator.Login {
	w.t.Helper()
	login := w.sim.SignIn(in)
	w.commit(hub.KindLogin, login.Credentials)
	return login
}

func (w *world) commit(kind hub.Kind, payload []byte) {
	w.t.Helper()
	r, err := w.vault.Commit(w.t.Context(), w.profile.ID, kind, w.gens[kind], payload)
	w.must(err)
	w.gens[kind] = r.Generation
}

// spare gives the profile a setup token of that age.
func (w *world) spare(age time.Duration) {
	w.t.Helper()
	token, err := agent.NewSetupToken(secret.New(w.sim.SetupToken()), time.Now().Add(-age))
	w.must(err)
	payload, err := token.Encode()
	w.must(err)
	w.commit(hub.KindSetupToken, payload)
}

// state is what the refresher knows of the login.
func (w *world) state(json string) {
	w.t.Helper()
	w.write(filepath.Join("refresh", string(w.profile.ID), "status.json"), json)
}

// record is the path of a record of the vault, from there.
func (w *world) record(kind hub.Kind, gen hub.Generation) string {
	return filepath.Join("vault", "records", string(w.profile.ID), string(kind), strings.Repeat("0", 19)+string('0'+byte(gen)))
}

// captured makes a directory as copying ~/.claude leaves it, and has the doctor
// look at it.
func (w *world) captured(credentials []byte) string {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "captured")
	w.must(os.Mkdir(dir, 0o700))
	if credentials != nil {
		w.must(os.WriteFile(filepath.Join(dir, agent.CredentialFile), credentials, 0o600))
	}
	w.cfg.Look = append(w.cfg.Look, dir)
	return dir
}

func (w *world) doctor() *doctor.Doctor {
	if w.whole {
		return doctor.New(w.cfg)
	}
	return doctor.NewWithout(w.cfg, "claude CLI", "sandbox")
}

func (w *world) examine() doctor.Report { return w.doctor().Examine(w.t.Context()) }

// found returns the finding of that ID.
func found(r doctor.Report, id string) (doctor.Finding, bool) {
	for _, f := range r.Findings {
		if f.ID == id {
			return f, true
		}
	}
	return doctor.Finding{}, false
}

// usePinnedCLI has PATH lead to the CLI that the hub is tested with.
func usePinnedCLI(t *testing.T) {
	t.Helper()
	t.Setenv("PATH", filepath.Dir(hubtest.Claude(t))+":"+os.Getenv("PATH"))
}

package bundle_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
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
	"github.com/claude-hub/claude-hub/internal/vault"
)

// play is a process that is killed at a failpoint, or comes to its end.
func play(role string) error {
	s := &station{dir: os.Getenv("TEST_HUB"), now: time.Now, fail: func(name string) error {
		if name == os.Getenv("TEST_KILL") {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}}
	var err error
	if s.key, err = vault.ReadKey(filepath.Join(s.dir, "key")); err != nil {
		return err
	}
	if err = s.open(); err != nil {
		return err
	}
	defer s.refresher.Stop()
	ctx, file := context.Background(), os.Getenv("TEST_FILE")
	p, err := s.vault.Profile(ctx, "work")
	if err != nil {
		return err
	}
	switch role {
	case "export":
		_, err = s.Export(ctx, bundle.Order{Profile: p, To: []string{os.Getenv("TEST_PEER")}, Move: true, Write: func(b []byte) error { return bundle.WriteFile(file, b) }})
	case "restore":
		_, err = s.Restore(ctx, bundle.Restore{Profile: p, Dir: file, FullLogin: true, Replace: true, UID: -1, GID: -1})
	case "import":
		var parcel *bundle.Parcel
		sealed, rerr := os.Open(file)
		if rerr != nil {
			return rerr
		}
		defer sealed.Close()
		if parcel, err = s.Open(sealed, []string{os.Getenv("TEST_PEER")}); err == nil {
			_, err = s.Import(ctx, parcel, p)
		}
	}
	return err
}

// killed runs a role that must be killed at the point.
func (s *station) killed(role, point, peer, file string) {
	s.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{roleVariable + "=" + role, "TEST_HUB=" + s.dir, "TEST_KILL=" + point, "TEST_PEER=" + peer, "TEST_FILE=" + file, "TMPDIR=" + s.t.TempDir()}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !exit.Sys().(syscall.WaitStatus).Signaled() {
		s.t.Fatalf("%s was not killed at %s: %v\n%s", role, point, err, out)
	}
}

// Two hubs whose processes are killed at each step of a move: never are there two
// writers, never none that the same commands don't bring back.
func TestKilledMove(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	for _, point := range []string{"handover.before", "handover.after", "write.before", "write.after"} {
		a, b := newStation(t), newStation(t)
		p, q := a.signedIn("work", sim.SignIn(simulator.SignIn{})), b.profile("work")
		file := filepath.Join(t.TempDir(), "bundle")
		a.killed("export", point, b.key.Recipient(), file)
		s, err := a.refresher.Status(t.Context(), p.ID)
		a.must(err)
		sealed, rerr := os.ReadFile(file)
		if s.HandedOver == nil && rerr == nil || (s.HandedOver != nil) != (point != "handover.before") {
			t.Errorf("%s: handed over %v, and the bundle: %v", point, s.HandedOver, rerr)
		}
		if rerr != nil {
			sealed, _ = a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
		}
		if _, err := b.take(sealed, q, a.sender()); err != nil {
			t.Errorf("%s: importing it: %v", point, err)
		}
	}
}

func TestKilledImport(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a := newStation(t)
	for _, step := range []string{"note", "snapshot", "setup-token", "account", "login", "done"} {
		for _, point := range []string{step + ".before", step + ".after"} {
			b := newStation(t)
			p := a.signedIn("work-"+strings.ReplaceAll(point, ".", "-"), sim.SignIn(simulator.SignIn{}))
			q := b.profile("work")
			sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
			file := filepath.Join(t.TempDir(), "bundle")
			b.must(bundle.WriteFile(file, sealed))
			b.killed("import", point, a.sender(), file)
			committed := slices.Contains([]string{"login.after", "done.before", "done.after"}, point)
			if there := b.latest(q, hub.KindLogin) != nil; there != committed {
				t.Errorf("%s: the login is there: %v", point, there)
			}
			_, err := b.take(sealed, q, a.sender())
			if committed {
				wantError(t, point+", again", err, hub.ErrRefused, "was imported on")
			} else if err != nil {
				t.Errorf("%s, again: %v", point, err)
			}
			for _, kind := range everything {
				if !bytes.Equal(a.latest(p, kind), b.latest(q, kind)) {
					t.Errorf("%s, again: the %s has not come", point, kind)
				}
			}
		}
	}
}

// A restore that is killed leaves the old directory or the new one, and what it
// leaves beside it goes with the next.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	for _, point := range []string{"copy.before", "copy.after", "credential.before", "credential.after", "sync.after", "rename.before", "rename.after"} {
		s := newStation(t)
		p := s.signedIn("work", sim.SignIn(simulator.SignIn{}))
		o := restoring(t, p)
		s.must(os.Mkdir(o.Dir, 0o700))
		s.must(os.WriteFile(filepath.Join(o.Dir, agent.CredentialFile), []byte("{}"), 0o600))
		s.killed("restore", point, "", o.Dir)
		beside := treeOf(t, filepath.Dir(o.Dir))
		old := strings.HasSuffix(beside["config/"+agent.CredentialFile], "{}")
		if whole := beside["config/settings.json"] != ""; old == whole || old == (point == "rename.after") {
			t.Errorf("%s: %v", point, beside)
		}
		if noted := s.latest(p, hub.KindHandover) != nil; !noted && point != "copy.before" {
			t.Errorf("%s: a copy may be there, and nobody knows", point)
		}
		o.FullLogin, o.Replace = true, true
		if _, err := s.Restore(t.Context(), o); err != nil {
			t.Errorf("%s, again: %v", point, err)
		}
		if names, err := os.ReadDir(filepath.Dir(o.Dir)); err != nil || len(names) != 1 {
			t.Errorf("%s, again: left beside it: %v, %v", point, names, err)
		}
	}
}

package refresh_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// hand commits a handover record of the newest login.
func (w *world) hand(change func(*hub.Handover)) {
	w.t.Helper()
	gen, err := w.vault.Generation(w.t.Context(), w.profile.ID, hub.KindLogin)
	if err != nil {
		w.t.Fatal(err)
	}
	h := hub.Handover{Generation: gen, To: []string{"age1fake"}, At: time.Now(), Bundle: "b-fake"}
	if change != nil {
		change(&h)
	}
	payload, err := h.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	w.commit(hub.KindHandover, payload)
}

// A login that was moved is refreshed and served by nobody here: not by a caller
// who has its token in memory, not when the platform answers 401, not by force,
// not by the sweep.
func TestMovedLoginIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher()
	w.token(r, 0) // and so it is in memory
	w.hand(nil)
	w.eventually("the token is no longer served", func() bool {
		_, _, err := r.AccessToken(t.Context(), w.profile.ID, 0)
		return errors.Is(err, hub.ErrLoginRequired)
	})
	if _, _, err := r.AccessToken(t.Context(), w.profile.ID, 0); !errors.Is(err, hub.ErrLoginRequired) {
		t.Errorf("asked again at once, AccessToken = %v", err)
	}
	for name, ask := range map[string]func(*refresh.Refresher) error{
		"asking":    func(r *refresh.Refresher) error { _, _, err := r.AccessToken(t.Context(), w.profile.ID, 0); return err },
		"a 401":     func(r *refresh.Refresher) error { _, _, err := r.AccessToken(t.Context(), w.profile.ID, 1); return err },
		"a refresh": func(r *refresh.Refresher) error { _, err := r.Refresh(t.Context(), w.profile.ID, false); return err },
		"by force":  func(r *refresh.Refresher) error { _, err := r.Refresh(t.Context(), w.profile.ID, true); return err },
		"a check":   func(r *refresh.Refresher) error { _, err := r.Check(t.Context(), w.profile.ID, nil); return err },
	} {
		for when, skew := range map[string]time.Duration{"while the token lives": 0, "after its end": 9 * time.Hour} {
			if err := ask(w.refresher(w.at(skew))); !errors.Is(err, hub.ErrLoginRequired) || !strings.Contains(err.Error(), "age1fake") {
				t.Errorf("%s, %s: %v; want ErrLoginRequired that names the recipient", name, when, err)
			}
		}
	}
	sweeping := w.refresher(w.at(9 * time.Hour))
	if err := sweeping.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	sweeping.Stop()
	s := w.status(w.refresher(w.at(9 * time.Hour)))
	if s.Health != hub.HealthLoginRequired || s.HandedOver == nil || s.HandedOver.Bundle != "b-fake" || s.SignedIn || !s.NextTry.IsZero() || !strings.Contains(s.Reason, "b-fake") {
		t.Errorf("status of a moved login = %+v", s)
	}
	w.wantCounts(0, 0)
	if log := w.helperLog(); log != "" {
		t.Errorf("a helper was started for nothing:\n%s", log)
	}
}

// helper runs the hidden command, as if it had been started by hand.
func (w *world) helper(args ...string) ([]byte, error) {
	cmd := exec.Command(os.Args[0], append([]string{"--profile=" + string(w.profile.ID)}, args...)...)
	cmd.Env = w.environ
	return cmd.CombinedOutput()
}

// The helper is the last to look, under the lock: whoever started it may have
// looked before the handover.
func TestHelperHonoursAHandover(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"due", "dead", "force"} {
		w := newWorld(t, simulator.Config{}, "")
		w.hand(nil)
		if out, err := w.helper("--mode="+mode, "--from=1"); err != nil {
			t.Errorf("a helper with mode %s: %v\n%s", mode, err, out)
		}
		w.wantCounts(0, 0)
	}
}

// A moved login is over for the spare's purposes; a sign-in and taking it back end
// the handover.
func TestHandoverEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	w.hand(nil)
	r := w.refresher()
	setup := w.spare()
	if token, gen := w.token(r, 0); token != setup || gen&refresh.SpareBit == 0 {
		t.Errorf("a moved login with a spare serves generation %x", gen)
	}
	if s := w.status(r); s.Health != hub.HealthLoginRequired || !s.ServedBySpare {
		t.Errorf("status of a moved login with a spare = %+v", s)
	}
	w.hand(func(h *hub.Handover) { h.TakenBack = time.Now() })
	if token, gen := w.token(r, 0); token != w.login.AccessToken || gen != 1 {
		t.Errorf("taken back, generation %x is served", gen)
	}
	w.hand(nil)
	w.signIn(simulator.SignIn{})
	r = w.refresher()
	if token, gen := w.token(r, 0); token != w.login.AccessToken || gen != 2 {
		t.Errorf("after a new sign-in, generation %x is served", gen)
	}
	if _, gen := w.token(r, 2); gen != 3 {
		t.Errorf("the new sign-in is not refreshed: generation %d", gen)
	}
	if s := w.status(r); s.Health != hub.HealthOK || s.HandedOver != nil || !s.SignedIn {
		t.Errorf("status after a new sign-in = %+v", s)
	}
}

// A record that can't be understood may say that the login has left: it stops the
// profile.
func TestDamagedHandoverStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	w.commit(hub.KindHandover, []byte(`{"generation":1}`))
	r := w.refresher()
	if _, _, err := r.AccessToken(t.Context(), w.profile.ID, 0); !errors.Is(err, hub.ErrFormat) {
		t.Errorf("AccessToken = %v; want ErrFormat", err)
	}
	if _, err := w.helper("--mode=force", "--from=1"); err == nil {
		t.Error("a helper goes on with a handover that can't be read")
	}
	w.wantCounts(0, 0)
}

// A full copy is said until another sign-in, and keeps nobody from refreshing.
func TestFullCopyIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	w.hand(func(h *hub.Handover) { h.Shared, h.To, h.Bundle = true, []string{"/srv/copy"}, "" })
	r := w.refresher()
	w.token(r, 1)
	if s := w.status(r); s.FullCopy == nil || s.FullCopy.To[0] != "/srv/copy" || s.HandedOver != nil || s.Generation != 2 {
		t.Errorf("status with a full copy outside = %+v", s)
	}
	w.commit(hub.KindSnapshot, []byte("fake")) // as a sign-in does
	w.signIn(simulator.SignIn{})
	if s := w.status(r); s.FullCopy != nil {
		t.Errorf("status after another sign-in = %+v", s)
	}
}

// rotateElsewhere is another client that uses the login behind our back.
func (w *world) rotateElsewhere() {
	w.t.Helper()
	cmd := exec.Command(standIn(w.t))
	cmd.Env = append(w.sim.Environ(), "PATH="+os.Getenv("PATH"), "CLAUDE_CODE_OAUTH_REFRESH_TOKEN="+w.login.RefreshToken, "CLAUDE_CODE_OAUTH_SCOPES="+strings.Join(w.login.Scopes, " "), "CLAUDE_CONFIG_DIR="+w.t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("the other client: %v\n%s", err, out)
	}
}

// Somebody else rotates: the token that the hub sends for the first time is
// refused, and that is told apart from other refusals.
func TestSecondWriter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	w.rotateElsewhere()
	r := w.refresher()
	if _, _, err := r.AccessToken(t.Context(), w.profile.ID, 1); !errors.Is(err, hub.ErrLoginRequired) {
		t.Errorf("AccessToken = %v; want ErrLoginRequired", err)
	}
	s := w.status(w.refresher())
	if !s.SecondWriter || s.Health != hub.HealthLoginRequired || !strings.Contains(s.Reason, "a second writer has used this login") {
		t.Errorf("status after somebody else rotated = %+v\n%s", s, w.helperLog())
	}
	w.signIn(simulator.SignIn{})
	if s := w.status(r); s.SecondWriter {
		t.Errorf("status after a sign-in = %+v", s)
	}
}

// A refusal says nothing of a second writer where the token was sent before, where
// the platform lets it stay the same, or where the login has ended.
func TestRefusalsWithoutASecondWriter(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg     simulator.Config
		prepare func(*world)
		skew    time.Duration
		gen     hub.Generation
	}{
		"after the login's end": {prepare: func(*world) {}, skew: 31 * 24 * time.Hour, gen: 1},
		"sent before": {prepare: func(w *world) {
			w.sim.Inject(fault(simulator.FaultDrop, 1))
			w.refresher(impatient).Refresh(w.t.Context(), w.profile.ID, true) // it fails, and is in doubt
		}, gen: 1},
		"kept by the platform": {cfg: simulator.Config{OmitRefreshToken: true}, prepare: func(w *world) {
			w.token(w.refresher(), 1)
		}, gen: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.cfg, "")
			c.prepare(w)
			w.sim.Inject(fault(simulator.FaultInvalidGrant, 1))
			if _, err := w.refresher(impatient, w.at(c.skew)).Refresh(t.Context(), w.profile.ID, true); !errors.Is(err, hub.ErrLoginRequired) {
				t.Errorf("Refresh = %v; want ErrLoginRequired\n%s", err, w.helperLog())
			}
			if s := w.status(w.refresher()); s.SecondWriter || s.Generation != c.gen || !strings.Contains(s.Reason, "used or revoked elsewhere") {
				t.Errorf("status = %+v\n%s", s, w.helperLog())
			}
		})
	}
}

// A Hold keeps a refresh out until it is released.
func TestHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher()
	hold, err := r.Hold(t.Context(), w.profile.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Settled(1); err != nil {
		t.Errorf("Settled = %v", err)
	}
	ended := make(chan error, 1)
	go func() { _, err := w.refresher().Refresh(context.Background(), w.profile.ID, true); ended <- err }()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Hold(short, w.profile.ID); !errors.Is(err, hub.ErrLocked) {
		t.Errorf("a second Hold = %v; want ErrLocked", err)
	}
	w.wantCounts(0, 0)
	w.failAt("answer.after", "kill")
	hold.Release()
	<-ended
	w.failed()
	if hold, err = r.Hold(t.Context(), w.profile.ID); err != nil {
		t.Fatal(err)
	}
	if err := hold.Settled(1); !errors.Is(err, hub.ErrConflict) || hub.HintOf(err) == "" {
		t.Errorf("Settled after an interrupted refresh = %v; want ErrConflict with a hint", err)
	}
	if err := errors.Join(hold.Forget(), hold.Settled(1)); err != nil {
		t.Errorf("Settled after Forget = %v", err)
	}
	hold.Release()
	hold.Release()
}

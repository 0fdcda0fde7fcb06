package refresh_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

func fault(kind simulator.FaultKind, times int) simulator.Fault {
	return simulator.Fault{Endpoint: simulator.EndpointToken, Kind: kind, Times: times}
}

// ask calls AccessToken where it may fail.
func (w *world) ask(r *refresh.Refresher, stale hub.Generation) (secret.Text, hub.Generation, error) {
	w.t.Helper()
	return r.AccessToken(w.t.Context(), w.profile.ID, stale)
}

// wantLoginRequired checks that nothing but a sign-in helps, and that the error and
// the status say why and what to do.
func (w *world) wantLoginRequired(r *refresh.Refresher, stale hub.Generation, reason string) {
	w.t.Helper()
	_, gen, err := w.ask(r, stale)
	if !errors.Is(err, hub.ErrLoginRequired) || !strings.Contains(hub.HintOf(err), "claude-hub login") {
		w.t.Errorf("AccessToken = generation %d, %v (hint %q); want ErrLoginRequired with a hint\n%s", gen, err, hub.HintOf(err), w.helperLog())
	}
	if s := w.status(r); s.Health != hub.HealthLoginRequired || !strings.Contains(s.Reason, reason) {
		w.t.Errorf("status = %s, %q; want login-required because %q\n%s", s.Health, s.Reason, reason, w.helperLog())
	}
}

// The platform rotates and its answer is lost, in each way in which it can be: the
// old token is never sent again, the status says what happened, the spare takes
// over, and a new sign-in mends it all.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	for _, kind := range []simulator.FaultKind{simulator.FaultLostReply, simulator.FaultHalfReply, simulator.FaultBrokenJSON, simulator.FaultErrorAfterCommit} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, simulator.Config{}, "")
			r := w.refresher()
			w.sim.Inject(fault(kind, 1))
			w.wantLoginRequired(r, 1, "its answer was lost")
			w.wantLoginRequired(r, 0, "its answer was lost")
			w.wantLoginRequired(w.refresher(), 0, "its answer was lost") // another process knows, too
			if _, err := r.Refresh(t.Context(), w.profile.ID, false); !errors.Is(err, hub.ErrLoginRequired) {
				t.Errorf("Refresh = %v; want ErrLoginRequired", err)
			}
			w.wantCounts(1, 1)

			setup := w.spare()
			token, gen, err := w.ask(r, 0)
			if err != nil || token.Reveal() != setup || gen != refresh.SpareBit|1 {
				t.Errorf("with a spare: generation %x, %v; want the setup token", gen, err)
			}
			if s := w.status(r); s.Health != hub.HealthLoginRequired || !s.ServedBySpare || s.Spare == nil {
				t.Errorf("status with a spare = %+v", s)
			}

			w.signIn(simulator.SignIn{})
			if _, gen := w.token(r, 0); gen != 2 {
				t.Errorf("after a sign-in: generation %d; want 2", gen)
			}
			if _, gen := w.token(r, 2); gen != 3 {
				t.Errorf("refreshed after a sign-in: generation %d; want 3", gen)
			}
			if s := w.status(r); s.Health != hub.HealthOK || s.ServedBySpare || len(w.leftovers("attempt-")) > 0 {
				t.Errorf("status after a sign-in = %+v, left over %q", s, w.leftovers("attempt-"))
			}
			w.wantCounts(2, 2)
		})
	}
}

// Answers that rotate nothing: the refresh is tried again after a back-off.
func TestTroubleIsTriedAgain(t *testing.T) {
	t.Parallel()
	for _, f := range []simulator.Fault{
		fault(simulator.FaultServerError, 2), fault(simulator.FaultRateLimit, 2), fault(simulator.FaultBadGateway, 2), fault(simulator.FaultOverloaded, 2),
		{Endpoint: simulator.EndpointToken, Kind: simulator.FaultStatus, Status: 403, Times: 2},
		fault(simulator.FaultDrop, 2), // no answer, but the old token lives: nothing was rotated
	} {
		t.Run(string(f.Kind), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, simulator.Config{}, "")
			w.sim.Inject(f)
			if _, gen := w.token(w.refresher(), 1); gen != 2 {
				t.Errorf("generation %d; want 2", gen)
			}
			w.wantCounts(3, 1)
		})
	}
}

// While the back-off runs nobody is asked, and who can't wait is told when to
// come again. Callers whose token lives notice nothing.
func TestBackoff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	hour := with("TEST_BACKOFF=1h")
	r := w.refresher(hour, impatient)
	w.sim.Inject(fault(simulator.FaultRateLimit, 0))
	for range 3 {
		_, _, err := w.ask(r, 1)
		if err == nil || errors.Is(err, hub.ErrLoginRequired) || !strings.Contains(err.Error(), "429") || hub.HintOf(err) == "" {
			t.Errorf("AccessToken = %v; want the trouble, and what to do", err)
		}
	}
	w.wantCounts(1, 0)
	other := w.refresher(hour, impatient) // nobody told this one that the token is dead
	if _, gen := w.token(other, 0); gen != 1 {
		t.Errorf("generation %d; want the old token", gen)
	}
	s := w.status(r)
	if s.Health != hub.HealthSuspect || s.Failures != 1 || !strings.Contains(s.LastError, "429") || time.Until(s.NextTry) < 5*time.Minute-time.Second {
		t.Errorf("status = %+v; want suspect, and the next try in 5 to 10 minutes", s)
	}
	w.sim.ClearFaults()
	out, err := r.Refresh(t.Context(), w.profile.ID, true) // the owner need not wait
	if err != nil || !out.Rotated || out.Generation != 2 {
		t.Errorf("Refresh(force) = %+v, %v", out, err)
	}
	if s := w.status(r); s.Health != hub.HealthOK || s.Failures != 0 {
		t.Errorf("status after success = %+v", s)
	}
}

// A refused refresh token is not sent again. What lives is used to its end.
func TestRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher()
	w.sim.Inject(fault(simulator.FaultInvalidGrant, 1))
	out, err := r.Refresh(t.Context(), w.profile.ID, true)
	if !errors.Is(err, hub.ErrLoginRequired) || out.Rotated {
		t.Fatalf("Refresh = %+v, %v; want ErrLoginRequired", out, err)
	}
	if _, gen := w.token(r, 0); gen != 1 {
		t.Errorf("generation %d; want the old token, which lives", gen)
	}
	w.wantLoginRequired(r, 1, "refuses the refresh token")
	w.wantLoginRequired(r, 0, "refuses the refresh token")
	w.wantCounts(1, 0)
	if out, err := r.Refresh(t.Context(), w.profile.ID, true); err != nil || out.Generation != 2 { // the owner knows better
		t.Errorf("Refresh(force) = %+v, %v; want generation 2", out, err)
	}
}

// An answer that is lost when the old access token has expired already can't be
// cleared up: only the owner may send the old refresh token again.
func TestUnknownIsSaidNotGuessed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind    simulator.FaultKind
		rotated int
	}{"rotated": {simulator.FaultLostReply, 1}, "not rotated": {simulator.FaultDrop, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, simulator.Config{}, "")
			w.signIn(simulator.SignIn{AccessTTL: -time.Minute})
			r := w.refresher()
			w.sim.Inject(fault(c.kind, 1))
			w.wantLoginRequired(r, 0, "refresh --force")
			w.wantLoginRequired(r, 2, "can't be known")
			w.wantCounts(1, c.rotated)
			if got := w.leftovers("attempt-"); len(got) != 1 {
				t.Errorf("the evidence is %q; want one directory", got)
			}
			out, err := r.Refresh(t.Context(), w.profile.ID, true)
			if c.rotated == 0 {
				if err != nil || out.Generation != 3 || out.Status.Health != hub.HealthOK {
					t.Errorf("Refresh(force) = %+v, %v; want a new generation", out, err)
				}
			} else if !errors.Is(err, hub.ErrLoginRequired) {
				t.Errorf("Refresh(force) of a spent token = %v; want ErrLoginRequired", err)
			}
			if got := w.sim.Counters().SpentReplays; got != c.rotated {
				t.Errorf("%d spent tokens sent; want %d, at the owner's own risk", got, c.rotated)
			}
			if got := w.leftovers("attempt-"); len(got) != 0 {
				t.Errorf("left over: %q", got)
			}
		})
	}
}

// While nobody can say whether the token was rotated, it is not sent; it is asked
// about until somebody can.
func TestUnknownIsFoundOutLater(t *testing.T) {
	t.Parallel()
	trouble := func(times int) simulator.Fault {
		return simulator.Fault{Endpoint: simulator.EndpointProfile, Kind: simulator.FaultServerError, Times: times}
	}
	t.Run("it is said", func(t *testing.T) {
		w := newWorld(t, simulator.Config{}, "")
		r := w.refresher(impatient, with("TEST_BACKOFF=1h"))
		w.sim.Inject(fault(simulator.FaultDrop, 1))
		w.sim.Inject(trouble(0))
		for range 2 {
			if _, _, err := w.ask(r, 1); err == nil || errors.Is(err, hub.ErrLoginRequired) {
				t.Errorf("AccessToken = %v; want trouble", err)
			}
		}
		if s := w.status(r); s.Health != hub.HealthSuspect || !strings.Contains(s.Reason, "not known yet") || !s.Interrupted {
			t.Errorf("status = %+v; want suspect", s)
		}
		w.sim.ClearFaults()
		if out, err := r.Refresh(t.Context(), w.profile.ID, false); err == nil || out.Status.Interrupted || !strings.Contains(out.Status.Reason, "nothing was rotated") {
			t.Errorf("Refresh = %+v, %v; want it found out that nothing was rotated", out.Status, err)
		}
		w.wantCounts(1, 0)
	})
	t.Run("nothing is sent meanwhile", func(t *testing.T) {
		w := newWorld(t, simulator.Config{}, "")
		w.sim.Inject(fault(simulator.FaultDrop, 1))
		w.sim.Inject(trouble(3))
		if _, gen := w.token(w.refresher(with("TEST_BACKOFF=1ns")), 1); gen != 2 { // no back-off hides what happens
			t.Errorf("generation %d; want 2", gen)
		}
		// Three times in vain, once with success, and once more before it was sent.
		if got := w.sim.Counters().Profiles; got != 5 {
			t.Errorf("the platform was asked %d times; want 5", got)
		}
		w.wantCounts(2, 1)
	})
}

// A refresh that left no trace is asked about once more before the same token is
// sent again: the platform may have taken its time to rotate.
func TestDoubtIsAskedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher(impatient, with("TEST_BACKOFF=1s"))
	w.sim.Inject(fault(simulator.FaultDrop, 1))
	if _, _, err := w.ask(r, 1); err == nil {
		t.Fatal("AccessToken gave a token")
	}
	w.sim.RevokeAccess(w.login.AccessToken) // as a late rotation would
	w.eventually("it is found out", func() bool {
		_, _, err := w.ask(r, 1)
		return errors.Is(err, hub.ErrLoginRequired)
	})
	w.wantLoginRequired(r, 1, "its answer was lost")
	w.wantCounts(1, 0)
}

// Where the platform's side of the tunnel never speaks, nothing was sent, and
// nothing needs to be asked: also when the old token has expired.
func TestNotReachedIsTriedAgain(t *testing.T) {
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	go func() {
		for {
			c, err := mute.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1000))
			c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")) // a captive portal: the tunnel stands, and leads nowhere
			c.Read(make([]byte, 1000))
			c.Close()
		}
	}()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for name, proxy := range map[string]string{"no proxy there": gone.Addr().String(), "captive portal": mute.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, simulator.Config{}, "")
			w.signIn(simulator.SignIn{AccessTTL: -time.Minute})
			cut := with("HTTPS_PROXY=http://"+proxy, "https_proxy=http://"+proxy)
			if _, _, err := w.ask(w.refresher(cut, impatient), 0); err == nil || errors.Is(err, hub.ErrLoginRequired) {
				t.Errorf("AccessToken = %v; want trouble that may pass", err)
			}
			if s := w.status(w.refresher()); s.Health != hub.HealthSuspect || !strings.Contains(s.Reason, "not reached") {
				t.Errorf("status = %+v; want suspect", s)
			}
			if _, gen := w.token(w.refresher(), 0); gen != 3 {
				t.Errorf("once the way is free: generation %d; want 3", gen)
			}
			w.wantCounts(1, 1)
		})
	}
}

func TestAnswerWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{OmitRefreshToken: true}, "")
	r := w.refresher()
	for gen := hub.Generation(1); gen <= 2; gen++ {
		if _, got := w.token(r, gen); got != gen+1 {
			t.Fatalf("generation %d; want %d", got, gen+1)
		}
	}
	rec, err := w.vault.Latest(t.Context(), w.profile.ID, hub.KindLogin)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := agent.ParseCredentials(rec.Payload)
	if err != nil || cred.RefreshToken.Reveal() != w.login.RefreshToken || cred.Subscription != "max" || !cred.LoginExpiresAt.Round(time.Minute).Equal(w.login.LoginExpiresAt.Round(time.Minute)) {
		t.Errorf("the third generation lacks the refresh token, the plan or the end of the login (%v)", err)
	}
	w.wantCounts(2, 0)
}

// An answer with a token that has expired already is kept, since the old pair is
// gone, and is no reason to ask again and again.
func TestExpiredAnswerDoesNotLoop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher(impatient, with("TEST_BACKOFF=1h"))
	w.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultWrongExpiry, Delay: -9 * time.Hour})
	for range 3 {
		if _, gen, err := w.ask(r, 1); err == nil || !strings.Contains(err.Error(), "expired already") {
			t.Errorf("AccessToken = generation %d, %v; want the trouble", gen, err)
		}
	}
	w.wantCounts(1, 1)
	w.sim.ClearFaults()
	if out, err := r.Refresh(t.Context(), w.profile.ID, true); err != nil || out.Generation != 3 {
		t.Errorf("Refresh = %+v, %v; want generation 3: the expired answer was kept", out, err)
	}
	w.wantCounts(2, 2)
}

// A platform that refuses every token is not made to rotate with every request.
func TestTokensThatDieYoung(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher(impatient, with("TEST_BACKOFF=1h"))
	var err error
	for gen := hub.Generation(1); err == nil && gen < 20; gen++ {
		_, _, err = w.ask(r, gen)
	}
	if err == nil || errors.Is(err, hub.ErrLoginRequired) || !strings.Contains(err.Error(), "as soon as they are made") {
		t.Errorf("AccessToken = %v; want the trouble", err)
	}
	w.wantCounts(10, 10)
	if out, err := r.Refresh(t.Context(), w.profile.ID, true); err != nil || !out.Rotated {
		t.Errorf("Refresh(force) = %+v, %v", out, err)
	}
	if _, gen := w.token(r, 12); gen != 13 { // that one was not known to die young
		t.Errorf("generation %d; want 13", gen)
	}
}

// A clock by which every new token has expired already ends in an error.
func TestClockFarAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	if _, gen, err := w.ask(w.refresher(w.at(9*time.Hour)), 0); err == nil || !strings.Contains(err.Error(), "no token that lives") {
		t.Errorf("AccessToken = generation %d, %v; want an error", gen, err)
	}
	w.wantCounts(5, 5)
}

// The end of the login is not asked about.
func TestLoginAtItsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	w.signIn(simulator.SignIn{AccessTTL: -2 * time.Hour, LoginTTL: -time.Hour})
	r := w.refresher()
	w.wantLoginRequired(r, 0, "the end of its life")
	if _, err := r.Refresh(t.Context(), w.profile.ID, false); !errors.Is(err, hub.ErrLoginRequired) {
		t.Errorf("Refresh = %v; want ErrLoginRequired", err)
	}
	w.wantCounts(0, 0)
}

func TestNoLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher()
	for _, id := range []hub.ProfileID{"", "p-", "p-../x", "../p-x", "p-a/b", "p-A", "default"} {
		if _, _, err := r.AccessToken(t.Context(), id, 0); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("AccessToken(%q) = %v; want ErrInvalid", id, err)
		}
	}
	w.profile = hub.Profile{ID: hub.NewProfileID(), Name: "other", Created: time.Now()}
	if err := w.vault.CreateProfile(t.Context(), w.profile); err != nil {
		t.Fatal(err)
	}
	w.wantLoginRequired(r, 0, "not signed in")
	if _, err := r.Refresh(t.Context(), w.profile.ID, true); !errors.Is(err, hub.ErrLoginRequired) {
		t.Errorf("Refresh = %v; want ErrLoginRequired", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "refresh", string(w.profile.ID))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("asking made a directory: %v", err)
	}
}

// A profile with nothing but a setup token: it is static, and a 401 is its end.
func TestSetupTokenOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	w.profile = hub.Profile{ID: hub.NewProfileID(), Name: "static", Created: time.Now()}
	if err := w.vault.CreateProfile(t.Context(), w.profile); err != nil {
		t.Fatal(err)
	}
	setup, r := w.spare(), w.refresher()
	got, gen := w.token(r, 0)
	if got != setup || gen&refresh.SpareBit == 0 {
		t.Errorf("the token is of generation %x", gen)
	}
	if s := w.status(r); s.Health != hub.HealthOK || s.SignedIn || s.Spare == nil || s.Spare.DaysLeft < 363 {
		t.Errorf("status = %+v; want ok with a year to go", s)
	}
	w.wantLoginRequired(r, gen, "refuses the setup token")
	w.wantLoginRequired(w.refresher(), 0, "refuses the setup token")
	w.spare() // a new one
	if _, gen := w.token(r, 0); gen != refresh.SpareBit|2 {
		t.Errorf("with a new setup token: generation %x", gen)
	}
	w.wantCounts(0, 0)
}

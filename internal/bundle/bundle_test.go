package bundle_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/bundle"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

var everything = []hub.Kind{hub.KindLogin, hub.KindSnapshot, hub.KindSetupToken, hub.KindAccount}

func TestMove(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
	order := bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true}
	sealed, e := a.export(order)
	if !e.Moves || e.Again || e.Sender != a.sender() || !e.Ends.IsZero() || !e.Files {
		t.Errorf("Export = %+v", e)
	}
	for _, token := range sim.Minted() {
		if bytes.Contains(sealed, []byte(token)) {
			t.Error("a token is readable in the bundle")
		}
	}

	s, err := a.refresher.Status(t.Context(), p.ID)
	a.must(err)
	if s.Health != hub.HealthLoginRequired || s.HandedOver == nil || s.HandedOver.Bundle != e.Bundle || s.HandedOver.To[0] != b.key.Recipient() || s.SignedIn {
		t.Errorf("the sender's status = %+v", s)
	}
	a.free(p)

	q := b.profile("here")
	got, err := b.take(sealed, q, a.sender())
	b.must(err)
	if got.Generation != 1 || got.Files != 3 || !got.SetupToken || got.Plan != "max" || got.Profile.Policy.Model != "claude-fake" {
		t.Errorf("Import = %+v", got)
	}
	for _, kind := range everything {
		if !bytes.Equal(a.latest(p, kind), b.latest(q, kind)) {
			t.Errorf("the %s is not what it was", kind)
		}
	}
	if s, err := b.refresher.Status(t.Context(), q.ID); err != nil || s.Health != hub.HealthOK || !s.SignedIn {
		t.Errorf("the receiver's status = %+v, %v", s, err)
	}

	// The same order again makes the same bundle, which was imported; another order is refused.
	again, e2 := a.export(order)
	if !e2.Again || e2.Bundle != e.Bundle || !e2.Created.Equal(e.Created) {
		t.Errorf("the same order again = %+v; want bundle %s", e2, e.Bundle)
	}
	_, err = b.take(again, q, a.sender())
	wantError(t, "the same bundle, made again", err, hub.ErrRefused, "was imported on")
	order.To = []string{newStation(t).key.Recipient()}
	order.Write = func([]byte) error { t.Error("a second bundle was written"); return nil }
	_, err = a.Export(t.Context(), order)
	wantError(t, "a move to another hub", err, hub.ErrRefused, "already")
	_, err = a.Export(t.Context(), bundle.Order{Profile: p, To: []string{b.key.Recipient()}, AccessOnly: time.Hour, Write: order.Write})
	wantError(t, "an access token of a moved login", err, hub.ErrLoginRequired, "moved")
}

// A login goes to another hub and comes back, to the profile that it left.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p, q := a.signedIn("work", sim.SignIn(simulator.SignIn{})), b.profile("work")
	for round := range 3 {
		sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
		_, err := b.take(sealed, q, a.sender())
		b.must(err)
		b.commit(q, hub.KindLogin, b.latest(q, hub.KindLogin)) // as a refresh does
		back, _ := b.export(bundle.Order{Profile: q, To: []string{a.key.Recipient()}, Move: true})
		if _, err = a.take(back, p, b.sender()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if s, err := a.refresher.Status(t.Context(), p.ID); err != nil || s.Health != hub.HealthOK || s.HandedOver != nil {
			t.Fatalf("round %d: status = %+v, %v", round, s, err)
		}
	}
}

func TestTakeBack(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p, q := a.signedIn("work", sim.SignIn(simulator.SignIn{})), b.profile("work")
	_, err := a.TakeBack(t.Context(), p)
	wantError(t, "nothing to take back", err, hub.ErrNotFound, "not moved")
	order := bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true}
	first, e := a.export(order)
	h, err := a.TakeBack(t.Context(), p)
	if err != nil || h.Bundle != e.Bundle {
		t.Fatalf("TakeBack = %+v, %v", h, err)
	}
	if _, _, err := a.refresher.AccessToken(t.Context(), p.ID, 0); err != nil {
		t.Errorf("the login is not served after it was taken back: %v", err)
	}
	second, e2 := a.export(order)
	if e2.Bundle == e.Bundle || e2.Again {
		t.Errorf("moved again as %+v", e2)
	}
	_, err = b.take(second, q, a.sender())
	b.must(err)
	_, err = b.take(first, q, a.sender())
	wantError(t, "a bundle that was taken back, after another", err, hub.ErrRefused, "imported before")
}

func TestAccessOnly(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p, q := a.signedIn("work", sim.SignIn(simulator.SignIn{AccessTTL: 3 * time.Hour})), b.profile("work")
	to := []string{b.key.Recipient(), newStation(t).key.Recipient()}
	sealed, e := a.export(bundle.Order{Profile: p, To: to, AccessOnly: time.Hour})
	if left := time.Until(e.Ends); e.Moves || left > time.Hour || left < 59*time.Minute || len(e.Recipients) != 2 {
		t.Errorf("Export = %+v", e)
	}
	got, err := b.take(sealed, q, a.sender())
	b.must(err)
	c := b.login(q)
	if !c.RefreshToken.IsZero() || c.ExpiresAt.Sub(e.Ends).Abs() > time.Second || got.SetupToken || b.latest(q, hub.KindSetupToken) != nil || got.Files != 3 || !got.LoginExpires.IsZero() {
		t.Errorf("Import = %+v, the access token ends %v; want no more than was lent", got, c.ExpiresAt)
	}
	if s, err := b.refresher.Status(t.Context(), q.ID); err != nil || s.Health != hub.HealthOK || s.SignedIn || !s.NextTry.IsZero() {
		t.Errorf("status of an access token that was lent = %+v, %v", s, err)
	}
	if _, _, err := b.refresher.AccessToken(t.Context(), q.ID, 1); !errors.Is(err, hub.ErrLoginRequired) {
		t.Errorf("refused by the platform, AccessToken = %v; want ErrLoginRequired", err)
	}
	if _, _, err := a.refresher.AccessToken(t.Context(), p.ID, 0); err != nil {
		t.Errorf("the lender's AccessToken = %v", err)
	}

	// A second one prolongs it; what is lent can't be moved on.
	more, e2 := a.export(bundle.Order{Profile: p, To: to, AccessOnly: 10 * time.Hour})
	if !e2.Ends.Equal(a.login(p).ExpiresAt) {
		t.Errorf("lent until %v; want the token's own end, %v", e2.Ends, a.login(p).ExpiresAt)
	}
	if got, err := b.take(more, q, a.sender()); err != nil || got.Generation != 2 {
		t.Errorf("a second Import = %+v, %v", got, err)
	}
	_, err = b.take(sealed, q, a.sender())
	wantError(t, "the older one again", err, hub.ErrRefused, "was made on")
	_, err = b.Export(t.Context(), bundle.Order{Profile: q, To: []string{a.key.Recipient()}, Move: true})
	wantError(t, "moving what was lent", err, hub.ErrRefused, "no refresh token")

	// What is lent never replaces a login that is refreshed here.
	own := b.signedIn("own", sim.SignIn(simulator.SignIn{}))
	third, _ := a.export(bundle.Order{Profile: p, To: to, AccessOnly: time.Hour})
	_, err = b.take(third, own, a.sender())
	wantError(t, "lent to a login of its own", err, hub.ErrExists, "refreshed here")
	if b.login(own).RefreshToken.IsZero() {
		t.Error("the login of its own is gone")
	}

	// After its end nothing is left of it, there and in the bundle.
	b.now = func() time.Time { return e.Ends.Add(time.Minute) }
	_, err = b.take(sealed, b.profile("late"), a.sender())
	wantError(t, "after its end", err, hub.ErrLoginRequired, "ended on")
}

func TestOrdersThatAreRefused(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
	to, other := b.key.Recipient(), newStation(t).key.Recipient()
	empty := a.profile("empty")
	over := a.profile("over")
	a.commit(over, hub.KindLogin, sim.SignIn(simulator.SignIn{LoginTTL: -time.Minute}).Credentials)
	expired := a.profile("expired")
	a.commit(expired, hub.KindLogin, sim.SignIn(simulator.SignIn{AccessTTL: -time.Minute}).Credentials)
	for name, c := range map[string]struct {
		order bundle.Order
		kind  error
		words string
	}{
		"neither":        {bundle.Order{Profile: p, To: []string{to}}, hub.ErrInvalid, "good for one use"},
		"both":           {bundle.Order{Profile: p, To: []string{to}, Move: true, AccessOnly: time.Hour}, hub.ErrInvalid, "--move"},
		"to nobody":      {bundle.Order{Profile: p, Move: true}, hub.ErrInvalid, "--to"},
		"to nonsense":    {bundle.Order{Profile: p, To: []string{"age1nonsense"}, Move: true}, hub.ErrInvalid, "key show"},
		"to two":         {bundle.Order{Profile: p, To: []string{to, other}, Move: true}, hub.ErrInvalid, "to one hub"},
		"to itself":      {bundle.Order{Profile: p, To: []string{a.key.Recipient()}, Move: true}, hub.ErrInvalid, "itself"},
		"no login":       {bundle.Order{Profile: empty, To: []string{to}, Move: true}, hub.ErrLoginRequired, "login"},
		"the login over": {bundle.Order{Profile: over, To: []string{to}, Move: true}, hub.ErrLoginRequired, "end of its life"},
		"token expired":  {bundle.Order{Profile: expired, To: []string{to}, AccessOnly: time.Hour}, hub.ErrLoginRequired, "expired"},
	} {
		c.order.Write = func([]byte) error { t.Errorf("%s: a bundle was written", name); return nil }
		_, err := a.Export(t.Context(), c.order)
		wantError(t, name, err, c.kind, c.words)
	}
	secretKey := bundle.Order{Profile: p, To: []string{"AGE-SECRET-KEY-1FAKE"}, Move: true}
	if err := secretKey.Check(); err == nil || strings.Contains(err.Error(), "FAKE") {
		t.Errorf("a secret key as recipient: %v; want it refused and not shown", err)
	}
	if a.latest(p, hub.KindHandover) != nil {
		t.Error("an order that was refused left a handover")
	}
}

// While a refresh may have spent the token, it can't leave.
func TestUnsettledLoginStays(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
	left := filepath.Join(a.dir, "refresh", string(p.ID), "attempt-fake")
	a.must(os.MkdirAll(left, 0o700))
	_, err := a.Export(t.Context(), bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
	wantError(t, "a refresh was interrupted", err, hub.ErrConflict, "claude-hub refresh")
	a.must(os.Remove(left))
	for _, status := range []string{`{"generation":1,"health":"login-required","reason":"lost"}`, `{"generation":1,"health":"suspect","doubt":true}`, `{"generation":1,"health":"suspect","dead":true}`} {
		a.must(os.WriteFile(filepath.Join(filepath.Dir(left), "status.json"), []byte(status), 0o600))
		if _, err := a.Export(t.Context(), bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true}); err == nil || hub.HintOf(err) == "" {
			t.Errorf("with %s: Export = %v; want it refused, with a hint", status, err)
		}
	}
	if a.latest(p, hub.KindHandover) != nil {
		t.Error("a handover was noted")
	}
}

// At every step of a move the sender is the writer, or has handed over and can
// write the bundle again: never both, never neither.
func TestExportInterrupted(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	for _, point := range []string{"handover.before", "handover.after", "write.before", "write.after"} {
		a, b := newStation(t), newStation(t)
		p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
		a.fail = at(point)
		written := false
		order := bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true, Write: func([]byte) error {
			written = true
			if a.latest(p, hub.KindHandover) == nil {
				t.Errorf("%s: the bundle is written before the handover is durable", point)
			}
			return nil
		}}
		if _, err := a.Export(t.Context(), order); !errors.Is(err, errInjected) {
			t.Fatalf("%s: Export = %v", point, err)
		}
		s, err := a.refresher.Status(t.Context(), p.ID)
		a.must(err)
		if moved := point != "handover.before"; (s.HandedOver != nil) != moved || written != (point == "write.after") {
			t.Errorf("%s: handed over %v, written %v", point, s.HandedOver, written)
		}
		a.fail = nil
		sealed, e := a.export(bundle.Order{Profile: p, To: order.To, Move: true})
		if e.Again != (point != "handover.before") {
			t.Errorf("%s: the same order again = %+v", point, e)
		}
		if _, err := b.take(sealed, b.profile("work"), a.sender()); err != nil {
			t.Errorf("%s: importing it: %v", point, err)
		}
	}
}

var errInjected = errors.New("injected")

// at fails at one failpoint.
func at(point string) func(string) error {
	return func(name string) error {
		if name == point {
			return errInjected
		}
		return nil
	}
}

// Wherever an import is interrupted, the old login or the new one is there, whole,
// and the same import again brings it to its end or says that it was done.
func TestImportInterrupted(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	var points []string
	for _, step := range []string{"note", "snapshot", "setup-token", "account", "login", "done"} {
		points = append(points, step+".before", step+".after")
	}
	for _, before := range []bool{false, true} {
		for _, point := range points {
			a, b := newStation(t), newStation(t)
			p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
			q := b.profile("work")
			var old []byte
			if before {
				old = sim.SignIn(simulator.SignIn{}).Credentials
				b.commit(q, hub.KindLogin, old)
			}
			sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
			b.fail = at(point)
			got, err := b.take(sealed, q, a.sender())
			if told := strings.HasPrefix(point, "done"); !errors.Is(err, errInjected) || (got.Generation != 0) != told {
				t.Fatalf("%s: Import = %+v, %v", point, got, err)
			}
			b.fail = nil
			committed := slices.Contains([]string{"login.after", "done.before", "done.after"}, point)
			want := old
			if committed {
				want = a.latest(p, hub.KindLogin)
			}
			if got := b.latest(q, hub.KindLogin); !bytes.Equal(got, want) {
				t.Errorf("%s: the login is neither the old nor the new one", point)
			}
			_, err = b.take(sealed, q, a.sender())
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
			_, err = b.take(sealed, b.profile("other"), a.sender())
			wantError(t, point+", to another profile", err, hub.ErrRefused, "was imported on")
		}
	}
}

// An import that was interrupted is finished in its own profile, or, if that is
// gone, in any.
func TestImportResumedElsewhere(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
	sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
	q := b.profile("first")
	b.fail = at("account.after")
	if _, err := b.take(sealed, q, a.sender()); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	b.fail = nil
	other := b.profile("other")
	_, err := b.take(sealed, other, a.sender())
	wantError(t, "as another profile", err, hub.ErrConflict, "another profile")
	b.must(b.vault.Remove(t.Context(), q.ID))
	if _, err := b.take(sealed, other, a.sender()); err != nil {
		t.Errorf("after the first profile was removed: %v", err)
	}
}

// An import that was interrupted before its login came is finished although the
// login that was here has been refreshed meanwhile; not if that is another's now,
// and not where it can't be told whether it came.
func TestImportResumedAfterARefresh(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	for _, point := range []string{"note.after", "account.after", "login.before", "login.after"} {
		a, b := newStation(t), newStation(t)
		p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
		q := b.signedIn("work", sim.SignIn(simulator.SignIn{}))
		sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
		b.fail = at(point)
		if _, err := b.take(sealed, q, a.sender()); !errors.Is(err, errInjected) {
			t.Fatalf("%s: Import = %v", point, err)
		}
		b.fail = nil
		b.commit(q, hub.KindLogin, sim.SignIn(simulator.SignIn{}).Credentials) // as a refresh does
		_, err := b.take(sealed, q, a.sender())
		if point == "login.after" {
			wantError(t, point, err, hub.ErrRefused, "was imported on")
			continue
		}
		if err != nil || !bytes.Equal(b.latest(q, hub.KindLogin), a.latest(p, hub.KindLogin)) {
			t.Errorf("%s: the same import again = %v; want the bundle's login", point, err)
		}
		_, err = b.take(sealed, q, a.sender())
		wantError(t, point+", a third time", err, hub.ErrRefused, "was imported on")
	}

	a, b := newStation(t), newStation(t)
	p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
	q := b.signedIn("work", sim.SignIn(simulator.SignIn{}))
	sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
	b.fail = at("note.after")
	if _, err := b.take(sealed, q, a.sender()); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	b.fail = nil
	b.commit(q, hub.KindLogin, sim.SignIn(simulator.SignIn{Account: simulator.Account{Email: "other@example.com"}}).Credentials)
	_, err := b.take(sealed, q, a.sender())
	wantError(t, "another account's login has come", err, hub.ErrExists, "--profile")
	for range 100 { // so that the vault prunes the first of them
		b.commit(q, hub.KindLogin, b.latest(q, hub.KindLogin))
	}
	_, err = b.take(sealed, q, a.sender())
	wantError(t, "too long ago", err, hub.ErrRefused, "can't be told")
}

// Of two imports of one bundle at the same time, one wins.
func TestImportsAtOnce(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
	sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
	profiles := []hub.Profile{b.profile("one"), b.profile("two"), b.profile("three")}
	ended := make(chan error, len(profiles))
	for _, q := range profiles {
		go func() { _, err := b.take(sealed, q, a.sender()); ended <- err }()
	}
	won := 0
	for range profiles {
		if err := <-ended; err == nil {
			won++
		} else if !errors.Is(err, hub.ErrConflict) && !errors.Is(err, hub.ErrRefused) {
			t.Errorf("the losing import: %v", err)
		}
	}
	logins := 0
	for _, q := range profiles {
		if b.latest(q, hub.KindLogin) != nil {
			logins++
		}
	}
	if won != 1 || logins != 1 {
		t.Errorf("%d imports won, %d profiles have the login; want 1", won, logins)
	}
}

func TestImportToAProfileThatIsThere(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
	sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
	stranger := b.signedIn("stranger", sim.SignIn(simulator.SignIn{Account: simulator.Account{Email: "other@example.com"}}))
	_, err := b.take(sealed, stranger, a.sender())
	wantError(t, "another account", err, hub.ErrExists, "--profile")
	spare := b.profile("spare")
	b.commit(spare, hub.KindSetupToken, a.latest(p, hub.KindSetupToken))
	_, err = b.take(sealed, spare, a.sender())
	wantError(t, "a setup token alone", err, hub.ErrExists, "--profile")
	if b.latest(spare, hub.KindLogin) != nil || b.login(stranger).AccessToken.Equal(a.login(p).AccessToken) {
		t.Error("a refused import has changed the login")
	}
	same := b.signedIn("same", sim.SignIn(simulator.SignIn{}))
	old := filepath.Join(b.dir, "refresh", string(same.ID))
	b.must(os.MkdirAll(filepath.Join(old, "kept-fake"), 0o700))
	b.must(os.WriteFile(filepath.Join(old, "status.json"), []byte(`{"generation":1,"health":"login-required","reason":"lost"}`), 0o600))
	if got, err := b.take(sealed, same, a.sender()); err != nil || got.Generation != 2 {
		t.Errorf("the same account: %+v, %v", got, err)
	}
	if left, err := os.ReadDir(old); err != nil || len(left) != 1 { // the lock
		t.Errorf("what was known of the old login's refreshes is left: %v, %v", left, err)
	}
	b.free(same)
}

// The captured directory is checked without a copy of it in plain: what a killed
// import left of that nobody would remove. So no place to write to is needed.
func TestImportUnpacksNowhere(t *testing.T) {
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p, q := a.signedIn("work", sim.SignIn(simulator.SignIn{})), b.profile("work")
	sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
	t.Setenv("TMPDIR", "/nonexistent")
	if got, err := b.take(sealed, q, a.sender()); err != nil || got.Files != 3 {
		t.Errorf("Import without a temporary directory = %+v, %v", got, err)
	}
}

func TestImportIsCancelledBeforeItBegins(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b := newStation(t), newStation(t)
	p, q := a.signedIn("work", sim.SignIn(simulator.SignIn{})), b.profile("work")
	sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
	parcel, err := b.Open(bytes.NewReader(sealed), []string{a.sender()})
	b.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Import(ctx, parcel, q); err == nil || b.latest(q, hub.KindLogin) != nil {
		t.Errorf("a cancelled Import = %v", err)
	}
	if _, err := b.Import(t.Context(), parcel, q); err != nil {
		t.Errorf("Import after a cancelled one: %v", err)
	}
}

func TestWriteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "b")
	if err := bundle.WriteFile(path, []byte("fake")); err != nil {
		t.Fatal(err)
	}
	wantError(t, "a file that is there", bundle.WriteFile(path, []byte("other")), hub.ErrExists, "b")
	wantError(t, "looking first", bundle.CheckFile(path), hub.ErrExists, "b")
	if err := bundle.CheckFile(filepath.Join(dir, "none", "b")); err == nil {
		t.Error("a file in no directory is accepted")
	}
	info, err := os.Stat(path)
	got, rerr := os.ReadFile(path)
	if err != nil || rerr != nil || info.Mode().Perm() != 0o600 || string(got) != "fake" {
		t.Errorf("the file is %q, mode %v; %v, %v", got, info.Mode(), err, rerr)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left over: %v, %v", names, err)
	}
}

// File systems differ in what they can; a bundle is written all the same, over
// nothing, and nothing is left beside it.
func TestWriteFileOnOtherFileSystems(t *testing.T) {
	t.Parallel()
	for _, can := range []error{syscall.EINVAL, syscall.ENOSYS, syscall.EOPNOTSUPP, syscall.EPERM} {
		dir := t.TempDir()
		path := filepath.Join(dir, strings.Repeat("b", 250)) // there is no room in the name for another
		for _, want := range []error{nil, hub.ErrExists} {
			err := bundle.WriteFileWith(path, []byte("fake"), func(from, _ string) error {
				return &os.LinkError{Op: "renameat2", Old: from, New: path, Err: can}
			})
			if !errors.Is(err, want) {
				t.Errorf("%v: WriteFile = %v; want %v", can, err, want)
			}
			names, derr := os.ReadDir(dir)
			info, serr := os.Stat(path)
			got, rerr := os.ReadFile(path)
			if derr != nil || serr != nil || rerr != nil || len(names) != 1 || info.Mode().Perm() != 0o600 || string(got) != "fake" {
				t.Errorf("%v: there are %v, the file is %q; %v, %v, %v", can, names, got, derr, serr, rerr)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "b")
	err := bundle.WriteFileWith(path, []byte("fake"), func(string, string) error { return syscall.EIO })
	if _, serr := os.Stat(path); !errors.Is(err, syscall.EIO) || serr == nil {
		t.Errorf("on a broken disk: %v, and a file: %v", err, serr)
	}
	err = bundle.WriteFileWith(path, []byte("fake"), func(string, string) error { return syscall.EEXIST })
	wantError(t, "there, and gone again", err, hub.ErrExists, "b")
}

// What keeps a bundle from being written is seen before the login is handed over.
func TestCheckFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, strings.Repeat("b", 250)), filepath.Join(dir, "b")} {
		if err := bundle.CheckFile(path); err != nil {
			t.Errorf("CheckFile = %v", err)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("left over: %v, %v", names, err)
	}
	if err := bundle.CheckFile("/proc/self/b"); err == nil {
		t.Error("a directory that takes no files is accepted")
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "none"), link); err != nil {
		t.Fatal(err)
	}
	wantError(t, "a link to nothing", bundle.CheckFile(link), hub.ErrExists, "link")
}

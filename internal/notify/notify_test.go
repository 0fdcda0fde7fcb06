package notify_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/notify"
)

// desk is a hub directory with a webhook, a profile and a clock.
type desk struct {
	*service
	dir string
	log bytes.Buffer
	notify.Condition
	at   time.Time
	urls []string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{
		service: newService(t, httptest.NewServer), dir: t.TempDir(), at: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC),
		Condition: notify.Condition{Profile: "p-1", Name: "staging", Login: 5, Health: hub.HealthOK},
	}
	d.urls = []string{d.generic()}
	return d
}

// looks has a process that was started this moment look at the profile, twice,
// and returns the first lines of what the person was told.
func (d *desk) looks(t *testing.T) []string {
	t.Helper()
	n := notify.New(notify.Config{
		Dir: d.dir, Targets: targets(t, d.urls...), Now: func() time.Time { return d.at },
		Link: func(p hub.ProfileName) string { return "https://hub.example.com/signin/" + string(p) },
		Log:  slog.New(slog.NewTextHandler(&d.log, nil)),
	})
	for range 2 {
		if err := n.Observe(t.Context(), []notify.Condition{d.Condition}); err != nil {
			t.Fatal(err)
		}
	}
	var titles []string
	for _, r := range d.takes() {
		title, _, _ := strings.Cut(r.body, "\n")
		titles = append(titles, strings.TrimPrefix(title, "claude-hub staging: "))
	}
	return titles
}

func (d *desk) told(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, d.looks(t)); diff != "" {
		t.Errorf("on %s, %s: what the person is told (-want +got):\n%s", d.at.Format(time.DateTime), d.Health, diff)
	}
	d.told2(t)
}

// told2 demands that nothing is told again.
func (d *desk) told2(t *testing.T) {
	t.Helper()
	if again := d.looks(t); again != nil {
		t.Errorf("told again after a restart: %q", again)
	}
}

const days = 24 * time.Hour

func TestTheLoginsEndIsToldThreeTimes(t *testing.T) {
	d := newDesk(t)
	start := d.at
	d.LoginExpires = start.Add(30 * days)
	var got []string
	for d.at.Before(d.LoginExpires) {
		for _, title := range d.looks(t) {
			got = append(got, fmt.Sprintf("%v left: %s", d.LoginExpires.Sub(d.at), title))
		}
		d.Login++ // refreshed
		d.LoginExpires = d.LoginExpires.Add(-time.Second)
		d.at = d.at.Add(8 * time.Hour)
	}
	want := []string{"167h58m", "71h58m", "23h58m"}
	if len(got) != 3 {
		t.Fatalf("told %q; want three times", got)
	}
	for i, g := range got {
		if !strings.HasPrefix(g, want[i]) {
			t.Errorf("told %q; want it with %s left", g, want[i])
		}
	}
	if !strings.HasSuffix(got[0], "the login ends in 7 days") || !strings.HasSuffix(got[1], "in 3 days") || !strings.HasSuffix(got[2], "in 1 day") {
		t.Errorf("told %q", got)
	}
	// A new sign-in starts over; a hub that was off tells what is left, once.
	d.LoginExpires = d.at.Add(30 * days)
	d.told(t)
	d.at = d.at.Add(28*days + time.Hour)
	d.told(t, "the login ends in 2 days")
	d.at = d.at.Add(days)
	d.told(t, "the login ends in 1 day")
}

func TestAnAlarmIsToldOnceAndItsEndToo(t *testing.T) {
	d := newDesk(t)
	d.told(t)
	d.Health, d.Reason, d.Parked = hub.HealthLoginRequired, "the platform refused the login sk-ant-oat01-fake-canary0123456789\x1b[31m", 3
	d.told(t, "login required")
	d.Parked = 4 // no news
	d.told(t)
	d.Health, d.Reason = hub.HealthOK, "" // of the same login: it comes and goes
	d.told(t)
	d.Health = hub.HealthLoginRequired
	d.told(t)
	d.Login, d.Health, d.LoginExpires = 6, hub.HealthOK, d.at.Add(30*days)
	d.told(t, "signed in again")
	d.Login, d.Health = 7, hub.HealthLoginRequired
	d.told(t, "login required")
}

func TestWhatAMessageSays(t *testing.T) {
	d := newDesk(t)
	d.Health, d.Reason, d.Parked = hub.HealthLoginRequired, "the platform refused the login sk-ant-oat01-fake-canary0123456789\x1b[31m", 3
	n := notify.New(notify.Config{
		Dir: d.dir, Targets: targets(t, d.urls...), Now: func() time.Time { return d.at },
		Link: func(p hub.ProfileName) string { return "https://hub.example.com/signin/" + string(p) },
	})
	if err := n.Observe(t.Context(), []notify.Condition{d.Condition}); err != nil {
		t.Fatal(err)
	}
	d.Login, d.Health, d.LoginExpires = 6, hub.HealthOK, d.at.Add(30*days)
	if err := n.Observe(t.Context(), []notify.Condition{d.Condition}); err != nil {
		t.Fatal(err)
	}
	var bodies []string
	for _, r := range d.takes() {
		bodies = append(bodies, r.body)
	}
	want := []string{
		"claude-hub staging: login required\nThe profile staging needs a sign-in (the platform refused the login [secret] [31m). Runs wait until then; 3 do now.\nSign in: https://hub.example.com/signin/staging",
		"claude-hub staging: signed in again\nThe profile staging is signed in again. 3 parked runs go on. The login lasts until 2026-05-31 12:00 UTC.",
	}
	if diff := cmp.Diff(want, bodies); diff != "" {
		t.Errorf("the messages (-want +got):\n%s", diff)
	}
}

func TestASuspectLoginIsToldAfterAWhile(t *testing.T) {
	d := newDesk(t)
	d.Health = hub.HealthSuspect
	d.told(t)
	d.at = d.at.Add(9 * time.Minute)
	d.told(t)
	d.Health = hub.HealthOK // it was a blip
	d.told(t)
	d.at, d.Health = d.at.Add(time.Minute), hub.HealthSuspect
	d.told(t)
	d.at = d.at.Add(10 * time.Minute)
	d.told(t, "refreshes fail")
	d.at = d.at.Add(time.Hour)
	d.told(t)
}

func TestTheSpareAndASecondWriterAreTold(t *testing.T) {
	d := newDesk(t)
	d.Spare, d.SpareExpires, d.SpareInUse, d.Health = 2, d.at.Add(300*days), true, hub.HealthLoginRequired
	d.told(t, "the setup token is in use")
	d.SpareInUse = false // the spare dies, too
	d.told(t, "login required")
	d.Login, d.Health = 6, hub.HealthOK
	d.told(t, "signed in again")
	d.SecondWriter = true
	d.told(t, "a second writer")
	d.Login++
	d.told(t, "a second writer")
}

func TestNobodyIsToldOfALoginThatNeverWas(t *testing.T) {
	d := newDesk(t)
	d.Login, d.Health = 0, hub.HealthLoginRequired
	d.told(t)
	d.Spare, d.Health, d.SpareInUse = 1, hub.HealthOK, true // a setup token alone is no spare
	d.told(t)
}

func TestAServiceThatIsDownIsToldLater(t *testing.T) {
	d := newDesk(t)
	other := newService(t, httptest.NewServer)
	d.urls = append(d.urls, other.generic())
	d.fails(http.StatusServiceUnavailable)
	d.Health = hub.HealthLoginRequired
	d.told(t)
	if got := other.takes(); len(got) != 1 {
		t.Errorf("the service that is up got %d messages; want 1", len(got))
	}
	tries := strings.Count(d.log.String(), "not delivered")
	for range 50 { // it is left alone between the tries
		d.at = d.at.Add(time.Second)
		d.looks(t)
	}
	if got := strings.Count(d.log.String(), "not delivered"); got != tries || tries != 1 {
		t.Errorf("%d tries at first, %d after 50 s; want one", tries, got)
	}
	for range 2 * 24 { // two days; it backs off to once an hour
		d.at = d.at.Add(time.Hour)
		d.looks(t)
	}
	if got := strings.Count(d.log.String(), "not delivered"); got < 40 || got > 60 {
		t.Errorf("%d tries in two days", got)
	}
	d.fails(0)
	d.at = d.at.Add(time.Hour)
	d.told(t, "login required")
	if got := other.takes(); len(got) != 0 {
		t.Errorf("the service that was up was told again: %+v", got)
	}
}

func TestWhatIsOverIsNotToldLate(t *testing.T) {
	d := newDesk(t)
	d.fails(http.StatusServiceUnavailable)
	d.Health = hub.HealthLoginRequired
	d.told(t)
	d.Login, d.Health = 6, hub.HealthOK
	d.told(t)
	d.fails(0)
	d.at = d.at.Add(2 * time.Hour)
	d.told(t)

	d.fails(http.StatusServiceUnavailable)
	d.Login, d.Health = 7, hub.HealthLoginRequired
	d.told(t)
	d.fails(0)
	d.at = d.at.Add(4 * days) // nobody wants to be told of what was days ago
	d.told(t)
	if !strings.Contains(d.log.String(), "never delivered") {
		t.Errorf("a message was given up, and the log says nothing:\n%s", &d.log)
	}
}

func TestTwoProcessesTellOnce(t *testing.T) {
	d := newDesk(t)
	d.Health = hub.HealthLoginRequired
	var group sync.WaitGroup
	for range 8 {
		all := targets(t, d.urls...)
		group.Go(func() {
			n := notify.New(notify.Config{Dir: d.dir, Targets: all, Link: func(hub.ProfileName) string { return "there" }})
			for range 5 {
				if err := n.Observe(t.Context(), []notify.Condition{d.Condition}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got := d.takes(); len(got) != 1 {
		t.Errorf("%d messages; want 1", len(got))
	}
}

func TestWhatIsWrittenDownIsPrivateAndHasNoURL(t *testing.T) {
	d := newDesk(t)
	d.fails(http.StatusServiceUnavailable)
	d.Health = hub.HealthLoginRequired
	d.told(t)
	path := filepath.Join(d.dir, "notify.json")
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), `"to": "1-generic"`) {
		t.Fatalf("%s, %v; want the message that is to be delivered", data, err)
	}
	if c := leaks(string(data) + d.log.String()); c != "" || strings.Contains(string(data), d.host()) {
		t.Errorf("%q is written down: %s\n%s", c, data, &d.log)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	// One that is damaged is begun again; one that can't be written tells nothing.
	d.fails(0)
	if err := os.WriteFile(path, []byte(`{"profiles":[`), 0o600); err != nil {
		t.Fatal(err)
	}
	d.told(t, "login required")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := notify.New(notify.Config{Dir: d.dir, Targets: targets(t, d.urls...), Link: func(hub.ProfileName) string { return "there" }})
	if err := n.Observe(t.Context(), []notify.Condition{d.Condition}); err == nil || len(d.takes()) != 0 {
		t.Errorf("Observe = %v; want an error, and nobody told", err)
	}
}

func TestAProfileThatIsGoneIsForgotten(t *testing.T) {
	d := newDesk(t)
	d.Health = hub.HealthLoginRequired
	d.told(t, "login required")
	n := notify.New(notify.Config{Dir: d.dir, Targets: targets(t, d.urls...), Link: func(hub.ProfileName) string { return "there" }})
	if err := n.ObserveSome(t.Context(), nil); err != nil { // it may only be unreadable
		t.Fatal(err)
	}
	if told := d.looks(t); len(told) != 0 {
		t.Errorf("told again: %q", told)
	}
	if err := n.Observe(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(d.dir, "notify.json")); err != nil || strings.Contains(string(data), "p-1") {
		t.Errorf("%s, %v; want nothing of it", data, err)
	}
}

func FuzzBook(f *testing.F) {
	f.Add([]byte(`{"profiles":{"p-1":{"marks":{"login-required":"login 5"}}},"pending":[{"event":"test","to":"1-generic","since":"2026-05-01T12:00:00Z"}]}`))
	f.Add([]byte(`{"profiles":{"p-1":null},"pending":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) { notify.Rewrite(t, data) })
}

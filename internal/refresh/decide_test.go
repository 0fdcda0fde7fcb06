package refresh

import (
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// made returns a login of generation 7 whose access token lives from 0 to life.
func made(start time.Time, life time.Duration) *login {
	return newLogin(7, agent.Credentials{
		AccessToken: secret.New("sk-ant-oat01-fake-access"), RefreshToken: secret.New("sk-ant-ort01-fake-refresh"),
		ExpiresAt: start.Add(life), LoginExpiresAt: start.Add(30 * 24 * time.Hour),
	}, start)
}

func TestWindowsFollowTheTokensLife(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ life, advisory, mandatory time.Duration }{
		{8 * time.Hour, 30 * time.Minute, time.Minute},
		{time.Hour, 15 * time.Minute, time.Minute},
		{2 * time.Second, 500 * time.Millisecond, 200 * time.Millisecond},
		{0, 0, 0},
		{-time.Hour, 0, 0},
	} {
		l := made(start, c.life)
		end := l.cred.ExpiresAt
		if end.Sub(l.advisory) != c.advisory || end.Sub(l.mandatory) != c.mandatory {
			t.Errorf("a life of %v: windows %v and %v; want %v and %v", c.life, end.Sub(l.advisory), end.Sub(l.mandatory), c.advisory, c.mandatory)
		}
		if l.due.Before(l.advisory) || l.due.After(l.mandatory) {
			t.Errorf("a life of %v: due %v before its end, outside of the advisory window", c.life, end.Sub(l.due))
		}
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	const life = 8 * time.Hour
	at := func(d time.Duration) time.Time { return start.Add(d) }
	suspect := state{Generation: 7, Health: hub.HealthSuspect, Failures: 1, NotBefore: at(life + time.Hour)}
	over := state{Generation: 7, Health: hub.HealthLoginRequired, Reason: "over"}
	lost := state{Generation: 7, Health: hub.HealthLoginRequired, Reason: "lost", Dead: true}
	uncommitted := state{Generation: 7, Health: hub.HealthSuspect, Dead: true}
	older := state{Generation: 6, Health: hub.HealthLoginRequired, Reason: "of an older generation", Dead: true, NotBefore: at(life)}
	setup := &spare{gen: 3, token: agent.SetupToken{Token: secret.New("sk-ant-oat01-fake-setup"), Expires: at(1000 * time.Hour)}}

	for name, c := range map[string]struct {
		now     time.Duration
		st      state
		stale   hub.Generation
		spare   *spare
		gen     hub.Generation // served
		refresh bool
		wait    bool
	}{
		"fresh":                             {now: time.Hour, gen: 7},
		"advisory":                          {now: life - 5*time.Minute, gen: 7, refresh: true},
		"mandatory":                         {now: life - 30*time.Second, refresh: true},
		"expired":                           {now: life + time.Second, refresh: true},
		"fresh, refused":                    {now: time.Hour, stale: 7, refresh: true},
		"fresh, an older one refused":       {now: time.Hour, stale: 6, gen: 7},
		"advisory, backing off":             {now: life - 5*time.Minute, st: suspect, gen: 7},
		"mandatory, backing off":            {now: life - time.Second, st: suspect, gen: 7},
		"expired, backing off":              {now: life, st: suspect, refresh: true, wait: true},
		"refused, backing off":              {now: time.Hour, st: suspect, stale: 7, refresh: true, wait: true},
		"backing off, with a spare":         {now: life, st: suspect, spare: setup, refresh: true, wait: true},
		"login required, token lives":       {now: life - time.Second, st: over, gen: 7},
		"login required, token lives, with": {now: life - time.Second, st: over, spare: setup, gen: 7},
		"login required, expired":           {now: life, st: over},
		"login required, refused":           {now: time.Hour, st: over, stale: 7},
		"login required, refused, spare":    {now: time.Hour, st: over, stale: 7, spare: setup, gen: 3 | SpareBit},
		"lost":                              {now: time.Hour, st: lost},
		"lost, with a spare":                {now: time.Hour, st: lost, spare: setup, gen: 3 | SpareBit},
		"lost, spare refused":               {now: time.Hour, st: lost, spare: setup, stale: 3 | SpareBit},
		"lost, spare expired":               {now: 1001 * time.Hour, st: lost, spare: setup},
		"rotated, not committed yet":        {now: time.Hour, st: uncommitted, refresh: true},
		"a state of an older generation":    {now: time.Hour, st: older, gen: 7},
		"the login's end":                   {now: 30 * 24 * time.Hour},
		"the login's end, with a spare":     {now: 30 * 24 * time.Hour, spare: setup, gen: 3 | SpareBit},
	} {
		if c.spare != nil && c.now > 100*time.Hour && c.gen != 0 {
			c.spare = &spare{gen: 3, token: agent.SetupToken{Token: setup.token.Token, Expires: at(10000 * time.Hour)}}
		}
		got := decide(made(start, life), c.spare, c.st, c.stale, at(c.now))
		if got.gen != c.gen || got.refresh != c.refresh || got.wait.IsZero() == c.wait || got.gen != 0 == got.token.IsZero() {
			t.Errorf("%s: generation %x, refresh %v, wait %v; want %x, %v, %v", name, got.gen, got.refresh, !got.wait.IsZero(), c.gen, c.refresh, c.wait)
		}
		if got.gen == 0 && !got.refresh && got.reason == "" {
			t.Errorf("%s: no reason is given", name)
		}
	}
}

// What the sweep waits for is never later than what callers would wait for.
func TestDue(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	l := made(start, 8*time.Hour)
	now := start.Add(time.Hour)
	if got := due(l, state{}, false, now); got != l.due {
		t.Errorf("due %v; want the advisory window, %v", got, l.due)
	}
	if got := due(l, state{}, true, now); got != now {
		t.Errorf("due %v after an interruption; want now", got)
	}
	wait := state{NotBefore: now.Add(time.Minute)}
	if got := due(l, wait, true, now); got != wait.NotBefore {
		t.Errorf("due %v in the back-off; want its end", got)
	}
	if got := due(l, state{Health: hub.HealthLoginRequired}, true, now); !got.IsZero() {
		t.Errorf("due %v where a login is required; want never", got)
	}
	moved := l.after(hub.Handover{Generation: 7, To: []string{"age1fake"}}, 0)
	if got := due(moved, state{Dead: true}, true, now); !got.IsZero() {
		t.Errorf("due %v after the login was moved; want never", got)
	}
	if got := due(l, state{}, false, l.cred.LoginExpiresAt); !got.IsZero() {
		t.Errorf("due %v after the login's end; want never", got)
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	t.Parallel()
	for failures, most := range map[int]time.Duration{0: 5 * time.Second, 1: 5 * time.Second, 2: 10 * time.Second, 5: 80 * time.Second, 8: 10 * time.Minute, 1000: 10 * time.Minute} {
		for range 100 {
			if d := backoff(failures, firstBackoff, longestBackoff); d < most/2 || d > most {
				t.Fatalf("after %d failures: %v; want %v to %v", failures, d, most/2, most)
			}
		}
	}
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"generation":7,"health":"suspect","not_before":"2026-11-23T12:00:00Z"}`))
	f.Add([]byte(`{"health":"well"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err == nil && s.Health != hub.HealthOK && s.Health != hub.HealthSuspect && s.Health != hub.HealthLoginRequired {
			t.Errorf("%q gives health %q", b, s.Health)
		}
	})
}

func FuzzParseAttemptLog(f *testing.F) {
	f.Add([]byte(`{"format":1,"profile":"p-x","generation":7,"started":"2026-11-23T12:00:00Z","mode":"due"}`))
	f.Add([]byte(`{"format":2,"generation":7}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		log, err := parseAttemptLog(b)
		if err == nil && (log.Format != attemptFormat || log.Generation == 0) {
			t.Errorf("%q gives %+v", b, log)
		}
	})
}

// A nearly full or read-only file system is seen before anything is sent.
func TestCheckRoom(t *testing.T) {
	t.Parallel()
	if err := checkRoom(t.TempDir()); err != nil {
		t.Errorf("checkRoom of a directory with room: %v", err)
	}
	if err := checkRoom("/proc"); err == nil || hub.HintOf(err) == "" { // it has no blocks at all
		t.Errorf("checkRoom of a full file system = %v; want an error with a hint", err)
	}
}

package lease_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/lease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func issue(t *testing.T, b *lease.Book, limits hub.Limits) *lease.Lease {
	t.Helper()
	if limits.Lifetime == 0 {
		limits.Lifetime = time.Minute
	}
	l, err := b.Issue(lease.Grant{Run: "r-test", Profile: "p-test", Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Revoke)
	return l
}

func TestTokenHasTheShapeOfAnAccessTokenAndIsFoundByItself(t *testing.T) {
	b := lease.NewBook(nil)
	l, other := issue(t, b, hub.Limits{}), issue(t, b, hub.Limits{})
	token := l.Token().Reveal()
	if !strings.HasPrefix(token, "sk-ant-oat01-lease-") || len(token) != len("sk-ant-oat01-lease-")+43 || l.Token().Equal(other.Token()) {
		t.Errorf("token of %d bytes, or twice the same", len(token))
	}
	if got, err := b.Check(token); got != l || err != nil {
		t.Errorf("Check = %v, %v; want the lease", got, err)
	}
	if !l.Matches(token) || l.Matches(token+"x") || l.Matches(token[1:]) || l.Matches("") || l.Matches(other.Token().Reveal()) {
		t.Error("Matches is wrong")
	}
	if l.Run() != "r-test" || l.Profile() != "p-test" {
		t.Error("the lease does not say whose it is")
	}
}

func TestUnknownTokensAreRefused(t *testing.T) {
	b := lease.NewBook(nil)
	token := issue(t, b, hub.Limits{}).Token().Reveal()
	for _, s := range []string{"", "sk-ant-oat01-fake", token[:len(token)-1], token + "A", " " + token, strings.ToUpper(token), token + "\x00"} {
		if l, err := b.Check(s); l != nil || !errors.Is(err, lease.ErrUnknown) || !errors.Is(err, hub.ErrRefused) {
			t.Errorf("Check(%q) = %v, %v; want ErrUnknown", s, l, err)
		}
	}
	if l, err := lease.NewBook(nil).Check(token); l != nil || !errors.Is(err, lease.ErrUnknown) {
		t.Errorf("another book knows the token: %v", err) // as after a restart
	}
}

func TestIssueRefusesWhatIsNoGrant(t *testing.T) {
	b := lease.NewBook(nil)
	good := hub.Limits{Lifetime: time.Minute}
	for name, g := range map[string]lease.Grant{
		"no run":             {Profile: "p", Limits: good},
		"no profile":         {Run: "r", Limits: good},
		"no lifetime":        {Run: "r", Profile: "p"},
		"negative lifetime":  {Run: "r", Profile: "p", Limits: hub.Limits{Lifetime: -1}},
		"negative requests":  {Run: "r", Profile: "p", Limits: hub.Limits{Lifetime: 1, Requests: -1}},
		"negative tokens":    {Run: "r", Profile: "p", Limits: hub.Limits{Lifetime: 1, Tokens: -1}},
		"negative cost":      {Run: "r", Profile: "p", Limits: hub.Limits{Lifetime: 1, Cost: -1}},
		"negative parallel":  {Run: "r", Profile: "p", Limits: hub.Limits{Lifetime: 1, Parallel: -1}},
		"a model of no name": {Run: "r", Profile: "p", Limits: hub.Limits{Lifetime: 1, Models: []string{"a", ""}}},
	} {
		if _, err := b.Issue(g); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("%s: %v; want ErrInvalid", name, err)
		}
	}
}

func TestRevokedLeaseIsRefusedAtOnceAndForGood(t *testing.T) {
	b := lease.NewBook(nil)
	l := issue(t, b, hub.Limits{})
	l.Revoke()
	l.Revoke()
	<-l.Done()
	if _, err := b.Check(l.Token().Reveal()); !errors.Is(err, lease.ErrRevoked) {
		t.Errorf("Check: %v; want ErrRevoked", err)
	}
	if _, err := l.Begin(t.Context(), "m"); !errors.Is(err, lease.ErrRevoked) {
		t.Errorf("Begin: %v; want ErrRevoked", err)
	}
	if err := l.Admit("m"); !errors.Is(err, lease.ErrRevoked) {
		t.Errorf("Admit: %v; want ErrRevoked", err)
	}
}

func TestLeaseEndsWithItsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lease.NewBook(nil)
		l := issue(t, b, hub.Limits{Lifetime: time.Hour})
		time.Sleep(time.Hour - 1)
		if _, err := b.Check(l.Token().Reveal()); err != nil {
			t.Errorf("before its end: %v", err)
		}
		select {
		case <-l.Done():
			t.Error("done before its end")
		default:
		}
		time.Sleep(time.Nanosecond) // of synctest's clock
		<-l.Done()
		if _, err := b.Check(l.Token().Reveal()); !errors.Is(err, lease.ErrExpired) {
			t.Errorf("at its end: %v; want ErrExpired", err)
		}
		l.Revoke()
		if err := l.Err(); !errors.Is(err, lease.ErrExpired) {
			t.Errorf("revoked after its end: %v; want ErrExpired still", err)
		}
	})
}

func TestClockThatJumpsEndsALease(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	b := lease.NewBook(func() time.Time { return now })
	l := issue(t, b, hub.Limits{Lifetime: time.Hour})
	now = now.Add(2 * time.Hour)
	if err := l.Err(); !errors.Is(err, lease.ErrExpired) {
		t.Errorf("Err = %v; want ErrExpired", err)
	}
	<-l.Done()
}

func TestEndedLeasesAreForgottenInTheEnd(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	b := lease.NewBook(func() time.Time { return now })
	l := issue(t, b, hub.Limits{Lifetime: time.Hour})
	l.Revoke()
	now = now.Add(90 * time.Minute)
	issue(t, b, hub.Limits{})
	if _, err := b.Check(l.Token().Reveal()); !errors.Is(err, lease.ErrRevoked) {
		t.Errorf("half an hour after its end: %v; want ErrRevoked", err)
	}
	now = now.Add(time.Hour)
	issue(t, b, hub.Limits{})
	if _, err := b.Check(l.Token().Reveal()); !errors.Is(err, lease.ErrUnknown) {
		t.Errorf("long after its end: %v; want ErrUnknown", err)
	}
}

func TestLimitsRefuseTheNextRequest(t *testing.T) {
	one := hub.Usage{InputTokens: 50, OutputTokens: 20, CacheReadTokens: 20, CacheWriteTokens: 10, Cost: 500}
	for _, c := range []struct {
		limit  string
		limits hub.Limits
		model  string
		good   int // requests that may be made
	}{
		{"", hub.Limits{}, "m", 20},
		{"requests", hub.Limits{Requests: 3}, "m", 3},
		{"tokens", hub.Limits{Tokens: 250}, "m", 3},
		{"tokens", hub.Limits{Tokens: 200}, "m", 2},
		{"cost", hub.Limits{Cost: 1000}, "m", 2},
		{"model", hub.Limits{Models: []string{"claude-sonnet-4-5", "claude-haiku-*"}}, "claude-sonnet-4-5-20250929", 0},
		{"model", hub.Limits{Models: []string{"claude-sonnet-*"}}, "claude-opus-4-1", 0},
		{"", hub.Limits{Models: []string{"x", "claude-haiku-*"}}, "claude-haiku-4-5", 20},
		{"", hub.Limits{Models: []string{"*"}}, "anything", 20},
		{"", hub.Limits{Requests: 30, Tokens: 1 << 40, Cost: 1 << 40, Models: []string{"m"}, Parallel: 1}, "m", 20},
	} {
		l := issue(t, lease.NewBook(nil), c.limits)
		for i := range 20 {
			r, err := l.Begin(t.Context(), c.model)
			var le *lease.LimitError
			switch {
			case i < c.good && err != nil:
				t.Errorf("%+v: request %d: %v", c.limits, i, err)
			case i >= c.good && (!errors.As(err, &le) || le.Limit != c.limit || !errors.Is(err, hub.ErrRefused)):
				t.Errorf("%+v: request %d: %v; want the limit %q", c.limits, i, err, c.limit)
			case i >= c.good && l.Admit(c.model) == nil:
				t.Errorf("%+v: a free request is admitted when the limit is reached", c.limits)
			}
			if err == nil {
				r.Record(c.model, one)
				r.End()
				r.End()
			}
		}
		if got := l.Usage(); got.Requests != c.good || got.InputTokens != int64(50*c.good) || got.Cost != hub.MicroUSD(500*c.good) {
			t.Errorf("%+v: usage %+v after %d good requests", c.limits, got, c.good)
		}
	}
}

func TestRecordReplacesWhatTheRequestSaidBefore(t *testing.T) {
	l := issue(t, lease.NewBook(nil), hub.Limits{})
	r, err := l.Begin(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	r.Record("m", hub.Usage{InputTokens: 100, Cost: 7})
	if got := l.Usage(); got.InputTokens != 100 || got.Cost != 7 {
		t.Errorf("while it is in flight: %+v", got)
	}
	r.Record("n", hub.Usage{InputTokens: 100, OutputTokens: 30, Cost: 9})
	r.End()
	r.Record("o", hub.Usage{InputTokens: 1e6})
	got := l.Usage()
	if got.InputTokens != 100 || got.OutputTokens != 30 || got.Cost != 9 || fmt.Sprint(got.Models) != "[m n]" {
		t.Errorf("after its end: %+v", got)
	}
	got.Models[0] = "changed"
	if l.Usage().Models[0] != "m" {
		t.Error("Usage gives its own slice away")
	}
}

func TestModelNamesFromOutsideAreBounded(t *testing.T) {
	l := issue(t, lease.NewBook(nil), hub.Limits{})
	r, err := l.Begin(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		r.Record(fmt.Sprint("m", i), hub.Usage{})
	}
	if got := len(l.Usage().Models); got > 32 {
		t.Errorf("%d models", got)
	}
}

func TestRequestsOverTheParallelLimitWaitTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := issue(t, lease.NewBook(nil), hub.Limits{Parallel: 2})
		var mu sync.Mutex
		now, most := 0, 0
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				r, err := l.Begin(t.Context(), "m")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				now--
				mu.Unlock()
				r.End()
			})
		}
		all.Wait()
		if most != 2 || l.Usage().Requests != 10 {
			t.Errorf("%d at once, %d in all; want 2 and 10", most, l.Usage().Requests)
		}
	})
}

func TestWaitingEndsWithTheContextAndWithTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := issue(t, lease.NewBook(nil), hub.Limits{Parallel: 1})
		if _, err := l.Begin(t.Context(), "m"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		go func() { _, err := l.Begin(ctx, "m"); errs <- err }()
		synctest.Wait()
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("after the context's end: %v", err)
		}
		go func() { _, err := l.Begin(t.Context(), "m"); errs <- err }()
		synctest.Wait()
		l.Revoke()
		if err := <-errs; !errors.Is(err, lease.ErrRevoked) {
			t.Errorf("after the lease's end: %v", err)
		}
	})
}

func TestLimitIsCheckedAgainAfterTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := issue(t, lease.NewBook(nil), hub.Limits{Parallel: 1, Tokens: 10})
		first, err := l.Begin(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 1)
		go func() { _, err := l.Begin(t.Context(), "m"); errs <- err }()
		synctest.Wait()
		first.Record("m", hub.Usage{OutputTokens: 10})
		first.End()
		var le *lease.LimitError
		if err := <-errs; !errors.As(err, &le) || le.Limit != "tokens" {
			t.Errorf("%v; want the limit on tokens", err)
		}
	})
}

package refresh_test

import (
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

func TestRotates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher()
	first, gen := w.token(r, 0)
	if gen != 1 || first != w.login.AccessToken {
		t.Fatalf("the first token is of generation %d", gen)
	}
	w.wantCounts(0, 0)
	second, gen := w.token(r, 1)
	if gen != 2 || second == first {
		t.Errorf("after a 401 the token is of generation %d; want 2 and another token", gen)
	}
	w.wantCounts(1, 1)
	if again, gen := w.token(r, 1); again != second || gen != 2 { // a late report of the same 401
		t.Errorf("the same 401 again gives generation %d", gen)
	}
	w.wantCounts(1, 1)
	s := w.status(r)
	if s.Health != hub.HealthOK || s.Generation != 2 || s.Plan != "max" || s.Account != w.login.Account.UUID || s.LastRefresh.IsZero() || *s.LoginDaysLeft != 29 {
		t.Errorf("status = %+v; want ok, the plan and account of the sign-in, 29 whole days", s)
	}
	if left := w.leftovers("attempt-"); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

package refresh_test

import (
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// Each step of a refresh, killed or failing, before and after its effect: the
// login goes on, the platform was asked to rotate once, and saw no spent token.
func TestEveryFailurePoint(t *testing.T) {
	for _, action := range []string{"kill", "error"} {
		for _, step := range []string{"intent", "send", "answer", "commit", "publish"} {
			for _, when := range []string{"before", "after"} {
				point := step + "." + when
				t.Run(point+"/"+action, func(t *testing.T) {
					t.Parallel()
					w := newWorld(t, simulator.Config{}, "")
					r := w.refresher()
					w.failAt(point, action)
					if _, gen := w.token(r, 1); gen != 2 {
						t.Errorf("the next token is of generation %d; want 2", gen)
					}
					w.failed()
					w.wantCounts(1, 1)
					if _, err := r.Refresh(t.Context(), w.profile.ID, false); err != nil { // finishes what publishing left over
						t.Errorf("Refresh: %v", err)
					}
					if left := w.leftovers("attempt-"); len(left) > 0 {
						t.Errorf("left over: %q", left)
					}
					if s := w.status(r); s.Health != hub.HealthOK || s.Generation != 2 || s.Interrupted || s.Failures != 0 {
						t.Errorf("status = %+v; want ok", s)
					}
					if _, gen := w.token(r, 2); gen != 3 {
						t.Errorf("the token after that is of generation %d; want 3", gen)
					}
					w.wantCounts(2, 2)
				})
			}
		}
	}
}

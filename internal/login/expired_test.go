package login_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// A code that was pasted too late costs a link, and one that another link gave
// costs nothing; each is said, and the right code still signs in.
func TestLateCodeThenAnotherSignInsThenTheRightOne(t *testing.T) {
	inPlaces(t, func(t *testing.T, place string) {
		sim := platform(t, simulator.Config{})
		d := realDeskIn(t, sim, place)
		asked, first := 0, ""
		ui := &owner{code: func(ctx context.Context, link string) (string, error) {
			code, err := sim.Approve(ctx, link)
			switch asked++; asked {
			case 1:
				first = code
				sim.SetClockSkew(time.Hour)
			case 2:
				return first, err
			}
			return code, err
		}}
		if _, err := d.SignIn(t.Context(), d.profile, ui); err != nil {
			t.Fatal(err)
		}
		if len(ui.links) != 2 || len(ui.troubles) != 2 || !strings.Contains(ui.troubles[0], "wasn't accepted") || !strings.Contains(ui.troubles[1], "another sign-in") {
			t.Errorf("links %q, troubles %q", ui.links, ui.troubles)
		}
		if g := d.generation(hub.KindLogin); g != 1 {
			t.Errorf("generation %d", g)
		}
		d.wantNoScratch()
	})
}

// realDeskIn is a desk with the real CLI in a place.
func realDeskIn(t *testing.T, sim *simulator.Simulator, place string) *desk {
	t.Helper()
	if place == "here" {
		return realDesk(t, sim)
	}
	d, _ := boxDesk(t, place, hubtest.Claude(t), sim.Environ(), nil)
	return d
}

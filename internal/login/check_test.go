package login_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// Only a clear no of the platform's keeps a new login out; then the old one stays.
func TestPlatformIsAskedBeforeTheOldLoginGoes(t *testing.T) {
	old := strings.ReplaceAll(fakeLogin, "fake-refresh", "fake-old")
	for name, c := range map[string]struct {
		accepted bool
		err      error
		kept     bool
		warning  string
	}{
		"yes":        {accepted: true, kept: true},
		"no":         {},
		"can't tell": {err: errors.New("the platform answered 503"), kept: true, warning: "503"},
	} {
		asked := 0
		var d *desk
		d = newDesk(t, func(cfg *login.Config) {
			cfg.Agent = script(t, `link; ask; save`)
			cfg.Accepted = func(_ context.Context, token secret.Text) (bool, error) {
				asked++
				if g := d.generation(hub.KindLogin); g != 1 || token.Reveal() != "sk-ant-oat01-fake-access" {
					t.Errorf("%s: asked with generation %d in the vault, for %v", name, g, token)
				}
				return c.accepted, c.err
			}
		})
		if _, err := d.vault.Commit(t.Context(), d.profile.ID, hub.KindLogin, 0, []byte(old)); err != nil {
			t.Fatal(err)
		}
		result, err := d.SignIn(t.Context(), d.profile, codes(fakeCode))
		record, _ := d.login()
		if asked != 1 {
			t.Errorf("%s: asked %d times", name, asked)
		}
		if !c.kept {
			if !errors.Is(err, hub.ErrRefused) || hub.HintOf(err) == "" || strings.Contains(err.Error(), "codes") || string(record.Payload) != old || d.generation(hub.KindSnapshot) != 0 {
				t.Errorf("%s: error = %v with hint %q, generation %d; want ErrRefused and the old login", name, err, hub.HintOf(err), record.Generation)
			}
		} else if err != nil || record.Generation != 2 || !strings.Contains(strings.Join(result.Warnings, " "), c.warning) || len(result.Warnings) > 1 {
			t.Errorf("%s: %v, generation %d, warnings %q", name, err, record.Generation, result.Warnings)
		}
		d.wantNoScratch()
	}
}

// A platform that never answers the question does not hold a capture up for ever,
// nor does one that the owner no longer waits for.
func TestPlatformThatDoesNotAnswerIsNotWaitedFor(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := newDesk(t, func(cfg *login.Config) {
		cfg.Agent = script(t, `link; ask; save`)
		cfg.Accepted = func(ctx context.Context, _ secret.Text) (bool, error) {
			cancel() // the owner gives up; the login is written
			<-ctx.Done()
			return false, ctx.Err()
		}
	})
	d.SetCheckPatience(50 * time.Millisecond)
	result, err := d.SignIn(ctx, d.profile, codes(fakeCode))
	if err != nil || result.Generation != 1 || len(result.Warnings) != 1 {
		t.Errorf("%+v, %v; want it kept with a warning", result, err)
	}
}

// A login whose access token has expired by the time the shell ends may still be
// a good one.
func TestExpiredAccessTokenIsNotAskedAbout(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) {
		cfg.Agent = script(t, `link; ask; save`)
		cfg.Now = func() time.Time { return time.Date(2110, 1, 1, 0, 0, 0, 0, time.UTC) }
		cfg.Accepted = func(context.Context, secret.Text) (bool, error) { return false, nil }
	})
	ui := &steps{owner: codes(fakeCode)}
	if _, err := d.SignIn(t.Context(), d.profile, ui); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(ui.seen, login.StepChecking) {
		t.Errorf("steps %q", ui.seen)
	}
}

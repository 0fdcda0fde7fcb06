package login_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
)

// These tests are about a CLI that misbehaves, so a script stands in for it.

func TestSignInWithAStubbornCLI(t *testing.T) {
	for _, c := range []struct {
		name, body string
		kind       error // nil: only the message counts
		message    string
		hangs      string // where: "link" or "exchange"
	}{
		{"ends at once", `echo "error: unknown command 'auth'"; exit 1`, nil, "unknown command 'auth'", ""},
		{"ends at once, content", `exit 0`, nil, "before there was a code", ""},
		{"fails before the code", `echo "Couldn't log in: no network"; exit 1`, nil, "no network", ""},
		{"prints no link", `echo hello; exec sleep 100`, nil, "printed no link", "link"},
		{"prints garbage for ever", `exec yes $(printf '\033]8;;https://')`, nil, "printed no link", "link"},
		{"ignores SIGTERM", `trap '' TERM; echo hello; while :; do sleep 1; done`, nil, "printed no link", "link"},
		{"takes the code and says nothing", `link; ask; exec sleep 100`, nil, "did not get a login", "exchange"},
		{"succeeds without a login", `link; ask; echo 'Login successful.'`, hub.ErrNotFound, "without a login", ""},
		{"blanks the login", `link; ask; save; printf '{"claudeAiOauth":{"accessToken":"","expiresAt":4102444800000}}' >"$CLAUDE_CONFIG_DIR/.credentials.json"`, hub.ErrInvalid, "blanked", ""},
		{"writes half a login", `link; ask; save; printf '{"claudeAiOauth":{"acc' >"$CLAUDE_CONFIG_DIR/.credentials.json"; kill -9 $$`, nil, "before the sign-in was complete", ""},
		{"writes a login for everybody to read", `link; ask; save; chmod 644 "$CLAUDE_CONFIG_DIR/.credentials.json"`, hub.ErrInvalid, "open to other users", ""},
		{"dies at the prompt", `link; printf 'Paste code here if prompted > '; kill -9 $$`, nil, "ended before there was a code", ""},
		{"dies after the code", `link; ask; kill -9 $$`, nil, "signal: killed", ""},
		{"never likes a code", `link; while :; do ask; done`, hub.ErrRefused, "does not take that for a code", ""},
		{"refuses each code", `link; ask; echo "Couldn't log in: That code was not accepted."; exit 1`, hub.ErrRefused, "not accepted", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, c.body) })
			link, exchange := patienceInTests, patienceInTests
			switch c.hangs {
			case "link":
				link = time.Second
			case "exchange":
				exchange = time.Second
			}
			d.SetPatience(link, exchange, time.Second)
			ui := &owner{code: func(ctx context.Context, _ string) (string, error) {
				if c.name == "dies at the prompt" {
					<-ctx.Done()
				}
				return fakeCode, nil
			}}
			_, err := d.SignIn(t.Context(), d.profile, ui)
			if err == nil || !strings.Contains(err.Error(), c.message) || c.kind != nil && !errors.Is(err, c.kind) {
				t.Errorf("error = %v; want %v, %q", err, c.kind, c.message)
			}
			if err != nil && (strings.Contains(err.Error(), "fakecode") || hub.HintOf(err) == "") {
				t.Errorf("error = %v with hint %q; want no code in it, and a hint", err, hub.HintOf(err))
			}
			d.wantNothing()
		})
	}
}

func TestSignInTakesWhatADyingCLIHasWritten(t *testing.T) {
	for name, body := range map[string]string{
		"killed after it wrote":          `link; ask; save; kill -9 $$`,
		"hangs after it wrote":           `link; ask; save; exec sleep 100`,
		"leaves a child on the terminal": `link; ask; save; sleep 100 & exit 0`,
		"leaves locks behind":            `link; ask; mkdir "$CLAUDE_CONFIG_DIR/.claude.json.lock"; cp /dev/null "$CLAUDE_CONFIG_DIR/.credentials.json.tmp.1"; save`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, `echo '{}' >"$CLAUDE_CONFIG_DIR/.claude.json"; `+body) })
			d.SetPatience(patienceInTests, patienceInTests, time.Second)
			if _, err := d.SignIn(t.Context(), d.profile, codes(fakeCode)); err != nil {
				t.Fatal(err)
			}
			if _, c := d.login(); c.Subscription != "max" {
				t.Errorf("subscription %q", c.Subscription)
			}
			if got := strings.Join(tree(t, d.snapshot()), " "); got != ".claude.json" {
				t.Errorf("the snapshot holds %q", got)
			}
			d.wantNoScratch()
		})
	}
}

// Once the login is written, a cancelled sign-in is finished; before, it leaves
// nothing.
func TestCancelIsAllOrNothing(t *testing.T) {
	for _, c := range []struct {
		name, body string
		complete   bool
	}{
		{"before the link", `touch "$HOME/here"; exec sleep 100`, false},
		{"before the link, deaf", `trap '' TERM HUP INT; touch "$HOME/here"; while :; do sleep 1; done`, false},
		{"before the login", `link; ask; touch "$HOME/here"; exec sleep 100`, false},
		{"with an empty file", `link; ask; printf '{}' >"$CLAUDE_CONFIG_DIR/.credentials.json"; touch "$HOME/here"; exec sleep 100`, false},
		{"after the login", `link; ask; save; touch "$HOME/here"; exec sleep 100`, true},
		{"while it ends", `trap 'save; exit 1' TERM; link; ask; touch "$HOME/here"; while :; do sleep 0.01; done`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, c.body) })
			d.SetPatience(patienceInTests, patienceInTests, time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := d.SignIn(ctx, d.profile, codes(fakeCode))
				done <- err
			}()
			eventually(t, "the stage", func() bool {
				select {
				case err := <-done:
					t.Fatalf("the sign-in ended before: %v", err)
				default:
				}
				found, _ := filepath.Glob(filepath.Join(d.dir, "login", "*", "home", "here"))
				return len(found) > 0
			})
			cancel()
			err := <-done
			if c.complete {
				if err != nil {
					t.Fatalf("the login was there, but the sign-in failed: %v", err)
				}
				d.login()
				d.wantNoScratch()
				return
			}
			if !errors.Is(err, hub.ErrCancelled) {
				t.Errorf("error = %v; want ErrCancelled", err)
			}
			d.wantNothing()
		})
	}
}

func TestSignInTimesOut(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) {
		cfg.Agent = script(t, `link; ask`)
		cfg.Timeout = 300 * time.Millisecond
	})
	ui := &owner{code: func(ctx context.Context, _ string) (string, error) {
		<-ctx.Done()
		return "", ctx.Err()
	}}
	_, err := d.SignIn(t.Context(), d.profile, ui)
	if !errors.Is(err, hub.ErrCancelled) || !strings.Contains(err.Error(), "no code came within 300ms") || hub.HintOf(err) == "" {
		t.Errorf("error = %v with hint %q", err, hub.HintOf(err))
	}
	d.wantNothing()
}

// A code that cannot be for this sign-in never reaches the CLI, and the same
// link stays good.
func TestCodeForAnotherSignInIsAskedForAgain(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) {
		cfg.Agent = script(t, `link; ask; [ "$CODE" = '`+fakeCode+`' ] && save`)
	})
	ui := codes("fakecode#otherstate", "fakecode", fakeCode)
	if _, err := d.SignIn(t.Context(), d.profile, ui); err != nil {
		t.Fatal(err)
	}
	if len(ui.links) != 1 || len(ui.troubles) != 2 || !strings.Contains(ui.troubles[0], "another sign-in") || !strings.Contains(ui.troubles[1], "whole code") {
		t.Errorf("links %q, troubles %q", ui.links, ui.troubles)
	}
}

func TestTriesAreBounded(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, `link; ask; save`) })
	ui := codes("a", "b", "c", fakeCode)
	if _, err := d.SignIn(t.Context(), d.profile, ui); !errors.Is(err, hub.ErrInvalid) || len(ui.troubles) != 2 {
		t.Errorf("error = %v after troubles %q; want the third bad code to end it", err, ui.troubles)
	}
	d.wantNothing()
}

// The CLI sees a home of its own and nothing that holds or outranks a login.
func TestCLISeesAScratchHomeOnly(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	d := newDesk(t, func(cfg *login.Config) {
		cfg.Agent = script(t, `link; ask; { env; pwd; stat -c %a "$HOME"; echo "$@"; } >`+seen+`; save`)
		cfg.Environ = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "CLAUDE_CONFIG_DIR=/nonexistent", "ANTHROPIC_API_KEY=sk-ant-api03-fake",
			"CLAUDE_CODE_OAUTH_TOKEN=sk-ant-oat01-fake", "BROWSER=/nonexistent", "HTTPS_PROXY=http://127.0.0.1:9", "NODE_OPTIONS=--require=x",
		}
	})
	if _, err := d.SignIn(t.Context(), d.profile, codes(fakeCode)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	got := string(b)
	home := filepath.Join(d.dir, "login", "signin-")
	for _, want := range []string{"HOME=" + home, "CLAUDE_CONFIG_DIR=" + home, "HTTPS_PROXY=http://127.0.0.1:9", "\n" + home, "\n700\nauth login --claudeai\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the CLI does not see %q:\n%s", want, got)
		}
	}
	for _, banned := range []string{"nonexistent", "fake", "NODE_OPTIONS"} {
		if strings.Contains(got, banned) {
			t.Errorf("the CLI sees %q:\n%s", banned, got)
		}
	}
}

// A home whose process is gone is removed by the next sign-in; one that is in
// use is not.
func TestDeadHomesAreSweptAndLiveOnesAreNot(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, `link; ask; save`) })
	dead := filepath.Join(d.dir, "login", "signin-dead", ".claude", ".credentials.json")
	write(t, dead, fakeLogin, 0o600)
	mine := filepath.Join(d.dir, "login", "notes")
	write(t, mine, "", 0o600)

	other := hub.Profile{ID: "p-other", Name: "other", Created: time.Now()}
	if err := d.vault.CreateProfile(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	waiting, resume := make(chan struct{}), make(chan struct{})
	first := &owner{code: func(context.Context, string) (string, error) {
		close(waiting)
		<-resume
		return fakeCode, nil
	}}
	done := make(chan error, 1)
	go func() {
		_, err := d.SignIn(context.Background(), d.profile, first)
		done <- err
	}()
	<-waiting
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead sign-in's home is still there: %v", err)
	}
	if _, err := d.SignIn(t.Context(), other, codes(fakeCode)); err != nil {
		t.Errorf("the second sign-in: %v", err)
	}
	close(resume)
	if err := <-done; err != nil {
		t.Errorf("the first sign-in was swept away: %v", err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("a file of somebody else is gone: %v", err)
	}
}

// Two sign-ins to one profile would each take the other's login for the old one:
// the second says so, and touches nothing.
func TestOneSignInAtATimePerProfile(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, `link; ask; save`) })
	waiting, resume := make(chan struct{}), make(chan struct{})
	first := &owner{code: func(context.Context, string) (string, error) {
		close(waiting)
		<-resume
		return fakeCode, nil
	}}
	done := make(chan error, 1)
	go func() {
		_, err := d.SignIn(context.Background(), d.profile, first)
		done <- err
	}()
	<-waiting
	second := codes(fakeCode)
	_, err := d.SignIn(t.Context(), d.profile, second)
	if !errors.Is(err, hub.ErrLocked) || !strings.Contains(err.Error(), "already") || hub.HintOf(err) == "" || len(second.links) > 0 {
		t.Errorf("the second sign-in: %v with hint %q, links %q; want ErrLocked before any link", err, hub.HintOf(err), second.links)
	}
	close(resume)
	if err := <-done; err != nil {
		t.Errorf("the first sign-in: %v", err)
	}
	d.wantNoScratch() // nor a lock
	if _, err := d.SignIn(t.Context(), d.profile, codes(fakeCode)); err != nil {
		t.Errorf("a sign-in after the first: %v", err)
	}
	if g := d.generation(hub.KindLogin); g != 2 {
		t.Errorf("generation %d after two sign-ins", g)
	}
}

func TestScratchParentIsPrivate(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, `link; ask; save`) })
	parent := filepath.Join(d.dir, "login")
	if err := os.Mkdir(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(parent, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SignIn(t.Context(), d.profile, codes(fakeCode)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(parent); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v; want 0700", info.Mode(), err)
	}

	other := newDesk(t, func(cfg *login.Config) {
		cfg.Agent = script(t, `link; ask; save`)
		if err := os.Symlink(t.TempDir(), cfg.Dir); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := other.SignIn(t.Context(), other.profile, codes(fakeCode)); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("a linked scratch directory: error = %v; want ErrInvalid", err)
	}
}

func TestSignInWithoutACLI(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) { cfg.Agent = "/nonexistent/claude" })
	_, err := d.SignIn(t.Context(), d.profile, codes())
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(hub.HintOf(err), "agent install") {
		t.Errorf("error = %v with hint %q", err, hub.HintOf(err))
	}
	d.wantNothing()
}

func TestNewRefusesHalfAConfiguration(t *testing.T) {
	if _, err := login.New(login.Config{}); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("error = %v; want ErrInvalid", err)
	}
}

package login_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

const shellPrompt = "sign-in$ "

// startShell starts `claude-hub login --shell` in a place.
func startShell(t *testing.T, d *desk, place, claude string, environ []string) *tty {
	t.Helper()
	c := startChild(t, d, "shell", claude, append(environ, placeEnviron(t, place)...))
	c.see("This is a clean shell")
	c.see(shellPrompt)
	return c
}

// placeEnviron tells a child where the CLI is to run.
func placeEnviron(t *testing.T, place string) []string {
	t.Helper()
	if place == "here" {
		return nil
	}
	return []string{"LOGIN_TEST_PLACE=" + place, "LOGIN_TEST_ENGINE=" + engineFor(t, place)}
}

// inPlaces runs a test in each place that a sign-in can be in.
func inPlaces(t *testing.T, test func(t *testing.T, place string)) {
	t.Run("here", func(t *testing.T) { test(t, "here") })
	inBoxes(t, test)
}

// A person signs in by hand with the real CLI, drags the window, and leaves.
func TestShellSignsInByHand(t *testing.T) {
	inPlaces(t, func(t *testing.T, place string) {
		sim := platform(t, simulator.Config{})
		d := newDesk(t, nil)
		c := startShell(t, d, place, hubtest.Claude(t), sim.Environ())
		before := c.modes()
		c.resize(30, 1000)
		c.enter(`until [ "$(stty size)" = "30 1000" ]; do sleep 0.02; done; echo re""sized` + "\r")
		c.see("resized\r\n")
		c.enter("claude auth login --claudeai\r")
		c.see("Paste code here if prompted")
		code, err := sim.Approve(t.Context(), c.anyLink())
		if err != nil {
			t.Fatalf("%v\n%q", err, c.screen())
		}
		c.enter(code + "\r")
		c.seeAfter("Login successful.", shellPrompt) // before that the CLI may read what is typed
		c.enter("echo '{}' >~/.claude/settings.json; exit 7\r")
		c.see("captured generation 1")
		if exit := c.exit(); exit != 0 {
			t.Errorf("exit %d", exit)
		}
		if after := c.modes(); after == before {
			t.Error("the terminal is still in raw mode")
		}
		if _, creds := d.login(); !sim.Live(creds.AccessToken.Reveal()) {
			t.Error("what was captured is no live login")
		}
		if names := strings.Join(tree(t, d.snapshot()), " "); !strings.Contains(names, "settings.json") || !strings.Contains(names, ".claude.json") {
			t.Errorf("the snapshot holds %q", names)
		}
		d.wantNoScratch()
		d.wantNoProcess()
	})
}

// anyLink waits for the CLI's link on the screen.
func (c *tty) anyLink() string {
	c.t.Helper()
	c.see("https://")
	_, rest, _ := strings.Cut(c.screen(), "https://")
	end := strings.IndexAny(rest, "\x07\x1b\r\n ")
	if end < 0 {
		c.t.Fatalf("no whole link on the screen: %q", c.screen())
	}
	return "https://" + rest[:end]
}

// Each way out of the shell captures the login that is there, all of it; without
// one, nothing changes, and that is said.
func TestLeavingTheShellIsAllOrNothing(t *testing.T) {
	ways := map[string]func(c *tty){
		"exit":            func(c *tty) { c.enter("exit\r") },
		"exit 3":          func(c *tty) { c.enter("exit 3\r") },
		"Ctrl-D":          func(c *tty) { c.enter("\x04") },
		"shell is killed": func(c *tty) { c.enter("kill -9 $$\r") },
		"SIGINT":          func(c *tty) { c.cmd.Process.Signal(os.Interrupt) },
		"SIGTERM":         func(c *tty) { c.cmd.Process.Signal(syscall.SIGTERM) },
		"SIGHUP":          func(c *tty) { c.cmd.Process.Signal(syscall.SIGHUP) },
		"closed terminal": func(c *tty) { c.close() },
	}
	inPlaces(t, func(t *testing.T, place string) {
		for name, leave := range ways {
			for with, signedIn := range map[string]bool{" with a login": true, " without a login": false} {
				t.Run(name+with, func(t *testing.T) {
					t.Parallel()
					leaveShell(t, place, leave, signedIn, name == "closed terminal")
				})
			}
		}
	})
}

func leaveShell(t *testing.T, place string, leave func(*tty), signedIn, silent bool) {
	d := newDesk(t, nil)
	old := strings.ReplaceAll(fakeLogin, "fake-refresh", "fake-old")
	if _, err := d.vault.Commit(t.Context(), d.profile.ID, hub.KindLogin, 0, []byte(old)); err != nil {
		t.Fatal(err)
	}
	c := startShell(t, d, place, script(t, `echo '{}' >"$CLAUDE_CONFIG_DIR/.claude.json"; save; echo signed in`), nil)
	if signedIn {
		c.enter("claude\r")
		c.seeAfter("signed in\r\n", shellPrompt) // a key that comes before the shell listens may be lost
	}
	leave(c)
	exit := c.exit()
	record, creds := d.login()
	if signedIn {
		if exit != 0 || record.Generation != 2 || creds.RefreshToken.Reveal() != "sk-ant-ort01-fake-refresh" || d.generation(hub.KindSnapshot) != 1 {
			t.Errorf("exit %d, generation %d; want the new login\n%s", exit, record.Generation, c.screen())
		}
	} else {
		if exit != 2 || record.Generation != 1 || string(record.Payload) != old {
			t.Errorf("exit %d, generation %d; want the old login and 2, cancelled\n%s", exit, record.Generation, c.screen())
		}
		if !silent {
			c.see("nothing was captured")
			c.see("the login that the profile has stays as it was (generation 1)")
		}
	}
	d.wantNoScratch()
	d.wantNoProcess()
}

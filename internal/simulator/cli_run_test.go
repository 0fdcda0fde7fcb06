package simulator_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/simulator"
)

func TestCLIEditsFilesByScript(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := newCLI(t, s)
	c.write(s.SignIn(simulator.SignIn{}).Credentials)
	out, err := c.run(`Please do this:
simulate: say "I start."
simulate: write hello.txt "hello\nworld\n"
simulate: read hello.txt
simulate: edit hello.txt "world" "there"
simulate: bash "cat hello.txt"
simulate: report
`, "-p", "--output-format", "json", "--permission-mode", "acceptEdits", "--allowedTools", "Bash")
	if err != nil || !bytes.Contains(out, []byte(`"result":"hello\nthere\n"`)) {
		t.Errorf("claude -p: %v: %s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(c.home, "hello.txt")); string(b) != "hello\nthere\n" {
		t.Errorf("hello.txt: %q %v", b, err)
	}
	if n := s.Counters(); n.ToolUses != 4 || n.Answered != 5 {
		t.Errorf("counters: %+v", n)
	}
}

func TestCLIRefreshesWhenItsAccessTokenDies(t *testing.T) {
	for name, kill := range map[string]func(*simulator.Simulator, simulator.Login){
		"dead":    func(s *simulator.Simulator, l simulator.Login) { s.RevokeAccess(l.AccessToken) },
		"expired": func(s *simulator.Simulator, _ simulator.Login) { s.ExpireAccess() },
		"403 revoked": func(s *simulator.Simulator, _ simulator.Login) {
			s.Inject(simulator.Fault{Endpoint: simulator.EndpointMessages, Kind: simulator.FaultRevoked, Times: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := start(t, simulator.Config{})
			c := newCLI(t, s)
			l := s.SignIn(simulator.SignIn{})
			c.write(l.Credentials)
			kill(s, l)
			out, err := c.run("hi", "-p", "--output-format", "json")
			if n := s.Counters(); err != nil || n.Rotations != 1 || n.Answered == 0 {
				t.Errorf("claude -p: %v: %s: %+v", err, out, n)
			}
		})
	}
}

func TestCLIRotatesUnderShortExpiry(t *testing.T) {
	s, _ := start(t, simulator.Config{AccessTTL: 2 * time.Second})
	c := newCLI(t, s)
	c.write(s.SignIn(simulator.SignIn{}).Credentials)
	out, err := c.run("simulate: bash \"sleep 2.1\"\nsimulate: bash \"sleep 2.1\"\nsimulate: say \"through\"",
		"-p", "--output-format", "json", "--allowedTools", "Bash")
	if n := s.Counters(); err != nil || !bytes.Contains(out, []byte("through")) || n.Rotations < 3 || n.SpentReplays != 0 {
		t.Errorf("claude -p: %v: %s: %+v", err, out, n)
	}
}

func TestCLISaysThatThePlanIsUsedUp(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	s.SetWindows(simulator.Windows{FiveHour: simulator.Window{Utilization: 1}})
	c := newCLI(t, s)
	c.write(s.SignIn(simulator.SignIn{}).Credentials)
	out, err := c.run("hi", "-p", "--output-format", "json")
	if err == nil || !bytes.Contains(out, []byte("hit your 5-hour limit")) || s.Counters().Messages != 1 {
		t.Errorf("claude -p: %v: %s", err, out)
	}
}

func TestCLIGoesOnAfterACutStream(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	s.Inject(simulator.Fault{Endpoint: simulator.EndpointMessages, Kind: simulator.FaultCutStream, After: 3, Times: 1})
	c := newCLI(t, s)
	c.write(s.SignIn(simulator.SignIn{}).Credentials)
	out, err := c.run("hi", "-p", "--output-format", "json")
	if n := s.Counters(); err != nil || n.Faults != 1 || n.Messages < 2 {
		t.Errorf("claude -p: %v: %s: %+v", err, out, n)
	}
}

// What the seed's way comes to: each run starts from a copy of the login and
// throws the copy away.
func TestCLIOnACopiedLoginLosesIt(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	captured := s.SignIn(simulator.SignIn{AccessTTL: -time.Minute}).Credentials
	for run, want := range []bool{true, false} {
		c := newCLI(t, s)
		c.write(captured)
		out, err := c.run("hi", "-p", "--output-format", "json")
		if (err == nil) != want {
			t.Errorf("run %d: %v: %s", run, err, out)
		}
	}
	if n := s.Counters(); n.SpentReplays == 0 || n.FamiliesRevoked != 1 {
		t.Errorf("counters: %+v", n)
	}
}

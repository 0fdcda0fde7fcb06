package login_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// realLink is as long as the CLI's.
const realLink = "https://claude.com/cai/oauth/authorize?code=true&client_id=00000000-0000-0000-0000-00000000fake&response_type=code" +
	"&redirect_uri=https%3A%2F%2Fplatform.claude.com%2Foauth%2Fcode%2Fcallback&scope=org%3Acreate_api_key+user%3Aprofile+user%3Ainference" +
	"+user%3Asessions%3Aclaude_code+user%3Amcp_servers+user%3Afile_upload+user%3Aplugins+user%3Aprivacy_consents%3Awrite+org%3Adesktop_config" +
	"&code_challenge=fakefakefakefakefakefakefakefakefakefakefake&code_challenge_method=S256&state=fakefakefakefakefakefakefakefakefakefakefak"

const pastePrompt = "Paste the code"

// The whole sign-in as a person sees it: link, QR code, prompt, result.
func TestSignInAtATerminal(t *testing.T) {
	sim := platform(t, simulator.Config{})
	d := newDesk(t, nil)
	c := startChild(t, d, "sign-in", hubtest.Claude(t), sim.Environ())
	link := c.link()
	c.see(pastePrompt)
	if qr := strings.ReplaceAll(login.QR(link), "\n", "\r\n"); !strings.Contains(c.screen(), qr) {
		t.Error("the QR code is not on the screen")
	}
	code, err := sim.Approve(t.Context(), link)
	if err != nil {
		t.Fatal(err)
	}
	c.enter(code + "\r")
	c.see("captured generation 1")
	if exit := c.exit(); exit != 0 {
		t.Errorf("exit %d", exit)
	}
	if _, creds := d.login(); !sim.Live(creds.AccessToken.Reveal()) {
		t.Error("what was captured is no live login")
	}
	d.wantNoScratch()
	d.wantNoProcess()
}

// A code that a narrow window has broken comes in several lines; one try is spent
// on it, and nothing of it is left for the next prompt.
func TestBrokenPasteIsOneCode(t *testing.T) {
	d := newDesk(t, nil)
	c := startChild(t, d, "sign-in", script(t, `link; ask; [ "$CODE" = '`+fakeCode+`' ] && save`), nil)
	c.see(pastePrompt)
	half := len(fakeCode) / 2
	c.enter("\"" + fakeCode[:4] + "\r" + fakeCode[4:half] + "\r" + fakeCode[half:] + "\"\r")
	c.see("captured generation 1")
	if strings.Contains(c.screen(), "whole code") {
		t.Errorf("the parts were taken for codes:\n%s", c.screen())
	}
}

// A code that would not fit the window is not drawn in half.
func TestQRCodeFitsTheWindow(t *testing.T) {
	for _, c := range []struct {
		rows, columns uint16
		want          string
	}{{60, 81, login.QR(realLink)}, {60, 80, "Or scan it:"}, {60, 78, "there would be a QR code"}, {24, 200, "window of 81 by 42"}} {
		d := newDesk(t, nil)
		stub := script(t, `printf 'visit:\r\n%s\r\n' '`+realLink+`'; ask`)
		tty := startChildIn(t, c.rows, c.columns, d, "sign-in", stub, nil)
		tty.see(pastePrompt)
		if !strings.Contains(tty.screen(), strings.ReplaceAll(c.want, "\n", "\r\n")) {
			t.Errorf("%d by %d: %q is not on the screen:\n%s", c.columns, c.rows, c.want, tty.screen())
		}
	}
}

// Each way to leave a terminal, at the prompt and during the exchange.
func TestLeavingTheTerminalIsAllOrNothing(t *testing.T) {
	for _, stage := range []struct {
		name  string
		fault simulator.FaultKind
	}{{"at the prompt", ""}, {"during the exchange", simulator.FaultHang}} {
		for name, leave := range map[string]func(c *tty){
			"SIGINT":          func(c *tty) { c.cmd.Process.Signal(syscall.SIGINT) },
			"SIGTERM":         func(c *tty) { c.cmd.Process.Signal(syscall.SIGTERM) },
			"SIGHUP":          func(c *tty) { c.cmd.Process.Signal(syscall.SIGHUP) },
			"Ctrl-C":          func(c *tty) { c.enter("\x03") },
			"closed terminal": func(c *tty) { c.close() },
		} {
			t.Run(name+" "+stage.name, func(t *testing.T) {
				reached := make(chan struct{})
				sim := platform(t, simulator.Config{Observe: func(e simulator.Endpoint, _ *http.Request) {
					if e == simulator.EndpointToken {
						close(reached)
					}
				}})
				d := newDesk(t, nil)
				c := startChild(t, d, "sign-in", hubtest.Claude(t), sim.Environ())
				c.see(pastePrompt)
				if stage.fault != "" {
					sim.Inject(simulator.Fault{Endpoint: simulator.EndpointToken, Kind: stage.fault})
					code, err := sim.Approve(t.Context(), c.link())
					if err != nil {
						t.Fatal(err)
					}
					c.enter(code + "\r")
					<-reached
				}
				leave(c)
				if exit := c.exit(); exit != 2 {
					t.Errorf("exit %d; want 2, cancelled\n%s", exit, c.screen())
				}
				d.wantNothing()
				d.wantNoProcess()
			})
		}
	}
}

// A hub that is killed outright leaves a home behind; its CLI dies with the
// terminal, and the next sign-in removes the home.
func TestKilledHubIsSweptUpAfter(t *testing.T) {
	sim := platform(t, simulator.Config{})
	d := realDesk(t, sim)
	c := startChild(t, d, "sign-in", hubtest.Claude(t), sim.Environ())
	c.see(pastePrompt)
	c.cmd.Process.Kill()
	c.exit()
	d.wantNoProcess()
	if homes, err := filepath.Glob(filepath.Join(d.dir, "login", "signin-*")); err != nil || len(homes) != 1 {
		t.Fatalf("homes %v, %v; want the dead one", homes, err)
	}
	if _, err := d.SignIn(t.Context(), d.profile, approving(sim)); err != nil {
		t.Fatal(err)
	}
	d.wantNoScratch()
}

// screenProgram stands in for the CLI's full-screen program: it shows its window
// size at each key, prints a token at "q", and fails at Ctrl-C.
const screenProgram = `stty raw -echo
printf '\033[?2004h\033[?25lwelcome\r\n'
while :; do
	key=$(dd bs=1 count=1 2>/dev/null)
	case "$key" in
	q) printf 'your token: ` + fakeSetup + `\r\n'; exit 0 ;;
	s) printf 'size %s\r\n' "$(stty size)" ;;
	` + "\x03" + `) exit 130 ;;
	*) printf 'key <%s>\r\n' "$key" ;;
	esac
done
`

const (
	fakeSetup   = "sk-ant-oat01-fake-setup-0123456789"
	tokenPrompt = "Paste the token"
)

func TestSetupTokenPassesTheScreenThrough(t *testing.T) {
	inPlaces(t, passScreenThrough)
}

func passScreenThrough(t *testing.T, place string) {
	d := newDesk(t, nil)
	c := startChild(t, d, "setup-token", script(t, screenProgram), placeEnviron(t, place))
	before := c.modes()
	c.see("welcome")
	c.enter("s")
	c.see("size 60 250\r\n")
	c.resize(30, 90)
	eventually(t, "the new size", func() bool {
		c.enter("s")
		return strings.Contains(c.screen(), "size 30 90\r\n")
	})
	c.enter("z")
	c.see("key <z>")
	c.enter("q")
	c.see("your token: " + fakeSetup)
	c.see(tokenPrompt)
	if c.modes().Lflag&syscall.ECHO != 0 {
		t.Error("the token would be shown while it is pasted")
	}
	c.enter(fakeSetup + "\r")
	c.see("captured generation 1")
	if exit := c.exit(); exit != 0 {
		t.Errorf("exit %d", exit)
	}
	if after := c.modes(); after != before {
		t.Errorf("the terminal was left with other settings: %+v, was %+v", after, before)
	}
	_, asked, _ := strings.Cut(c.screen(), tokenPrompt)
	if strings.Contains(asked, "fake") {
		t.Errorf("the token was shown when it was pasted: %q", asked)
	}
	if passed, _, _ := strings.Cut(c.screen(), tokenPrompt); !strings.Contains(passed, "\x1b[?2004l") || !strings.Contains(passed, "\x1b[?25h") {
		t.Error("the terminal's modes are not reset")
	}
	record, err := d.vault.Latest(t.Context(), d.profile.ID, hub.KindSetupToken)
	if err != nil {
		t.Fatal(err)
	}
	token, err := agent.ParseSetupToken(record.Payload)
	if err != nil || token.Token.Reveal() != fakeSetup || !token.Expires.Equal(token.Created.AddDate(1, 0, 0)) {
		t.Errorf("token %+v, %v", token, err)
	}
	d.wantNoScratch()
	d.wantNoProcess()
}

func TestLeavingTheSetupTokenScreenLeavesNothing(t *testing.T) {
	for name, leave := range map[string]func(c *tty){
		"Ctrl-C goes to the CLI": func(c *tty) { c.enter("\x03") },
		"SIGTERM":                func(c *tty) { c.cmd.Process.Signal(syscall.SIGTERM) },
		"closed terminal":        func(c *tty) { c.close() },
		"nothing pasted":         func(c *tty) { c.enter("q"); c.see(tokenPrompt); c.enter("\r") },
		"Ctrl-C at the prompt":   func(c *tty) { c.enter("q"); c.see(tokenPrompt); c.enter("\x03") },
		"Ctrl-D at the prompt":   func(c *tty) { c.enter("q"); c.see(tokenPrompt); c.enter("\x04") },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, nil)
			c := startChild(t, d, "setup-token", script(t, screenProgram), nil)
			before := c.modes()
			c.see("welcome")
			leave(c)
			if exit := c.exit(); exit != 2 {
				t.Errorf("exit %d; want 2, cancelled\n%s", exit, c.screen())
			}
			if name != "closed terminal" {
				if after := c.modes(); after != before {
					t.Errorf("the terminal was left with other settings: %+v, was %+v", after, before)
				}
			}
			if g := d.generation(hub.KindSetupToken); g != 0 {
				t.Errorf("a token of generation %d", g)
			}
			d.wantNoScratch()
			d.wantNoProcess()
		})
	}
}

// The token is shown once only: a wrong paste must not lose it.
func TestWrongSetupTokenIsAskedForAgain(t *testing.T) {
	for _, c := range []struct {
		wrong string
		times int
		exit  int
	}{{"not-a-token", 2, 0}, {"not-a-token", 3, 1}, {"first line\nsecond\nthird", 1, 0}} {
		d := newDesk(t, nil)
		tty := startChild(t, d, "setup-token", script(t, screenProgram), nil)
		before := tty.modes()
		tty.see("welcome")
		tty.enter("q")
		asked := func(times int) {
			t.Helper()
			eventually(t, "the prompt", func() bool { return strings.Count(tty.screen(), tokenPrompt) == times })
		}
		for i := range c.times {
			asked(i + 1)
			tty.enter(c.wrong + "\r")
		}
		if c.exit == 0 {
			asked(c.times + 1)
			tty.enter(fakeSetup + "\r")
			tty.see("captured generation 1")
		}
		if exit := tty.exit(); exit != c.exit {
			t.Errorf("%q %d times: exit %d; want %d\n%s", c.wrong, c.times, exit, c.exit, tty.screen())
		}
		tty.see("a setup token begins with sk-ant-oat…")
		if _, after, _ := strings.Cut(tty.screen(), tokenPrompt); strings.Contains(after, c.wrong) || strings.Contains(after, fakeSetup) {
			t.Errorf("what was pasted was shown: %q", after)
		}
		if after := tty.modes(); after != before {
			t.Errorf("the terminal was left with other settings: %+v, was %+v", after, before)
		}
		if got := d.generation(hub.KindSetupToken); got != hub.Generation(1-c.exit) {
			t.Errorf("%q %d times: a token of generation %d", c.wrong, c.times, got)
		}
	}
}

// The real program, with the test as the person who reads and pastes.
func TestSetupTokenOfTheRealCLI(t *testing.T) { inPlaces(t, realSetupToken) }

func realSetupToken(t *testing.T, place string) {
	sim := platform(t, simulator.Config{})
	d := newDesk(t, nil)
	c := startChild(t, d, "setup-token", hubtest.Claude(t), append(sim.Environ(), placeEnviron(t, place)...))
	c.resize(60, 1000) // so that the link is on one line
	c.see("https://")
	c.see("prompted")
	_, rest, _ := strings.Cut(c.screen(), ";https://")
	link, _, _ := strings.Cut(rest, "\a")
	code, err := sim.Approve(t.Context(), "https://"+link)
	if err != nil {
		t.Fatalf("%v\n%q", err, c.screen())
	}
	c.enter(code)
	c.see("*" + code[len(code)-6:]) // an Enter that comes with the code is taken for a part of it
	c.enter("\r")
	c.see("sk-ant-oat01-")
	c.see(tokenPrompt)
	token := "sk-ant-oat01-" + leadingToken(strings.SplitN(c.screen(), "sk-ant-oat01-", 2)[1])
	if !sim.Live(token) {
		t.Fatalf("%q is not the token", token)
	}
	c.enter(token + "\r")
	c.see("captured generation 1")
	if exit := c.exit(); exit != 0 {
		t.Errorf("exit %d", exit)
	}
	record, err := d.vault.Latest(t.Context(), d.profile.ID, hub.KindSetupToken)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := agent.ParseSetupToken(record.Payload); err != nil || got.Token.Reveal() != token {
		t.Errorf("kept %v, %v", got, err)
	}
	d.wantNoScratch()
}

func leadingToken(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-", r)
	})
	return s[:end]
}

package login_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/door"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// inBoxes runs a test in each kind of sandbox that a sign-in can be in.
func inBoxes(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range []string{"sandbox", "container"} {
		t.Run(kind, func(t *testing.T) { test(t, kind) })
	}
}

// engines are the container engines behind the kinds of sandboxes that have one.
var engines = map[string]string{"container": docker.KindDocker, "podman": docker.KindPodman}

// newDriver returns a driver of the kind; dir is the hub's directory, and engine
// the address of a container engine.
func newDriver(kind, dir, engine string) (sandbox.Driver, error) {
	if e, ok := engines[kind]; ok {
		return docker.New(docker.Config{
			Kind: e, Host: engine, Environ: []string{}, Image: hubtest.BaseImage,
			Dir: filepath.Join(dir, "containers"), Grace: 3 * time.Second,
		})
	}
	return bubblewrap.New(bubblewrap.Config{Grace: 3 * time.Second})
}

// engineFor returns the address of an engine for a kind of sandbox that needs one.
func engineFor(t *testing.T, kind string) string {
	t.Helper()
	if e, ok := engines[kind]; ok {
		return hubtest.Engine(t, e)
	}
	return ""
}

// newBox returns a place of the kind, whose way out leads through the proxy of
// the environment. refused gets what the door says no to.
func newBox(d sandbox.Driver, kind, agentPath string, environ []string, refused io.Writer) *login.Box {
	egress := func(socket string) (io.Closer, error) {
		cfg := door.Config{Allow: agent.PlatformAddresses, Log: slog.New(slog.NewTextHandler(refused, nil))}
		for _, kv := range environ {
			if proxy, ok := strings.CutPrefix(kv, "HTTPS_PROXY="); ok {
				upstream, err := url.Parse(proxy)
				if err != nil {
					return nil, err
				}
				cfg.Upstream = upstream
			}
		}
		d, err := door.New(cfg)
		if err != nil {
			return nil, err
		}
		return d, d.StartUnix(socket)
	}
	return &login.Box{Driver: d, Called: "in a " + kind, Agent: agentPath, Environ: environ, Egress: egress}
}

// boxDesk is a desk whose sign-ins happen in a sandbox of the kind.
func boxDesk(t *testing.T, kind, agentPath string, environ []string, change func(*login.Config)) (*desk, *lockedBuffer) {
	t.Helper()
	refused := &lockedBuffer{}
	return newDesk(t, func(cfg *login.Config) {
		driver, err := newDriver(kind, filepath.Dir(cfg.Dir), engineFor(t, kind))
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := driver.(interface{ Close() }); ok {
			t.Cleanup(c.Close)
		}
		cfg.Place = newBox(driver, kind, agentPath, environ, refused)
		if change != nil {
			change(cfg)
		}
	}), refused
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// accepts asks the simulator, as the hub asks the platform.
func accepts(sim *simulator.Simulator) func(context.Context, secret.Text) (bool, error) {
	return func(_ context.Context, token secret.Text) (bool, error) { return sim.Live(token.Reveal()), nil }
}

// steps is an owner who writes down each step.
type steps struct {
	*owner
	seen []string
}

func (s *steps) Progress(step string) { s.seen = append(s.seen, step) }

// The whole sign-in with the real CLI, which has no way out but the door.
func TestSignInInABox(t *testing.T) {
	for _, kind := range []string{"sandbox", "container", "podman"} {
		t.Run(kind, func(t *testing.T) {
			sim := platform(t, simulator.Config{})
			d, refused := boxDesk(t, kind, hubtest.Claude(t), sim.Environ(), func(cfg *login.Config) { cfg.Accepted = accepts(sim) })
			ui := &steps{owner: approving(sim)}
			result, err := d.SignIn(t.Context(), d.profile, ui)
			if err != nil {
				t.Fatal(err)
			}
			record, creds := d.login()
			if result.Generation != 1 || record.Generation != 1 || result.Subscription != "max" || len(result.Warnings) != 0 {
				t.Errorf("result = %+v", result)
			}
			if !sim.Live(creds.AccessToken.Reveal()) || creds.RefreshToken.IsZero() || creds.RateLimitTier == "" {
				t.Error("what was captured is no live and complete login")
			}
			if names := strings.Join(tree(t, d.snapshot()), " "); !strings.Contains(names, ".claude.json") {
				t.Errorf("the snapshot holds %q; want .claude.json in it", names)
			}
			if a := d.account(); a.Email != "owner@example.com" {
				t.Errorf("account %+v", a)
			}
			want := []string{login.StepStarting, login.StepLink, login.StepCode, login.StepExchange, login.StepChecking, login.StepCapturing, login.StepDone}
			if strings.Join(ui.seen, "\n") != strings.Join(want, "\n") {
				t.Errorf("steps %q; want %q", ui.seen, want)
			}
			if said := refused.String(); said != "" {
				t.Errorf("the CLI asked for what the door does not admit: %s", said)
			}
			if c := sim.Counters(); c.RefusedConnects != 0 || c.TokenRequests != 1 {
				t.Errorf("counters %+v", c)
			}
			d.wantNoScratch()
			d.wantNoContainer(kind)
		})
	}
}

// What a box shows of the machine: the CLI, the home, the way out.
func TestABoxIsCleanAndTight(t *testing.T) {
	inBoxes(t, func(t *testing.T, kind string) {
		t.Setenv("PLANTED", "sk-ant-oat01-fake-planted")
		claude := script(t, `{ env; echo "$@"; pwd; ls -a ~ /opt/claude-hub; ls /sys/class/net /proc/net 2>/dev/null; } >"$HOME/.claude/seen"; link; ask; save`)
		d, _ := boxDesk(t, kind, claude, append(os.Environ(), "ANTHROPIC_API_KEY=sk-ant-api03-fake", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=*"), nil)
		if _, err := d.SignIn(t.Context(), d.profile, codes(fakeCode)); err != nil {
			t.Fatal(err)
		}
		seen := d.snapshotFile("seen")
		for _, want := range []string{
			"HOME=/home/agent\n", "CLAUDE_CONFIG_DIR=/home/agent/.claude\n", "HTTPS_PROXY=http://127.0.0.1:47319\n", "BROWSER=true\n",
			"auth login --claudeai\n", "\n/home/agent\n",
		} {
			if !strings.Contains(seen, want) {
				t.Errorf("the CLI does not see %q:\n%s", want, seen)
			}
		}
		for _, banned := range []string{"fake-planted", "api03", "NO_PROXY", "eth0", d.dir} {
			if strings.Contains(seen, banned) {
				t.Errorf("the CLI sees %q:\n%s", banned, seen)
			}
		}
	})
}

// A link that what is inside leaves behind does not make the hub read a login, or
// anything else, that the inside could not see.
func TestLinksOutOfABoxAreNotFollowed(t *testing.T) {
	inPlaces(t, func(t *testing.T, place string) {
		for name, body := range map[string]string{
			"the directory": `rm -rf "$CLAUDE_CONFIG_DIR"; ln -s %s "$CLAUDE_CONFIG_DIR"`,
			"the file":      `ln -s %s/.credentials.json "$CLAUDE_CONFIG_DIR/.credentials.json"`,
		} {
			own := filepath.Join(t.TempDir(), ".claude")
			write(t, filepath.Join(own, ".credentials.json"), fakeLogin, 0o600)
			asked := false
			change := func(cfg *login.Config) {
				cfg.Accepted = func(context.Context, secret.Text) (bool, error) { asked = true; return true, nil }
			}
			claude := script(t, "link; ask; "+fmt.Sprintf(body, own))
			var d *desk
			if place == "here" {
				d = newDesk(t, func(cfg *login.Config) { cfg.Agent = claude; change(cfg) })
			} else {
				d, _ = boxDesk(t, place, claude, nil, change)
			}
			if _, err := d.SignIn(t.Context(), d.profile, codes(fakeCode)); !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" {
				t.Errorf("%s: error = %v with hint %q; want ErrInvalid", name, err, hub.HintOf(err))
			}
			if asked {
				t.Errorf("%s: the platform was asked about a login from elsewhere", name)
			}
			d.wantNothing()
		}
	})
}

// All that the CLI keeps is captured, not the login alone.
func TestWholeConfigDirectoryIsCaptured(t *testing.T) {
	inBoxes(t, func(t *testing.T, kind string) {
		d, _ := boxDesk(t, kind, script(t, `cd "$CLAUDE_CONFIG_DIR"
			for f in settings.json settings.local.json projects/-workspace/1.jsonl todos/1.json statsig/cached package.json .claude.json plugins/a/b/c; do
				mkdir -p "$(dirname $f)"; echo "{}" >$f
			done
			link; ask; save`), nil, nil)
		if _, err := d.SignIn(t.Context(), d.profile, codes(fakeCode)); err != nil {
			t.Fatal(err)
		}
		names := " " + strings.Join(tree(t, d.snapshot()), " ") + " "
		for _, want := range []string{"settings.json", "settings.local.json", "projects/-workspace/1.jsonl", "todos/1.json", "statsig/cached", "package.json", ".claude.json", "plugins/a/b/c"} {
			if !strings.Contains(names, " "+want+" ") {
				t.Errorf("%s was not captured: %s", want, names)
			}
		}
		if strings.Contains(names, "credentials") {
			t.Errorf("a credential is in the snapshot: %s", names)
		}
	})
}

// A CLI that misbehaves in a box, as on this machine.
func TestSignInInABoxWithAStubbornCLI(t *testing.T) {
	for _, c := range []struct {
		name, body string
		kind       error
		message    string
	}{
		{"ends at once", `echo "error: unknown command 'auth'"; exit 1`, nil, "unknown command 'auth'"},
		{"dies at the prompt", `link; printf 'Paste code here if prompted > '; kill -9 $$`, nil, "ended before there was a code (signal: SIGKILL)"},
		{"dies after the code", `link; ask; kill -9 $$`, nil, "signal: SIGKILL"},
		{"succeeds without a login", `link; ask; echo 'Login successful.'`, hub.ErrNotFound, "without a login"},
		{"writes half a login", `link; ask; printf '{"claudeAiOauth":{"acc' >"$CLAUDE_CONFIG_DIR/.credentials.json"; exit 1`, nil, "before the sign-in was complete"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBoxes(t, func(t *testing.T, kind string) {
				d, _ := boxDesk(t, kind, script(t, c.body), nil, nil)
				ui := codes(fakeCode)
				if c.name == "dies at the prompt" {
					ui = waiting()
				}
				_, err := d.SignIn(t.Context(), d.profile, ui)
				if err == nil || !strings.Contains(err.Error(), c.message) || c.kind != nil && !errors.Is(err, c.kind) {
					t.Errorf("error = %v; want %v, %q", err, c.kind, c.message)
				}
				d.wantNothing()
			})
		})
	}
}

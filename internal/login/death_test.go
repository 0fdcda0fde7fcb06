package login_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/moby/client"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// A sandbox whose sign-in is cancelled, or that somebody else stops or kills, at
// any stage: a complete capture or nothing.
func TestStrikesInABoxAreAllOrNothing(t *testing.T) {
	strikes := map[string]func(*testing.T, string, *desk, func()){
		"cancelled": func(_ *testing.T, _ string, _ *desk, cancel func()) { cancel() },
		"stopped":   func(t *testing.T, kind string, d *desk, _ func()) { d.fromOutside(t, kind, syscall.SIGTERM) },
		"killed":    func(t *testing.T, kind string, d *desk, _ func()) { d.fromOutside(t, kind, syscall.SIGKILL) },
	}
	inBoxes(t, func(t *testing.T, kind string) {
		claude := hubtest.Claude(t)
		for _, stage := range stages {
			for name, strike := range strikes {
				t.Run(name+" "+stage.name, func(t *testing.T) {
					t.Parallel()
					var last *desk
					struck(t, func(t *testing.T, sim *simulator.Simulator) *desk {
						last, _ = boxDesk(t, kind, claude, sim.Environ(), func(cfg *login.Config) { cfg.Accepted = accepts(sim) })
						return last
					}, stage.at, stage.kind, name != "cancelled", func(d *desk, cancel func()) { strike(t, kind, d, cancel) })
					last.wantNoProcess()
					last.wantNoContainer(kind)
				})
			}
		}
	})
}

// fromOutside ends d's sandbox as its owner's tools would: `docker stop` and
// `docker kill`, or a signal to its first process.
func (d *desk) fromOutside(t *testing.T, kind string, sig syscall.Signal) {
	if kind != "container" {
		for _, pid := range d.processes() {
			if strings.Contains(commandLine(pid), "sandbox-shim") && !strings.Contains(commandLine(pid), "bwrap") {
				syscall.Kill(pid, sig)
			}
		}
		return
	}
	engine, err := client.New(client.WithHost(engineFor(t, kind)))
	if err != nil {
		t.Error(err)
		return
	}
	defer engine.Close()
	for _, id := range d.containers(engine) {
		if sig == syscall.SIGTERM {
			_, err = engine.ContainerStop(t.Context(), id, client.ContainerStopOptions{})
		} else {
			_, err = engine.ContainerKill(t.Context(), id, client.ContainerKillOptions{})
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func commandLine(pid int) string {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline") // it may be gone
	return string(b)
}

// containers lists the containers of d's hub, those that have ended included.
func (d *desk) containers(engine *client.Client) []string {
	d.t.Helper()
	list, err := engine.ContainerList(context.Background(), client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", docker.LabelKind+"=sign-in"),
	})
	if err != nil {
		d.t.Error(err)
	}
	var ids []string
	for _, c := range list.Items {
		for _, m := range c.Mounts {
			if strings.HasPrefix(m.Source, d.dir+"/") {
				ids = append(ids, c.ID)
				break
			}
		}
	}
	return ids
}

func (d *desk) wantNoContainer(kind string) {
	d.t.Helper()
	if engines[kind] == "" {
		return
	}
	engine, err := client.New(client.WithHost(engineFor(d.t, kind)))
	if err != nil {
		d.t.Fatal(err)
	}
	defer engine.Close()
	if left := d.containers(engine); len(left) > 0 {
		d.t.Errorf("containers are left: %q", left)
	}
}

// The hub is killed outright while its sign-in is in a sandbox: nothing of that
// lives on, what it leaves is removed by the next one, and no login is captured.
func TestKilledHubTakesItsBoxAlong(t *testing.T) {
	inBoxes(t, func(t *testing.T, kind string) {
		for _, shell := range []bool{false, true} {
			sim := platform(t, simulator.Config{})
			d, _ := boxDesk(t, kind, hubtest.Claude(t), sim.Environ(), nil)
			var c *tty
			if shell {
				c = startShell(t, d, kind, script(t, `save; echo signed in`), nil)
				c.enter("claude\r")
				c.see("signed in\r\n")
			} else {
				c = startChild(t, d, "sign-in", hubtest.Claude(t), append(sim.Environ(), placeEnviron(t, kind)...))
				c.see(pastePrompt)
			}
			c.cmd.Process.Kill()
			c.exit()
			d.wantNoProcess()
			if homes, err := filepath.Glob(filepath.Join(d.dir, "login", "signin-*")); err != nil || len(homes) != 1 {
				t.Fatalf("homes %v, %v; want the dead one", homes, err)
			}
			if kind == "container" {
				driver, err := newDriver(kind, d.dir, engineFor(t, kind))
				if err != nil {
					t.Fatal(err)
				}
				engine := driver.(*docker.Driver)
				if n, err := engine.Sweep(t.Context()); err != nil || n > 1 {
					t.Errorf("Sweep: %d, %v", n, err)
				}
				engine.Close()
			}
			d.wantNoContainer(kind)
			if _, err := d.SignIn(t.Context(), d.profile, approving(sim)); err != nil {
				t.Fatal(err)
			}
			if g := d.generation(hub.KindLogin); g != 1 {
				t.Errorf("generation %d; want the second sign-in's alone", g)
			}
			d.wantNoScratch()
		}
	})
}

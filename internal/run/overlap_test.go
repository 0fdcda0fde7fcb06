package run_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
)

// A job must not be able to change what is mounted for another one.
func TestWorkspacesOfRunsUnderWayDoNotOverlap(t *testing.T) {
	f := newFixture(t)
	root, err := filepath.EvalSymlinks(f.workspace)
	if err != nil {
		t.Fatal(err)
	}
	inner, outer, beside := filepath.Join(root, "mono", "app"), root, filepath.Join(root, "mono2")
	for _, dir := range []string{inner, beside} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.workspace = filepath.Join(root, "mono")
	cmd, id, _ := f.start(t) // in another process
	try := func(dir string) hub.Run {
		t.Helper()
		req := f.request("succeed")
		req.Dir = dir
		r, _ := f.run(t, req)
		return r
	}
	for name, dir := range map[string]string{"inside": inner, "around": outer} {
		r := try(dir)
		if r.Verdict != hub.VerdictRefused || !strings.Contains(r.Reason, string(id)) || !strings.Contains(r.Reason, "wait until") {
			t.Errorf("%s: %s (%q); want it refused, and why", name, r.Verdict, r.Reason)
		}
	}
	if n := len(f.driver.boxes); n != 0 {
		t.Errorf("%d sandboxes were started", n)
	}
	for name, dir := range map[string]string{"the same": f.workspace, "beside": beside} {
		if r := try(dir); r.Verdict != hub.VerdictDone {
			t.Errorf("%s: %s (%q); want it done", name, r.Verdict, r.Reason)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	if r := try(inner); r.Verdict != hub.VerdictDone { // the dead one has no verdict yet
		t.Errorf("after the end: %s (%q); want it done", r.Verdict, r.Reason)
	}
}

// swappingGateway does what another job could: it puts a link in the place of the
// workspace after the first look at it.
type swappingGateway struct {
	*fakeGateway
	swap func()
}

func (g swappingGateway) Open(ctx context.Context, req run.GatewayRequest) (run.Endpoint, error) {
	g.swap()
	return g.fakeGateway.Open(ctx, req)
}

func TestTheWorkspaceIsLookedAtAgain(t *testing.T) {
	for name, target := range map[string]func(f *fixture) string{
		"the hub":           func(f *fixture) string { return f.dir },
		"another directory": func(f *fixture) string { return filepath.Dir(f.workspace) },
	} {
		t.Run(name, func(t *testing.T) {
			var f *fixture
			swap := func() {
				if err := os.Rename(f.workspace, f.workspace+"2"); err != nil {
					t.Error(err)
				}
				if err := os.Symlink(target(f), f.workspace); err != nil {
					t.Error(err)
				}
			}
			f = newFixture(t, func(c *run.Config) {
				c.Gateway = swappingGateway{c.Gateway.(*fakeGateway), swap}
			})
			r, _ := f.run(t, f.request("succeed"))
			if r.Verdict == hub.VerdictDone || !strings.Contains(r.Reason, "workspace") || len(f.driver.boxes) != 0 {
				t.Errorf("%s (%q), and %d sandboxes; want none", r.Verdict, r.Reason, len(f.driver.boxes))
			}
		})
	}
}

// What can't go on beside another run waits for its end.
func TestAParkedRunWaitsForTheWorkspace(t *testing.T) {
	p := newParking(t)
	p.refuse(hub.VerdictParked, p.at)
	req := p.request("succeed")
	req.Dir = filepath.Join(p.workspace, "app")
	if err := os.Mkdir(req.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	id := p.park(t, req, hub.ParkedForWindow).ID
	p.gateway.refuse = nil
	cmd, _, _ := p.start(t)
	if r, err := p.Resume(t.Context(), id); err == nil || r.Parked == nil || r.Attempts != 1 {
		t.Errorf("%+v, %v; want it parked", r, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := p.Resume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	p.ends(t, id, hub.VerdictDone)
}

package run_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/store"
)

func TestBadRequestsAreRefusedAndLeaveNothing(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home", "owner")
	tools := filepath.Join(t.TempDir(), "tools")
	for _, dir := range []string{filepath.Join(home, ".claude", "projects"), tools} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	claude := filepath.Join(tools, "claude")
	if err := os.Symlink(os.Args[0], claude); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(c *run.Config) { c.Home, c.Agent = home, claude })
	file := filepath.Join(f.workspace, "file")
	os.WriteFile(file, nil, 0o600)
	link := filepath.Join(f.workspace, "link")
	os.Symlink(home, link)
	os.Mkdir(filepath.Join(f.dir, "vault"), 0o700)

	dir := func(d string) func(*run.Request) { return func(r *run.Request) { r.Dir = d } }
	prompt := func(p string) func(*run.Request) { return func(r *run.Request) { r.Prompt = p } }
	for name, change := range map[string]func(*run.Request){
		"relative":                dir("."),
		"missing":                 dir(filepath.Join(f.workspace, "no")),
		"a file":                  dir(file),
		"root":                    dir("/"),
		"/etc":                    dir("/etc"),
		"/usr holds /usr/bin":     dir("/usr"),
		"the owner's home":        dir(home),
		"above the owner's home":  dir(filepath.Dir(home)),
		"a link to home":          dir(link),
		"the owner's claude":      dir(filepath.Join(home, ".claude", "projects")),
		"the hub":                 dir(f.dir),
		"inside the hub":          dir(filepath.Join(f.dir, "vault")),
		"above the hub":           dir(filepath.Dir(f.dir)),
		"holds the CLI":           dir(tools),
		"holds the CLI's file":    dir(filepath.Dir(os.Args[0])),
		"no prompt":               prompt(""),
		"a blank prompt":          prompt(" \n"),
		"a prompt of 2 MiB and 1": prompt(strings.Repeat("x", run.MaxPrompt+1)),
		"NUL in the prompt":       prompt("a\x00b"),
		"no UTF-8":                prompt("\xff"),
		"no profile":              func(r *run.Request) { r.Profile = hub.Profile{} },
		"an option as model":      func(r *run.Request) { r.Model = "--dangerously" },
		"a tool that is none":     func(r *run.Request) { r.AllowedTools = []string{"--x"} },
		"negative timeout":        func(r *run.Request) { r.Timeout = -1 },
		"a timeout of a month":    func(r *run.Request) { r.Timeout = 30 * 24 * time.Hour },
		"negative limit":          func(r *run.Request) { r.Limits.Tokens = -1 },
		"unknown delivery":        func(r *run.Request) { r.Delivery = "post" },
		"copy without a platform": func(r *run.Request) { r.Delivery = hub.DeliveryCopy },
	} {
		req := f.request("succeed")
		change(&req)
		if r, err := f.Run(t.Context(), req, nil); !errors.Is(err, hub.ErrInvalid) || r.ID != "" {
			t.Errorf("%s: %+v, %v; want ErrInvalid and no run", name, r, err)
		}
	}
	runs, err := f.store.Runs(t.Context(), store.Filter{})
	if err != nil || len(runs) != 0 {
		t.Errorf("rows are left: %v, %v", runs, err)
	}
	if _, err := os.Stat(filepath.Join(f.dir, "runs")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory is left: %v", err)
	}
}

func TestAWorkspaceBelowHomeOrThroughALinkWorks(t *testing.T) {
	home := t.TempDir()
	project := filepath.Join(home, "project")
	os.Mkdir(project, 0o700)
	link := filepath.Join(t.TempDir(), "link")
	os.Symlink(project, link)
	f := newFixture(t, func(c *run.Config) { c.Home = home })
	req := f.request("succeed")
	req.Dir = link
	if r, _ := f.run(t, req); r.Verdict != hub.VerdictDone || r.Dir != project {
		t.Errorf("%s (%q) in %s; want done in %s", r.Verdict, r.Reason, r.Dir, project)
	}
}

func TestNewNeedsAHubDirectory(t *testing.T) {
	f := newFixture(t)
	missing := filepath.Join(f.dir, "missing")
	_, err := run.New(run.Config{Dir: missing, Agent: "claude", Store: f.store, Driver: f.driver, Gateway: f.gateway})
	if !errors.Is(err, hub.ErrNotFound) || hub.HintOf(err) == "" {
		t.Errorf("New: %v; want ErrNotFound with a hint", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Error("New made the directory")
	}
}

func TestAMissingCLIIsAVerdictWithAHint(t *testing.T) {
	f := newFixture(t, func(c *run.Config) { c.Agent = "/nonexistent/claude" })
	if r, _ := f.run(t, f.request("succeed")); r.Verdict != hub.VerdictFailed || !strings.Contains(r.Reason, "claude-hub agent install") {
		t.Errorf("%s (%q)", r.Verdict, r.Reason)
	}
}

func TestWithoutACLIEverythingButRunWorks(t *testing.T) {
	f := newFixture(t)
	r, err := run.New(run.Config{Dir: f.dir, Store: f.store})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context(), f.request("succeed"), nil); !errors.Is(err, hub.ErrNotFound) || hub.HintOf(err) == "" {
		t.Errorf("Run: %v; want ErrNotFound with a hint", err)
	}
	done, _ := f.run(t, f.request("succeed"))
	if err := r.Follow(t.Context(), done.ID, &strings.Builder{}); err != nil {
		t.Errorf("Follow: %v", err)
	}
	if n, err := r.Reconcile(t.Context()); n != 0 || err != nil {
		t.Errorf("Reconcile: %d, %v", n, err)
	}
}

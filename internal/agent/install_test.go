package agent_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

// goodNPM is an npm that installs a CLI which knows its version, and counts.
const goodNPM = `echo "run with $*" >> "$npm_config_count"
grep -q '"@anthropic-ai/claude-code": "` + agent.TestedVersion + `"' package.json && test -s package-lock.json || exit 9
mkdir -p node_modules/.bin
printf '#!/bin/sh\necho "` + agent.TestedVersion + ` (Claude Code)"\n' > node_modules/.bin/claude
chmod 755 node_modules/.bin/claude
echo "added 2 packages"`

// withNPM puts an npm of the given body first in PATH and returns a hub
// directory and the file that counts its runs.
func withNPM(t *testing.T, body string) (dir, count string) {
	t.Helper()
	bin := t.TempDir()
	script(t, filepath.Join(bin, "npm"), body)
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	count = filepath.Join(t.TempDir(), "count")
	t.Setenv("npm_config_count", count)
	return t.TempDir(), count
}

func TestInstallFetchesTheTestedVersionOnce(t *testing.T) {
	dir, count := withNPM(t, goodNPM)
	var progress bytes.Buffer
	path, err := agent.Install(t.Context(), dir, &progress)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := agent.Find(dir); err != nil || found != path {
		t.Errorf("Find = %q, %v; want %q", found, err, path)
	}
	if !strings.Contains(progress.String(), "added 2 packages") {
		t.Errorf("progress = %q; want npm's words", progress.String())
	}
	if again, err := agent.Install(t.Context(), dir, nil); err != nil || again != path {
		t.Errorf("second Install = %q, %v", again, err)
	}
	if b, _ := os.ReadFile(count); strings.Count(string(b), "ci --no-audit") != 1 {
		t.Errorf("npm ran %q; want once", b)
	}
}

func TestInstallAtOnceRunsNPMOnce(t *testing.T) {
	dir, count := withNPM(t, goodNPM)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := agent.Install(t.Context(), dir, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b, _ := os.ReadFile(count); bytes.Count(b, []byte("\n")) != 1 {
		t.Errorf("npm ran %q; want once", b)
	}
}

func TestInstallShowsWhatNPMSaid(t *testing.T) {
	dir, _ := withNPM(t, `echo "npm error code E404" >&2; echo "npm error 404 Not Found" >&2; exit 1`)
	_, err := agent.Install(t.Context(), dir, nil)
	if err == nil || !strings.Contains(err.Error(), "npm exited with 1: npm error code E404 | npm error 404 Not Found") || hub.HintOf(err) == "" {
		t.Errorf("error = %v with hint %q", err, hub.HintOf(err))
	}
	left, _ := filepath.Glob(filepath.Join(dir, "agent", "[0-9]*"))
	if len(left) != 0 {
		t.Errorf("a failed install left %v", left)
	}
}

func TestInstallRefusesAnotherVersion(t *testing.T) {
	dir, _ := withNPM(t, strings.Replace(goodNPM, `echo "`+agent.TestedVersion+` (`, `echo "1.0.0 (`, 1))
	if _, err := agent.Install(t.Context(), dir, nil); !errors.Is(err, hub.ErrInvalid) || !strings.Contains(err.Error(), "1.0.0") {
		t.Errorf("error = %v; want the version refused", err)
	}
	t.Setenv("PATH", t.TempDir())
	if path, err := agent.Find(dir); err == nil {
		t.Errorf("Find = %s after a refused install", path)
	}
}

func TestInstallRecoversFromAKilledOne(t *testing.T) {
	dir, _ := withNPM(t, goodNPM)
	half := filepath.Join(dir, "agent", agent.TestedVersion+".tmp", "node_modules", ".bin")
	damaged := filepath.Join(dir, "agent", agent.TestedVersion, "node_modules")
	for _, d := range []string{half, damaged} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if path, err := agent.Find(dir); err == nil && strings.HasPrefix(path, dir) {
		t.Errorf("Find = %s; half an install was found", path)
	}
	if _, err := agent.Install(t.Context(), dir, nil); err != nil {
		t.Error(err)
	}
}

func TestInstallCanBeCancelled(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	mkfifo(t, fifo)
	dir, _ := withNPM(t, `exec 3>`+fifo+`; sleep 1000`)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		f, err := os.Open(fifo) // npm has started
		cancel()
		if err == nil {
			f.Close()
		}
	}()
	if _, err := agent.Install(ctx, dir, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v; want it cancelled", err)
	}
}

func TestInstallWithoutNPM(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := agent.Install(t.Context(), t.TempDir(), nil)
	if !errors.Is(err, hub.ErrNotFound) || !strings.Contains(hub.HintOf(err), "apt-get install npm") {
		t.Errorf("error = %v with hint %q", err, hub.HintOf(err))
	}
}

func TestInstallCreatesNoHubDirectory(t *testing.T) {
	dir, _ := withNPM(t, goodNPM)
	missing := filepath.Join(dir, "mistyped")
	if _, err := agent.Install(t.Context(), missing, nil); err == nil {
		t.Error("installed into a directory that was not there")
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the directory was created by accident")
	}
}

func TestInstallHandsNPMNoSecrets(t *testing.T) {
	t.Setenv("ANTHROPIC_API_KEY", "canary")
	t.Setenv("GITHUB_TOKEN", "canary")
	dir, _ := withNPM(t, `env | grep -q canary && { echo leaked; exit 1; }
[ -n "$HOME" ] || { echo homeless; exit 1; }
`+goodNPM)
	if _, err := agent.Install(t.Context(), dir, nil); err != nil {
		t.Error(err)
	}
}

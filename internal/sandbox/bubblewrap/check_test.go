package bubblewrap_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
)

func TestNewWithoutBubblewrap(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := bubblewrap.New(bubblewrap.Config{})
	if !errors.Is(err, hub.ErrNotFound) || !strings.Contains(hub.HintOf(err), "apt-get install bubblewrap") {
		t.Errorf("New without bwrap on PATH: %v, hint %q", err, hub.HintOf(err))
	}
}

// TestCheckSaysWhatToDo runs Check with programs that fail as bubblewrap does.
func TestCheckSaysWhatToDo(t *testing.T) {
	for name, c := range map[string]struct{ script, said, hint string }{
		"namespaces are off":  {"echo 'bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged user namespaces.' >&2; exit 1", "No permissions", "sysctl"},
		"no room for more":    {"echo 'bwrap: Creating new namespace failed: No space left on device' >&2; exit 1", "No space left", "sysctl"},
		"bubblewrap is old":   {"echo 'bwrap: Unknown option --size' >&2; exit 1", "Unknown option", "0.7.0"},
		"ends without a word": {"exit 1", "ended early", "by hand"},
		"talks nonsense":      {"echo hello >&5; exec sleep 300", "setting up the sandbox", "by hand"},
		"ends after a start":  {`echo '{"child-pid": '$$'}' >&5; echo 'bwrap: Can'"'"'t mount' >&2; exit 1`, "Can't mount", "by hand"},
	} {
		t.Run(name, func(t *testing.T) {
			fake := filepath.Join(t.TempDir(), "bwrap")
			hubtest.Script(t, fake, "#!/bin/sh\nPATH="+sandbox.Path+"\n"+c.script+"\n")
			err := newDriver(t, bubblewrap.Config{Program: fake}).Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.said) || !strings.Contains(hub.HintOf(err), c.hint) {
				t.Errorf("Check: %v, hint %q; want %q and %q", err, hub.HintOf(err), c.said, c.hint)
			}
		})
	}
	err := newDriver(t, bubblewrap.Config{Program: "/no/such/bwrap"}).Check(t.Context())
	if err == nil || !strings.Contains(hub.HintOf(err), "apt-get") {
		t.Errorf("Check with a program that is gone: %v, hint %q", err, hub.HintOf(err))
	}
}

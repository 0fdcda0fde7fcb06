package agent_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

func write(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		t.Fatal(err)
	}
	return path
}

func TestReadCredentialFile(t *testing.T) {
	for _, mode := range []os.FileMode{0o600, 0o400} {
		b, err := agent.ReadCredentialFile(write(t, agent.CredentialFile, wholeFile, mode))
		if err != nil || string(b) != wholeFile {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestReadCredentialFileRefuses(t *testing.T) {
	readable := write(t, "it's here.json", wholeFile, 0o644)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(write(t, "target", wholeFile, 0o600), link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	quoted := "'" + strings.ReplaceAll(readable, "'", `'\''`) + "'"
	for _, c := range []struct{ name, path, message, hint string }{
		{"empty", write(t, "f", "", 0o600), "is empty", "not completed"},
		{"world-readable", readable, "mode 0644", "chmod 600 " + quoted},
		{"group-readable", write(t, "f", wholeFile, 0o640), "mode 0640", "chmod 600 /"},
		{"symbolic link", link, "symbolic link", "readlink -f " + link},
		{"directory", t.TempDir(), "not a regular file", "login"},
		{"fifo", fifo, "not a regular file", "login"},
		{"10 MB", write(t, "f", strings.Repeat("x", 10<<20), 0o600), "more than", "login"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := agent.ReadCredentialFile(c.path)
			if !errors.Is(err, hub.ErrInvalid) || !strings.Contains(err.Error(), c.message) || !strings.Contains(hub.HintOf(err), c.hint) {
				t.Errorf("error = %v with hint %q; want %q with hint %q", err, hub.HintOf(err), c.message, c.hint)
			}
		})
	}
}

func TestReadCredentialFileMissing(t *testing.T) {
	_, err := agent.ReadCredentialFile(filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, hub.ErrNotFound) || hub.HintOf(err) == "" {
		t.Errorf("error = %v; want ErrNotFound with a hint", err)
	}
}

func TestReadCredentialFileRefusesAnotherOwner(t *testing.T) {
	path := "/etc/passwd" // root's, for everybody but root
	if os.Geteuid() == 0 {
		path = write(t, "f", wholeFile, 0o600)
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
	}
	_, err := agent.ReadCredentialFile(path)
	want := fmt.Sprintf("sudo chown %d %s", os.Geteuid(), path)
	if !errors.Is(err, hub.ErrInvalid) || !strings.Contains(err.Error(), "belongs to user") || hub.HintOf(err) != want {
		t.Errorf("error = %v with hint %q; want hint %q", err, hub.HintOf(err), want)
	}
}

package bubblewrap_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/sandbox/sandboxtest"
)

// nobody is an ordinary user that every system has.
const nobody = 65534

// asNobody returns this test binary's command as an ordinary user's, in a
// directory that is that user's own.
func asNobody(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	dir, err := os.MkdirTemp("", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, filepath.Base(self))
	if err := copyFile(binary, self); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Close()
}

// TestContractAsOrdinaryUser runs the suite again without root's rights, and so
// as a rule without control groups.
func TestContractAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		sandboxtest.Run(t, newDriver(t, bubblewrap.Config{NoCgroup: true}))
		return
	}
	cmd := asNobody(t, "-test.run=^TestContractAsOrdinaryUser$", "-test.v")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	}
}

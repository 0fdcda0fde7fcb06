package docker_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/sandboxtest"
)

// nobody is an ordinary user that every system has.
const nobody = 65534

// asNobody returns this test binary's command as an ordinary user's, in that
// user's own directory, with the given groups beside its own.
func asNobody(t *testing.T, groups []uint32, args ...string) *exec.Cmd {
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
	copyFile(t, binary, self)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: groups}}
	return cmd
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(dst, src)
		dst.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestContractAsOrdinaryUser runs the suite again as a user who may use the
// system's engine: without rights to map owners, the job is that user inside.
func TestContractAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		sandboxtest.Run(t, newDriver(t, docker.KindDocker))
		return
	}
	info, err := os.Stat(strings.TrimPrefix(hubtest.Engine(t, docker.KindDocker), "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	group := info.Sys().(*syscall.Stat_t).Gid
	cmd := asNobody(t, []uint32{group}, "-test.run=^TestContractAsOrdinaryUser$", "-test.v")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	}
}

// TestSocketNotPermitted is about a user who may not.
func TestSocketNotPermitted(t *testing.T) {
	if os.Getuid() != 0 {
		for kind, hint := range map[string]string{docker.KindDocker: "usermod -aG docker", docker.KindPodman: "systemctl --user"} {
			host := "unix:///var/run/docker.sock"
			if kind == docker.KindPodman {
				host = "unix:///run/podman/podman.sock"
			}
			d, err := docker.New(docker.Config{Kind: kind, Host: host, Dir: t.TempDir(), Image: hubtest.BaseImage})
			if err != nil {
				t.Fatal(err)
			}
			err = d.Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), "permission denied") || !strings.Contains(hub.HintOf(err), hint) {
				t.Errorf("%s: Check: %v, hint %q", kind, err, hub.HintOf(err))
			}
		}
		return
	}
	if out, err := asNobody(t, nil, "-test.run=^TestSocketNotPermitted$", "-test.v").CombinedOutput(); err != nil {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	}
}

// TestMountsApart is about root whose mounts the engine doesn't see, as in a unit of
// systemd's with ProtectSystem. Process 1 is one of the test's own.
func TestMountsApart(t *testing.T) {
	if os.Getenv("MOUNTS_APART") == "" {
		script := `MOUNTS_APART=$1; export MOUNTS_APART; shift; "$@"; exit $?`
		for apart, args := range map[string][]string{"yes": {"unshare", "-m"}, "no": nil} {
			args = append(append([]string{"-m", "-p", "-f", "--mount-proc", "sh", "-c", script, "sh", apart}, args...),
				os.Args[0], "-test.run=^TestMountsApart$", "-test.v")
			if os.Getuid() != 0 {
				args = append([]string{"-r"}, args...)
			}
			if out, err := exec.CommandContext(t.Context(), "unshare", args...).CombinedOutput(); err != nil {
				t.Errorf("apart: %s: %v\n%s", apart, err, out)
			}
		}
		return
	}
	d, err := docker.New(docker.Config{Kind: docker.KindDocker, Host: "unix:///no/such.sock", Dir: t.TempDir(), Image: hubtest.BaseImage})
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"Ready": d.Ready(t.Context()), "Check": d.Check(t.Context())} {
		refused := err != nil && strings.Contains(err.Error(), "mounts of its own") && strings.Contains(hub.HintOf(err), "install systemd --system")
		if refused != (os.Getenv("MOUNTS_APART") == "yes") {
			t.Errorf("%s: %v, hint %q", name, err, hub.HintOf(err))
		}
	}
}

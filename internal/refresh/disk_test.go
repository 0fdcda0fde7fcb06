package refresh_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/simulator"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// A disk without room: nothing is sent, the old token is served, and once there is
// room all goes on without a restart. If the disk fills up after the answer has
// come, the answer waits in its directory.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	login := filepath.Join(t.TempDir(), "login")
	if err := os.WriteFile(login, w.login.Credentials, 0o600); err != nil {
		t.Fatal(err)
	}
	small := t.TempDir() // the hub of this test; in a mount namespace of its own it is a small disk
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=smalldisk", quickExit, "TEST_HUB="+small, "TEST_LOGIN="+login)
	for i, kv := range append(w.environ, "TEST_HUB="+small) {
		cmd.Env = append(cmd.Env, fmt.Sprintf("TEST_HELPER_%d=%s", i, kv))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.wantCounts(2, 2)
}

// playSmallDisk is TestDiskFull inside of its namespace.
func playSmallDisk() error {
	dir := os.Getenv("TEST_HUB")
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=14m,mode=0700"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	payload, err := os.ReadFile(os.Getenv("TEST_LOGIN"))
	if err != nil {
		return err
	}
	if _, err := vault.CreateKey(filepath.Join(dir, "key")); err != nil {
		return err
	}
	if err := vault.Init(filepath.Join(dir, "vault")); err != nil {
		return err
	}
	v, err := openVault(dir)
	if err != nil {
		return err
	}
	id := hub.NewProfileID()
	if _, err := v.Commit(context.Background(), id, hub.KindLogin, 0, payload); err != nil {
		return err
	}
	cfg := config(dir, v, helperEnviron())
	cfg.MaxWait = -1
	r, err := refresh.New(cfg)
	if err != nil {
		return err
	}
	defer r.Stop()
	return errors.Join(fullBefore(r, id, dir), fullAfter(r, id, dir))
}

func fullBefore(r *refresh.Refresher, id hub.ProfileID, dir string) error {
	empty := fill(dir)
	defer empty()
	if _, gen, err := r.AccessToken(context.Background(), id, 0); err != nil || gen != 1 {
		return fmt.Errorf("on a full disk the old token is generation %d, %w", gen, err)
	}
	if _, _, err := r.AccessToken(context.Background(), id, 1); err == nil || errors.Is(err, hub.ErrLoginRequired) || !strings.Contains(err.Error(), "no space left") {
		return fmt.Errorf("on a full disk a refresh says: %w", err)
	}
	empty()
	return until(r, id, 1)
}

func fullAfter(r *refresh.Refresher, id hub.ProfileID, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "failpoint"), []byte("commit.before hold"), 0o600); err != nil {
		return err
	}
	held := make(chan error, 1)
	go func() {
		_, _, err := r.AccessToken(context.Background(), id, 2)
		held <- err
	}()
	for {
		if _, err := os.Stat(filepath.Join(dir, "holding")); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	empty := fill(dir)
	defer empty()
	if err := os.Remove(filepath.Join(dir, "holding")); err != nil {
		return err
	}
	if err := <-held; err == nil || errors.Is(err, hub.ErrLoginRequired) {
		return fmt.Errorf("with a disk that fills up after the answer, a refresh says: %w", err)
	}
	empty()
	return until(r, id, 2)
}

// until asks until there is a newer generation than gen.
func until(r *refresh.Refresher, id hub.ProfileID, gen hub.Generation) error {
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var got hub.Generation
		if _, got, err = r.AccessToken(context.Background(), id, gen); err == nil && got == gen+1 {
			return nil
		}
	}
	return fmt.Errorf("with room again: %w", err)
}

// fill takes all the room in dir; the function that it returns gives it back.
func fill(dir string) func() {
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err == nil {
		for chunk := 1 << 20; chunk > 0; {
			if _, err := f.Write(make([]byte, chunk)); err != nil {
				chunk /= 2
			}
		}
		f.Close()
	}
	return func() { os.Remove(path) }
}

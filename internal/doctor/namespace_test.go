package doctor_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// mountsVariable is set in a process that has a mount namespace of its own.
const mountsVariable = "DOCTOR_TEST_MOUNTS"

// runInNamespace runs the present test in such a process.
func runInNamespace(t *testing.T) {
	t.Helper()
	elements := strings.Split(t.Name(), "/")
	for i, e := range elements {
		elements[i] = "^" + regexp.QuoteMeta(e) + "$"
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.count=1", "-test.run="+strings.Join(elements, "/"))
	cmd.Env = append(os.Environ(), mountsVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a mount namespace of its own: %v\n%s", err, out)
	}
}

func inNamespace(m *testing.M) int {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "making the mounts private:", err)
		return 1
	}
	return m.Run()
}

// mount mounts until the end of the test; its namespace ends with the process.
func (w *world) mount(source, target, kind string, flags uintptr, data string) {
	w.t.Helper()
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		w.t.Fatalf("mounting %s on %s: %v", source, target, err)
	}
	w.t.Cleanup(func() { syscall.Unmount(target, syscall.MNT_DETACH) })
}

func flock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }

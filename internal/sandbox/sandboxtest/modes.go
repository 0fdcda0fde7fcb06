package sandboxtest

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// testSetID: a job leaves no program that runs as the hub's user or group, since
// what it writes belongs to them. All other modes can be set.
func testSetID(t *testing.T, d sandbox.Driver) {
	at := newPlace(t)
	got := ask[modesAnswer](t, d, at.spec(t, insideProbe, probeArg, "modes"), nil)
	if len(got.SetID) < 20 || len(got.Plain) < 8 {
		t.Errorf("only %d and %d calls were tried", len(got.SetID), len(got.Plain))
	}
	for call, said := range got.SetID {
		if said != unix.EPERM.Error() {
			t.Errorf("%s: %q; want EPERM", call, said)
		}
	}
	for call, said := range got.Plain {
		if said != "" {
			t.Errorf("%s: %s", call, said)
		}
	}
	if got.Openat2 != unix.ENOSYS.Error() {
		t.Errorf("openat2, whose mode can't be seen: %q; want ENOSYS", got.Openat2)
	}
	// What people use.
	writeSetIDArchive(t, filepath.Join(at.work, "x.tar"))
	r := run(t, d, at.spec(t, "sh", "-c", `set -e
		tar xf x.tar; cp -a tree copy; tar cf y.tar tree; mkdir again; tar xpf y.tar -C again
		install -m 751 tree/plain there; chmod 1777 again; chmod +x there
		mkdir -m 2755 dir && exit 9
		chmod 4755 there && exit 9
		chmod g+s there && exit 9
		stat -c '%n %a' tree/plain copy/plain again/tree/plain again there`))
	want := "tree/plain 750\ncopy/plain 750\nagain/tree/plain 750\nagain 1777\nthere 751\n"
	if r.Exit != (sandbox.Exit{}) || r.out != want {
		t.Errorf("tar, cp, install and chmod ended with %+v: %s\n%s", r.Exit, r.out, r.err)
	}
	err := filepath.WalkDir(at.work, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("the job has left %s with mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// writeSetIDArchive packs a plain file and one with both bits.
func writeSetIDArchive(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	err = errors.Join(
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tree/", Mode: 0o755}),
		w.WriteHeader(&tar.Header{Name: "tree/plain", Mode: 0o750}),
		w.WriteHeader(&tar.Header{Name: "tree/program", Mode: 0o6755}),
		w.Close(), f.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// modesAnswer has the error of each call, "" for success.
type modesAnswer struct {
	SetID, Plain map[string]string
	Openat2      string
}

// probeModes tries every way to give a file a mode, in the directory that it is
// started in.
func probeModes() modesAnswer {
	a := modesAnswer{SetID: map[string]string{}, Plain: map[string]string{}}
	f, err := os.Create("file")
	if err != nil {
		return a
	}
	defer f.Close()
	const here = unix.AT_FDCWD
	create := unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY
	opened := func(fd int, err error) error {
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	calls := map[string]func(mode uint32) error{
		"chmod":     func(mode uint32) error { return unix.Chmod("file", mode) },
		"fchmod":    func(mode uint32) error { return unix.Fchmod(int(f.Fd()), mode) },
		"fchmodat":  func(mode uint32) error { return unix.Fchmodat(here, "file", mode, 0) },
		"fchmodat2": func(mode uint32) error { return fchmodat2(f, mode) },
		"openat":    func(mode uint32) error { return opened(unix.Openat(here, "made", create, mode)) },
		"creat":     func(mode uint32) error { return opened(unix.Creat("made", mode)) },
		"tmpfile":   func(mode uint32) error { return opened(unix.Open(".", unix.O_TMPFILE|unix.O_WRONLY, mode)) },
		"mknod":     func(mode uint32) error { return unix.Mknod("made", unix.S_IFREG|mode, 0) },
		"mknodat":   func(mode uint32) error { return unix.Mknodat(here, "made", unix.S_IFREG|mode, 0) },
	}
	if runtime.GOARCH == "amd64" {
		calls["open"] = func(mode uint32) error { return oldOpen("made", create, mode) }
	}
	for name, call := range calls {
		for _, mode := range []uint32{0o4755, 0o2755, 0o6711, 0o4000} {
			a.SetID[fmt.Sprintf("%s %o", name, mode)] = errorText(call(mode))
			os.Remove("made")
		}
		for _, mode := range []uint32{0o1777, 0o640, 0} {
			a.Plain[fmt.Sprintf("%s %o", name, mode)] = errorText(call(mode))
			os.Remove("made")
		}
	}
	// Without O_CREAT nothing is a mode.
	a.Plain["openat that makes nothing"] = errorText(opened(unix.Openat(here, ".", unix.O_RDONLY, 0o6777)))
	a.Openat2 = errorText(opened(unix.Openat2(here, ".", &unix.OpenHow{})))
	return a
}

// fchmodat2 tells a kernel without that call, where the filter answers as with
// one to what it refuses.
func fchmodat2(f *os.File, mode uint32) error {
	empty := []byte{0}
	_, _, errno := unix.Syscall6(unix.SYS_FCHMODAT2, f.Fd(), uintptr(unsafe.Pointer(&empty[0])), uintptr(mode), unix.AT_EMPTY_PATH, 0, 0)
	if errno == 0 || errno == unix.ENOSYS {
		return nil
	}
	return errno
}

// oldOpen is open by its own number, which the library no longer uses.
func oldOpen(path string, flags int, mode uint32) error {
	const sysOpen = 2 // on amd64
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	fd, _, errno := unix.Syscall(sysOpen, uintptr(unsafe.Pointer(name)), uintptr(flags), uintptr(mode))
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

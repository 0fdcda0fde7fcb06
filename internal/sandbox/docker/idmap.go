package docker

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// idmap makes mounts in which two users, and the two groups of the same numbers,
// have changed places: what belongs to one on the disk belongs to the other there,
// and the other way round when something is written.
type idmap struct {
	host, inside int // host is the smaller one

	once sync.Once
	file *os.File // a user namespace that has the mapping
	err  error
}

// namespace returns the mapping as the kernel takes it.
func (m *idmap) namespace() (*os.File, error) {
	m.once.Do(func() { m.file, m.err = newUserNamespace(m.mappings()) })
	return m.file, m.err
}

func (m *idmap) mappings() []syscall.SysProcIDMap {
	const last = 1<<32 - 2
	all := []syscall.SysProcIDMap{
		{ContainerID: 0, HostID: 0, Size: m.host},
		{ContainerID: m.host, HostID: m.inside, Size: 1},
		{ContainerID: m.host + 1, HostID: m.host + 1, Size: m.inside - m.host - 1},
		{ContainerID: m.inside, HostID: m.host, Size: 1},
		{ContainerID: m.inside + 1, HostID: m.inside + 1, Size: last - m.inside},
	}
	var some []syscall.SysProcIDMap
	for _, r := range all {
		if r.Size > 0 {
			some = append(some, r)
		}
	}
	return some
}

// newUserNamespace returns a user namespace with the mappings. A process has to
// be in one for a moment: it is stopped before it has run anything.
func newUserNamespace(mappings []syscall.SysProcIDMap) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // who traces is a thread; it ends with this goroutine
		p, err := os.StartProcess("/proc/self/exe", []string{"claude-hub"}, &os.ProcAttr{
			Env: []string{}, Dir: "/",
			Sys: &syscall.SysProcAttr{
				Cloneflags: syscall.CLONE_NEWUSER, UidMappings: mappings, GidMappings: mappings, Ptrace: true, Pdeathsig: syscall.SIGKILL,
			},
		})
		if err != nil {
			done <- result{nil, err}
			return
		}
		file, err := os.Open("/proc/" + strconv.Itoa(p.Pid) + "/ns/user")
		_ = p.Kill()
		_, _ = p.Wait()
		done <- result{file, err}
	}()
	r := <-done
	return r.file, r.err
}

// clone returns a mount of what is at path, with the mapping, that is nowhere in
// the file system yet. A nil mapping maps nothing.
func (m *idmap) clone(path string, readOnly bool) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, m.explain(path, err)
	}
	tree := os.NewFile(uintptr(fd), path)
	ns, err := m.namespace()
	if err == nil {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
		if readOnly {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	}
	if err != nil {
		tree.Close()
		return nil, m.explain(path, err)
	}
	return tree, nil
}

func (m *idmap) explain(path string, err error) error {
	err = fmt.Errorf("mapping the owners of %s: %w", path, err)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		return hub.Hint(err, idmapHint)
	}
	return err
}

// mountsApart reports whether this process is known to be in another mount namespace
// than the machine's first process, and so than an engine. Where that can't be
// looked at, Check still finds out.
func mountsApart() bool {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false
	}
	first, err := os.Readlink("/proc/1/ns/mnt")
	return err == nil && own != first
}

// attach puts a mount of clone's at target, which must be there.
func attach(tree *os.File, target string) error {
	err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mounting at %s: %w", target, err)
	}
	return nil
}

// detach takes away what attach has put at target, if it has.
func detach(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmounting %s: %w", target, err)
	}
	return nil
}

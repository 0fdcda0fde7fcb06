package bubblewrap

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
)

// Paths inside that are the driver's own.
const (
	insideShim   = "/run/claude-hub/shim"
	insideSocket = "/run/claude-hub/socket-" // and a number
)

// defaultTemp is Limits.Temp where none is given.
const defaultTemp = 1 << 30

// system returns bubblewrap's arguments for what every sandbox sees. Each mount
// costs a tenth of a millisecond at every start, so there are few.
func system() []string {
	var args []string
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if link, err := os.Readlink(dir); err == nil {
			args = append(args, "--symlink", link, dir)
		} else if _, err := os.Stat(dir); err == nil {
			args = append(args, "--ro-bind", dir, dir)
		}
	}
	// Of /etc only what programs need to start and to trust certificates. Host
	// names, users, mounts and configuration of the host stay outside.
	for _, path := range []string{
		"/etc/alternatives", "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
		"/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted", "/etc/ca-certificates/extracted",
	} {
		if _, err := os.Stat(path); err == nil {
			args = append(args, "--ro-bind", path, path)
		}
	}
	if zone, err := filepath.EvalSymlinks("/etc/localtime"); err == nil && strings.HasPrefix(zone, "/usr/") {
		args = append(args, "--symlink", zone, "/etc/localtime")
	}
	return args
}

// etc is the small files of /etc inside: there is one user, and no name service.
var etc = []struct{ path, text string }{
	{"/etc/passwd", "agent:x:1000:1000::" + sandbox.Home + ":/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"},
	{"/etc/group", "agent:x:1000:\nnogroup:x:65534:\n"},
	{"/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"},
	{"/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"},
}

// argv returns bubblewrap's arguments for spec, without any secret: arguments
// can be read by every user of the host.
func (d *Driver) argv(spec sandbox.Spec, fds descriptors) ([]string, error) {
	size := spec.Limits.Temp
	if size == 0 {
		size = defaultTemp
	}
	temp := strconv.FormatInt(size, 10)
	args := []string{
		"--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
		"--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL",
		"--die-with-parent", "--new-session", "--as-pid-1", "--clearenv",
		"--seccomp", strconv.Itoa(fds.seccomp), "--info-fd", strconv.Itoa(fds.info),
	}
	args = append(args, d.system...)
	for i, file := range etc {
		args = append(args, "--perms", "0444", "--file", strconv.Itoa(fds.etc+i), file.path)
	}
	args = append(args,
		"--proc", "/proc", "--remount-ro", "/proc",
		"--dev", "/dev",
		"--perms", "1777", "--size", temp, "--tmpfs", "/dev/shm",
		"--remount-ro", "/dev",
		"--perms", "1777", "--size", temp, "--tmpfs", "/tmp",
		"--ro-bind", d.shim, insideShim,
	)
	if spec.Home != "" {
		args = append(args, "--bind", spec.Home, sandbox.Home)
	} else {
		args = append(args, "--size", temp, "--tmpfs", sandbox.Home)
	}
	for i, s := range spec.Sockets {
		args = append(args, "--ro-bind", s.Host, insideSocket+strconv.Itoa(i))
	}
	for _, m := range spec.Mounts {
		if err := mountable(m, spec.Home); err != nil {
			return nil, err
		}
		kind := "--ro-bind"
		if m.Writable {
			kind = "--bind"
		}
		args = append(args, kind, m.Source, m.Target)
	}
	return append(args, "--remount-ro", "/", "--chdir", "/", "--", insideShim, shim.Arg), nil
}

// mountable reports what is wrong with a mount on this host. One inside the home
// is refused where a link is on the way, since bubblewrap would follow it while
// it still sees the host.
func mountable(m sandbox.Mount, home string) error {
	if _, err := os.Stat(m.Source); err != nil {
		return fmt.Errorf("%w: mounting %s: %v", hub.ErrInvalid, m.Source, err)
	}
	rest, inHome := strings.CutPrefix(m.Target, sandbox.Home+"/")
	if !inHome || home == "" {
		return nil
	}
	path := home
	for _, part := range strings.Split(rest, "/") {
		path = filepath.Join(path, part)
		info, err := os.Lstat(path)
		if err != nil {
			return nil
		}
		if info.Mode()&os.ModeSymlink != 0 {
			return fmt.Errorf("%w: mounting at %s: %s is a symbolic link", hub.ErrInvalid, m.Target, path)
		}
	}
	return nil
}

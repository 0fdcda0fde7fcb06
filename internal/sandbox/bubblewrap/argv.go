package bubblewrap

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
)

// defaultTemp is Limits.Temp where none is given.
const defaultTemp = 1 << 30

// systemArgs returns bubblewrap's arguments for the programs that every sandbox
// sees. Each mount costs a tenth of a millisecond or two at every start.
func systemArgs() []string {
	var args []string
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if link, err := os.Readlink(dir); err == nil {
			args = append(args, "--symlink", link, dir)
		} else if exists(dir) {
			args = append(args, "--ro-bind", dir, dir)
		}
	}
	if exists("/etc/alternatives") { // awk, cc and others lead through it
		args = append(args, "--ro-bind", "/etc/alternatives", "/etc/alternatives")
	}
	if zone, err := filepath.EvalSymlinks("/etc/localtime"); err == nil && strings.HasPrefix(zone, "/usr/") {
		args = append(args, "--symlink", zone, "/etc/localtime")
	}
	return args
}

// etcFile is a file of /etc inside: a copy of the host's, or a text of ours.
type etcFile struct{ path, host, text string }

// etcFiles lists what /etc holds inside: what programs need to start and to trust
// certificates, and one user. Names, users, mounts and settings of the host stay
// outside.
func etcFiles() []etcFile {
	files := []etcFile{
		{path: "/etc/passwd", text: "agent:x:1000:1000::" + sandbox.Home + ":/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"},
		{path: "/etc/group", text: "agent:x:1000:\nnogroup:x:65534:\n"},
		{path: "/etc/hosts", text: "127.0.0.1 localhost sandbox\n::1 localhost\n"},
		{path: "/etc/nsswitch.conf", text: "passwd: files\ngroup: files\nhosts: files\n"},
	}
	for _, path := range []string{
		"/etc/ld.so.cache", "/etc/ssl/openssl.cnf",
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
	} {
		if exists(path) {
			files = append(files, etcFile{path: path, host: path})
		}
	}
	return files
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// argv returns bubblewrap's arguments for spec, without any secret: arguments
// can be read by every user of the host.
func (d *Driver) argv(spec sandbox.Spec, in *inherited) ([]string, error) {
	temp := spec.Limits.Temp
	if temp == 0 {
		temp = defaultTemp
	}
	size := strconv.FormatInt(temp, 10)
	args := []string{
		"--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
		"--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--cap-drop", "ALL",
		"--die-with-parent", "--new-session", "--as-pid-1", "--clearenv",
		"--seccomp", in.seccomp, "--info-fd", in.info,
	}
	args = append(args, d.system...)
	for i, file := range d.etc {
		args = append(args, "--perms", "0444", "--file", in.etc[i], file.path)
	}
	args = append(args,
		"--proc", "/proc", "--remount-ro", "/proc",
		"--dev", "/dev",
		"--perms", "1777", "--size", size, "--tmpfs", "/dev/shm",
		"--remount-ro", "/dev",
		"--perms", "1777", "--size", size, "--tmpfs", "/tmp",
	)
	if spec.Home != "" {
		args = append(args, "--bind", spec.Home, sandbox.Home)
	} else {
		args = append(args, "--size", size, "--tmpfs", sandbox.Home)
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
	return append(args, "--remount-ro", "/", "--chdir", "/", "--", "/proc/self/fd/"+in.shim, boot.Arg), nil
}

// mountable reports what is wrong with a mount on this host. One inside the home
// is refused where a link is on the way, since bubblewrap would follow it while
// it still sees the host.
func mountable(m sandbox.Mount, home string) error {
	if _, err := os.Stat(m.Source); err != nil {
		return fmt.Errorf("%w: mounting %s: %w", hub.ErrInvalid, m.Source, err)
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

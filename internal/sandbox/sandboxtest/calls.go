package sandboxtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// testPrivilege reads what the kernel says the job may do.
func testPrivilege(t *testing.T, d sandbox.Driver) {
	out := shell(t, d, `cat /proc/self/status; id -u; id -g; umask`)
	for _, want := range []string{
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("the job's status has no line %q:\n%s", want, out)
		}
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	last := lines[max(0, len(lines)-3):]
	// An engine that can't map owners has the hub's own user inside.
	own := []string{strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid()), "0022"}
	if (last[0] == "0" || last[1] == "0" || last[2] != "0022") && !slices.Equal(last, own) {
		t.Errorf("user, group and umask are %v; want neither 0, and 0022", last)
	}
}

// noAccounts begins the numbers that no account has: those of directory services
// end there.
const noAccounts = 2_000_200_000

// testUserOutside: who the job is on the host, nobody else may be, because the
// kernel lets them enter its file systems and end it.
func testUserOutside(t *testing.T, d sandbox.Driver) {
	out := newLines()
	defer out.Close()
	marker := fmt.Sprintf("marker-%d-%d", os.Getpid(), time.Now().UnixNano())
	spec := newPlace(t).spec(t, "sh", "-c", "echo up; read line", marker)
	in, hold := io.Pipe()
	defer hold.Close()
	spec.Stdin, spec.Stdout = in, out
	start(t, d, spec)
	out.await(t, "up")
	found := 0
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, _ := os.ReadFile(path)
		info, err := os.Stat(filepath.Dir(path))
		if err != nil || !bytes.Contains(line, []byte(marker)) {
			continue
		}
		found++
		is := info.Sys().(*syscall.Stat_t)
		ours := is.Uid == uint32(os.Getuid()) && is.Gid == uint32(os.Getgid())
		if !ours && (is.Uid < noAccounts || is.Gid < noAccounts) {
			t.Errorf("on the host the job is user %d, group %d; want the hub's own, or what no account has", is.Uid, is.Gid)
		}
	}
	if found == 0 {
		t.Error("the job can't be seen on the host")
	}
}

// testSystemCalls has the job try what could lead out of the sandbox, or into
// another process in it.
func testSystemCalls(t *testing.T, d sandbox.Driver) {
	got := ask[map[string]string](t, d, newPlace(t).spec(t, insideProbe, probeArg, "calls"), nil)
	for call, said := range got {
		if said == "" {
			t.Errorf("%s was allowed", call)
		}
	}
	if len(got) < 30 {
		t.Errorf("only %d calls were tried", len(got))
	}
	if runtime.GOARCH == "amd64" {
		spec := newPlace(t).spec(t, insideProbe, probeArg, "foreign-call")
		if r := run(t, d, spec); r.Exit != (sandbox.Exit{Code: -1, Signal: "SIGSYS"}) && !strings.Contains(r.out+r.err, "SIGSYS") {
			t.Errorf("a call by x32's numbers ended with %+v, output %q; want SIGSYS", r.Exit, r.out)
		}
	}
}

// probeCalls returns the error of each attempt, "" for success.
func probeCalls() map[string]string {
	said := map[string]string{}
	victim := exec.Command("sleep", "300")
	if err := victim.Start(); err != nil {
		return said
	}
	defer victim.Process.Kill()
	pid := uintptr(victim.Process.Pid)
	buf := make([]byte, 16)
	vec := unix.Iovec{Base: &buf[0], Len: uint64(len(buf))}
	at := func(p *byte) uintptr { return uintptr(unsafe.Pointer(p)) }
	text := func(s string) uintptr { b := append([]byte(s), 0); return at(&b[0]) }
	params := make([]byte, 256)
	for name, call := range map[string][7]uintptr{
		"ptrace":            {unix.SYS_PTRACE, unix.PTRACE_ATTACH, pid},
		"ptrace seize":      {unix.SYS_PTRACE, unix.PTRACE_SEIZE, pid},
		"process_vm_readv":  {unix.SYS_PROCESS_VM_READV, uintptr(os.Getpid()), uintptr(unsafe.Pointer(&vec)), 1, uintptr(unsafe.Pointer(&vec)), 1},
		"process_vm_writev": {unix.SYS_PROCESS_VM_WRITEV, uintptr(os.Getpid()), uintptr(unsafe.Pointer(&vec)), 1, uintptr(unsafe.Pointer(&vec)), 1},
		"userfaultfd":       {unix.SYS_USERFAULTFD, 1},
		"io_uring_setup":    {unix.SYS_IO_URING_SETUP, 8, at(&params[0])},
		"bpf":               {unix.SYS_BPF, 0, at(&params[0]), 72},
		"perf_event_open":   {unix.SYS_PERF_EVENT_OPEN, at(&params[0]), 0, ^uintptr(0), ^uintptr(0)},
		"keyctl":            {unix.SYS_KEYCTL, 0, ^uintptr(2)},
		"add_key":           {unix.SYS_ADD_KEY, text("user"), text("x"), text("y"), 1, ^uintptr(3)},
		"unshare user":      {unix.SYS_UNSHARE, unix.CLONE_NEWUSER},
		"unshare mount":     {unix.SYS_UNSHARE, unix.CLONE_NEWNS},
		"unshare net":       {unix.SYS_UNSHARE, unix.CLONE_NEWNET},
		"clone3":            {unix.SYS_CLONE3, at(&params[0]), 88},
		"mount":             {unix.SYS_MOUNT, text("none"), text("/tmp"), text("tmpfs")},
		"umount":            {unix.SYS_UMOUNT2, text("/tmp"), unix.MNT_DETACH},
		"fsopen":            {unix.SYS_FSOPEN, text("proc")},
		"open_tree":         {unix.SYS_OPEN_TREE, ^uintptr(99), text("/"), unix.OPEN_TREE_CLONE},
		"move_mount":        {unix.SYS_MOVE_MOUNT, 0, text("/tmp"), 0, text("/tmp")},
		"mount_setattr":     {unix.SYS_MOUNT_SETATTR, ^uintptr(99), text("/usr"), 0, at(&params[0]), 32},
		"pivot_root":        {unix.SYS_PIVOT_ROOT, text("/tmp"), text("/tmp")},
		"chroot":            {unix.SYS_CHROOT, text("/tmp")},
		"open_by_handle_at": {unix.SYS_OPEN_BY_HANDLE_AT, 0, at(&params[0]), 0},
		"kexec_load":        {unix.SYS_KEXEC_LOAD, 0, 0, 0, 0},
		"init_module":       {unix.SYS_INIT_MODULE, at(&params[0]), 16, text("")},
		"finit_module":      {unix.SYS_FINIT_MODULE, 0, text(""), 0},
		"reboot":            {unix.SYS_REBOOT, 0xfee1dead, 0x28121969, 0},
		"swapon":            {unix.SYS_SWAPON, text("/tmp/x"), 0},
		"settimeofday":      {unix.SYS_SETTIMEOFDAY, at(&params[0]), 0},
		"sethostname":       {unix.SYS_SETHOSTNAME, text("x"), 1},
		"syslog":            {unix.SYS_SYSLOG, 3, at(&params[0]), 16},
		"pidfd_getfd":       {unix.SYS_PIDFD_GETFD, 0, 0, 0},
		"priority below 0":  {unix.SYS_SETPRIORITY, 0, 0, ^uintptr(9)},
	} {
		_, _, errno := unix.RawSyscall6(call[0], call[1], call[2], call[3], call[4], call[5], call[6])
		said[name] = errorText(errno)
	}
	said["clone with a user namespace"] = tryClone(unix.CLONE_NEWUSER)
	said["clone with a mount namespace"] = tryClone(unix.CLONE_NEWNS)
	for name, s := range map[string][3]int{
		"socket vsock": {unix.AF_VSOCK, unix.SOCK_STREAM, 0}, "socket packet": {unix.AF_PACKET, unix.SOCK_RAW, 0},
		"socket alg": {unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, "socket raw": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		"socket bluetooth": {unix.AF_BLUETOOTH, unix.SOCK_RAW, 0}, "socket can": {unix.AF_CAN, unix.SOCK_RAW, 1},
	} {
		fd, err := unix.Socket(s[0], s[1], s[2])
		said[name] = errorText(err)
		unix.Close(fd)
	}
	for name, err := range map[string]error{
		"setns of PID 1": tryNamespace("/proc/1/ns/net"), "setns of itself": tryNamespace("/proc/self/ns/net"),
		"typing into a terminal": tryTyping(),
		"core pattern":           tryOpen("/proc/sys/kernel/core_pattern", os.O_WRONLY),
		"kcore":                  tryOpen("/proc/kcore", os.O_RDONLY), "mem": tryOpen("/dev/mem", os.O_RDONLY),
		"kmsg": tryOpen("/proc/kmsg", os.O_RDONLY), "disk": tryNode(),
		"user 0": unix.Setuid(0), "a set-user-ID program": trySetuid(),
	} {
		said[name] = errorText(err)
	}
	return said
}

func errorText(err error) string {
	if err == nil || errors.Is(err, syscall.Errno(0)) {
		return ""
	}
	return err.Error()
}

func tryClone(flags uintptr) string {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	return errorText(errno)
}

func tryNamespace(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), 0)
}

func tryOpen(path string, flags int) error {
	f, err := os.OpenFile(path, flags, 0)
	f.Close()
	return err
}

func tryNode() error {
	return unix.Mknod("/tmp/node", unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0)))
}

// tryTyping makes a terminal and types into it as its user would.
func tryTyping() error {
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	letter := byte('x')
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.TIOCSTI, uintptr(unsafe.Pointer(&letter)))
	if errno == 0 {
		return nil
	}
	return errno
}

// trySetuid runs a set-user-ID program that would tell a real root.
func trySetuid() error {
	return exec.Command("su", "-c", "true", "root").Run()
}

// pinged asks for the two kinds of sockets that ping uses.
func pinged() error {
	if c, err := net.Dial("ip4:icmp", "1.1.1.1"); err == nil {
		c.Close()
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return errors.Join(unix.Sendto(fd, make([]byte, 8), 0, &unix.SockaddrInet4{Addr: [4]byte{1, 1, 1, 1}}))
}

// foreignCall makes a call by the numbers of the x32 architecture, where a filter
// that compares numbers only sees something else.
func foreignCall() {
	unix.RawSyscall(0x40000000|unix.SYS_GETPID, 0, 0, 0)
}

// Package seccomp has the system call filter that every sandbox runs under. It
// refuses what a job has no use for and an attacker has, the set-user-ID and
// set-group-ID bits of a file among it, and kills a process that calls by the
// numbers of another architecture.
package seccomp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The system calls that a job has no use for and an attacker has: looking into
// other processes, new namespaces and mounts, keys, and the kernel's large and
// young interfaces. They answer EPERM.
var denied = append([]uint32{
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
	unix.SYS_KCMP, unix.SYS_PIDFD_GETFD, unix.SYS_PROCESS_MADVISE,
	unix.SYS_USERFAULTFD, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_ADD_KEY, unix.SYS_KEYCTL, unix.SYS_REQUEST_KEY,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_CHROOT,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_MOUNT_SETATTR,
	unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSCONFIG,
	unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_FANOTIFY_INIT,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_LOOKUP_DCOOKIE,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
	unix.SYS_SYSLOG, unix.SYS_VHANGUP, unix.SYS_NFSSERVCTL,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
	unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
}, deniedHere...)

// newNamespaces are the flags of clone that make a namespace.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// The socket families that stay. The network namespace confines them; it does
// not confine vsock, which reaches the machine's own host, nor the kernel's
// crypto sockets.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// The terminal commands that type for its user.
var deniedIoctls = []uint32{unix.TIOCSTI, 0x541c /* TIOCLINUX */}

// setID are the bits of a mode that make a program run as its owner or its group.
// What a job writes belongs to the hub's user, so such a program would be one that
// anybody who reaches the workspace runs as that user. On a directory a bit means
// something harmless, but the filter can't see what it is put on.
const setID = unix.S_ISUID | unix.S_ISGID

// creates are the flags with which open reads its mode.
const creates = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY

// modeCall is a system call that sets a file's mode: which argument that is, and
// which has open's flags, -1 for none.
type modeCall struct {
	nr          uint32
	mode, flags int
}

var modeCalls = append([]modeCall{
	{unix.SYS_OPENAT, 3, 2},
	{unix.SYS_FCHMOD, 1, -1}, {unix.SYS_FCHMODAT, 2, -1}, {unix.SYS_FCHMODAT2, 2, -1}, {unix.SYS_MKNODAT, 2, -1},
}, modeCallsHere...)

// Where the kernel puts things in what a filter sees (struct seccomp_data).
const (
	dataNr   = 0
	dataArch = 4
	dataArg0 = 16 // low half; arguments are 8 bytes apart, little endian
	dataArg1 = 24
)

const (
	allow      = unix.SECCOMP_RET_ALLOW
	deny       = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	unknown    = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	noFamily   = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
	killIt     = unix.SECCOMP_RET_KILL_PROCESS
	x32SyscBit = 0x40000000
)

// Filter returns the program, as the kernel reads it: everything is allowed
// but the above. Calls of another architecture, whose numbers mean other things,
// kill the process.
func Filter() []byte {
	var p program
	p.load(dataArch)
	p.unless(auditArch, killIt)
	p.load(dataNr)
	if auditArch == unix.AUDIT_ARCH_X86_64 {
		p.add(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, x32SyscBit, 0, 1)
		p.ret(killIt)
	}
	for _, c := range modeCalls {
		p.mode(c)
	}
	// These hide their flags and modes behind a pointer; libraries fall back to
	// clone and openat.
	p.when(unix.SYS_CLONE3, unknown)
	p.when(unix.SYS_OPENAT2, unknown)
	for _, nr := range denied {
		p.when(nr, deny)
	}
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SYS_CLONE, 0, 4)
	p.load(dataArg0)
	p.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, newNamespaces, 0, 1)
	p.ret(deny)
	p.ret(allow)
	n := uint8(len(deniedIoctls))
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SYS_IOCTL, 0, 2*n+2)
	p.load(dataArg1)
	for _, cmd := range deniedIoctls {
		p.when(cmd, deny)
	}
	p.ret(allow)
	n = uint8(len(families))
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.SYS_SOCKET, 0, 2*n+2)
	p.load(dataArg0)
	for _, family := range families {
		p.when(family, allow)
	}
	p.ret(noFamily)
	p.ret(allow)
	return p
}

// program is classic BPF in the form that the kernel reads.
type program []byte

func (p *program) add(code uint16, k uint32, jt, jf uint8) {
	b := binary.NativeEndian.AppendUint16(*p, code)
	*p = binary.NativeEndian.AppendUint32(append(b, jt, jf), k)
}

func (p *program) load(offset uint32) { p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
func (p *program) ret(action uint32)  { p.add(unix.BPF_RET|unix.BPF_K, action, 0, 0) }

// mode returns deny for a call that would set one of setID, and allow for another
// such call.
func (p *program) mode(c modeCall) {
	body := uint8(4)
	if c.flags >= 0 {
		body = 6
	}
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, c.nr, 0, body)
	if c.flags >= 0 {
		p.load(dataArg0 + 8*uint32(c.flags))
		p.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, creates, 0, 3)
	}
	p.load(dataArg0 + 8*uint32(c.mode))
	p.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, setID, 0, 1)
	p.ret(deny)
	p.ret(allow)
}

// when returns action if the loaded value is k; unless, if it is not.
func (p *program) when(k, action uint32) {
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, 1)
	p.ret(action)
}

func (p *program) unless(k, action uint32) {
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 1, 0)
	p.ret(action)
}

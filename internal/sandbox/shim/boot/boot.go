// Package boot is the first half of the shim: it takes the driver's order and
// starts the command, before the rest of the program has initialised. A large
// binary spends milliseconds on that, and the command need not wait for it.
//
// Go initialises a package as soon as all that it imports are. So this one
// imports next to nothing (a test has the list), does its work in an init function
// (the one exception to having none), and hands over to package shim what is left
// to do. In a process that is not a shim it does nothing.
package boot

import (
	"errors"
	"syscall"
	"unsafe"
)

// ExitSetup is the shim's exit code when the command could not be started.
const ExitSetup = 125

// Started is what the second half goes on with.
type Started struct {
	Child     int   // the command
	Listeners []int // descriptors, as Order.Forwards
	Terminal  int   // the outer end of the command's terminal; -1 if it has none
	Control   int   // the descriptor of the control pipe
	Order     Order
}

// started is set by init in a shim.
var started *Started

// Take returns what the first half has started, or nil in a process that is not
// a shim.
func Take() *Started { return started }

// patience is how long, in nanoseconds, the first half waits for a command that
// ends at once; then, or when the command connects to a port, the program goes on
// to initialise.
const patience = 20_000_000

func init() {
	if syscall.Getpid() != 1 {
		return
	}
	shim, socket := arguments()
	if !shim {
		return
	}
	s, err := begin(socket)
	if err != nil {
		failure := Failure{What: err.Error()}
		errors.As(err, &failure.Errno)
		_ = report(Status{Failed: &failure})
		syscall.Exit(ExitSetup)
	}
	if s.Terminal < 0 && endsSoon(s) { // a screen has to be carried first
		syscall.Exit(Reap(s.Child))
	}
	started = s
}

// arguments reads the arguments, which package os does not have yet: whether this
// is a shim, and the socket that it is to connect to.
func arguments() (shim bool, socket string) {
	fd, err := syscall.Open("/proc/self/cmdline", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false, ""
	}
	defer syscall.Close(fd)
	line := make([]byte, 256)
	n, err := syscall.Read(fd, line)
	if err != nil {
		return false, ""
	}
	_, rest, _ := cut(string(line[:n]), 0)
	arg, rest, _ := cut(rest, 0)
	socket, _, _ = cut(rest, 0)
	return arg == Arg, socket
}

// statusFD is where report writes: another descriptor than the usual one in a
// shim that was handed its descriptors.
var statusFD = StatusFD

func begin(socket string) (*Started, error) {
	given := handed{control: ControlFD, status: StatusFD}
	if socket != "" {
		var err error
		if given, err = connect(socket); err != nil {
			return nil, wrap("connecting to the driver", err)
		}
		statusFD = given.status
	}
	order, err := ReadOrder(fdReader(given.control))
	if err != nil {
		return nil, wrap("reading what to do", err)
	}
	if socket != "" {
		if err := given.lead(&order); err != nil {
			return nil, err
		}
	}
	if err := harden(); err != nil {
		return nil, wrap("closing the shim to the command", err)
	}
	if err := unignore(); err != nil {
		return nil, wrap("resetting the signals", err)
	}
	if err := filter(order.Filter); err != nil {
		return nil, wrap("setting the filter of system calls", err)
	}
	s := &Started{Order: order, Terminal: -1, Control: given.control}
	for _, f := range order.Forwards {
		fd, err := listen(f.Port)
		if err != nil {
			return nil, wrap("listening inside the sandbox", err)
		}
		s.Listeners = append(s.Listeners, fd)
	}
	files := [3]uintptr{0, 1, 2}
	if order.Rows > 0 {
		var inner int
		if s.Terminal, inner, err = openTerminal(order.Rows, order.Cols); err != nil {
			return nil, wrap("opening a terminal inside the sandbox", err)
		}
		// The shim keeps the inner end open, so that the terminal lives on when the
		// command closes it and opens it again.
		files = [3]uintptr{uintptr(inner), uintptr(inner), uintptr(inner)}
	}
	if s.Child, err = start(order, files); err != nil {
		return nil, err
	}
	return s, report(Status{Started: true})
}

// harden keeps the shim's descriptors and memory to itself.
func harden() error {
	_, _, errno := syscall.RawSyscall(sysCloseRange, ControlFD, 1<<20, closeRangeCloexec)
	if errno == syscall.ENOSYS || errno == syscall.EINVAL || errno == syscall.EPERM { // before Linux 5.11, or an old filter
		for fd := ControlFD; fd < 256; fd++ {
			syscall.CloseOnExec(fd)
		}
	} else if errno != 0 {
		return errno
	}
	// Not dumpable: a job of the same user can neither trace the shim nor open its
	// memory, its descriptors, or its program, which is the host's own file.
	if _, _, errno = syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// unignore gives the signals that this process ignores from its start on their
// default again; else the command would ignore them, too. nohup ignores SIGHUP,
// and what glibc's posix_spawn starts, such as make's recipes, ignores 32 and 33.
func unignore() error {
	const ignored = 1
	for signal := uintptr(1); signal <= 64; signal++ {
		var action [4]uintptr // handler, flags, restorer and mask, as the kernel has them
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, signal, 0, uintptr(unsafe.Pointer(&action)), 8, 0, 0); errno != 0 {
			return errno
		}
		if action[0] != ignored {
			continue
		}
		action = [4]uintptr{}
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0); errno != 0 {
			return errno
		}
	}
	return nil
}

// What package syscall does not name. The numbers of system calls this young are
// the same everywhere.
const (
	sysPidfdOpen      = 434
	sysCloseRange     = 436
	closeRangeCloexec = 4
	prSetDumpable     = 4
	rlimitNproc       = 6
	pollIn            = 1
)

func listen(port int) (int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	return fd, syscall.Listen(fd, 1024)
}

// start runs the command with its limits, on the given standard files.
func start(o Order, files [3]uintptr) (pid int, err error) {
	if err := syscall.Chdir(o.Dir); err != nil {
		return 0, wrap("working directory "+o.Dir, err)
	}
	path, err := look(o.Args[0], o.Env)
	if err != nil {
		return 0, wrap(o.Args[0]+" on the sandbox's PATH", err)
	}
	err = limit(syscall.RLIMIT_CORE, 0)
	if err == nil && o.FileSize > 0 { // the shim writes no file
		err = limit(syscall.RLIMIT_FSIZE, o.FileSize)
	}
	if err != nil {
		return 0, wrap("setting a limit", err)
	}
	attr := &syscall.ProcAttr{Env: o.Env, Files: files[:]}
	if o.Rows > 0 {
		attr.Sys = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	}
	if o.Processes > 0 {
		pid, err = startLimited(path, o, attr)
	} else {
		pid, err = syscall.ForkExec(path, o.Args, attr)
	}
	return pid, wrap("starting "+path, err)
}

func limit(what int, n int64) error {
	return syscall.Setrlimit(what, &syscall.Rlimit{Cur: uint64(n), Max: uint64(n)})
}

// startLimited bounds the number of processes of the command alone: a job that
// has used them up must not keep the shim from starting a thread. Go can't set a
// child's limit before it runs, so the child inherits a soft one, which is the
// shim's for that moment, and has it made hard at once.
func startLimited(path string, o Order, attr *syscall.ProcAttr) (pid int, err error) {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(rlimitNproc, &own); err != nil {
		return 0, err
	}
	n := min(uint64(o.Processes), own.Max)
	if err := syscall.Setrlimit(rlimitNproc, &syscall.Rlimit{Cur: n, Max: own.Max}); err != nil {
		return 0, err
	}
	pid, err = syscall.ForkExec(path, o.Args, attr)
	if err != nil {
		return 0, err
	}
	hard := syscall.Rlimit{Cur: n, Max: n}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(pid), rlimitNproc, uintptr(unsafe.Pointer(&hard)), 0, 0, 0)
	if errno != 0 && errno != syscall.ESRCH {
		return pid, errno
	}
	return pid, syscall.Setrlimit(rlimitNproc, &own)
}

// look finds a command as the shell would, by the command's own environment.
func look(name string, env []string) (string, error) {
	if _, _, slash := cut(name, '/'); slash {
		return name, nil
	}
	for _, kv := range env {
		variable, list, _ := cut(kv, '=')
		for more := variable == "PATH"; more; {
			var dir string
			dir, list, more = cut(list, ':')
			path := dir + "/" + name
			var st syscall.Stat_t
			if syscall.Stat(path, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Mode&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", syscall.ENOENT
}

// endsSoon reports whether the command ends before anything else needs doing.
func endsSoon(s *Started) bool {
	pidfd, _, errno := syscall.RawSyscall(sysPidfdOpen, uintptr(s.Child), 0, 0)
	if errno != 0 {
		return false
	}
	defer syscall.Close(int(pidfd))
	type pollFD struct {
		fd              int32
		events, revents int16
	}
	polls := []pollFD{{fd: int32(pidfd), events: pollIn}, {fd: int32(s.Control), events: pollIn}}
	for _, fd := range s.Listeners {
		polls = append(polls, pollFD{fd: int32(fd), events: pollIn})
	}
	wait := syscall.NsecToTimespec(patience)
	_, _, errno = syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&polls[0])), uintptr(len(polls)), uintptr(unsafe.Pointer(&wait)), 0, 0, 0)
	return errno == 0 && polls[0].revents != 0
}

// Reap waits for all children, the command and the orphans, until the command
// ends. It reports how, and returns the code to exit with: the command's, or 128
// plus the signal.
func Reap(child int) int {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return ExitSetup
		case pid != child || !ws.Exited() && !ws.Signaled():
			continue
		}
		exited := Exited{Code: ws.ExitStatus()}
		if ws.Signaled() {
			exited = Exited{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
		}
		_ = report(Status{Exited: &exited}) // the exit code says it too
		return exited.Code
	}
}

func report(s Status) error {
	_, err := syscall.Write(statusFD, []byte(s.String()))
	return wrap("speaking to the driver", err)
}

// fdReader reads from a descriptor.
type fdReader int

func (fd fdReader) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), b)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, errors.New("the driver is gone")
		}
		return n, nil
	}
}

// wrap says what failed, without package fmt.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return &failed{what, err}
}

type failed struct {
	what string
	err  error
}

func (f *failed) Error() string { return f.what + ": " + f.err.Error() }
func (f *failed) Unwrap() error { return f.err }

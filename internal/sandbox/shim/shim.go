// Package shim is the first process inside a sandbox (PID 1), the hub's own
// binary under another name. It guarantees:
//
//  1. The loopback ports lead to their sockets before the command starts.
//  2. The command gets nothing but its arguments, its environment, and standard
//     input, output and error: no descriptor, no configuration of the shim's.
//  3. No zombie stays, SIGTERM, SIGINT and SIGHUP reach the command, and every
//     process ends with it.
//  4. Everything ends when the driver's end of the control pipe closes, so also
//     when the driver is killed.
//
// It has nothing that a job could gain by attacking it: no privilege, and no
// secret that the job has not.
package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Wanted reports whether a process with these arguments (os.Args) is a shim. The
// hub's main asks it before anything else.
func Wanted(args []string) bool { return len(args) > 1 && args[1] == Arg }

// exitSetup is the shim's exit code when the command could not be started.
const exitSetup = 125

// Main is the shim. It returns the code to exit with: the command's, or 128 plus
// the signal that ended it.
func Main(args []string) int {
	if !Wanted(args) || os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "claude-hub: this command is for the inside of a sandbox only")
		return exitSetup
	}
	status := os.NewFile(StatusFD, "status")
	code, err := run(status)
	if err != nil {
		var errno syscall.Errno
		errors.As(err, &errno)
		io.WriteString(status, Status{Failed: &Failure{Errno: errno, What: err.Error()}}.String())
	}
	return code
}

func run(status io.Writer) (int, error) {
	syscall.SetNonblock(ControlFD, true) // so that reads go through the poller
	control := os.NewFile(ControlFD, "control")
	boot, err := ReadBoot(control)
	if err != nil {
		return exitSetup, fmt.Errorf("reading what to do: %w", err)
	}
	if err := harden(); err != nil {
		return exitSetup, err
	}
	for _, f := range boot.Forwards {
		if err := forward(f); err != nil {
			return exitSetup, err
		}
	}
	child, err := start(boot)
	if err != nil {
		return exitSetup, err
	}
	if _, err := io.WriteString(status, Status{Started: true}.String()); err != nil {
		return exitSetup, err
	}
	go obey(control, child)
	go relay(child)
	return reap(child, status)
}

// harden keeps the shim's descriptors and memory to itself.
func harden() error {
	err := unix.CloseRange(ControlFD, 1<<20, unix.CLOSE_RANGE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) { // before Linux 5.11
		err = nil
		for fd := ControlFD; fd < 256; fd++ {
			syscall.CloseOnExec(fd)
		}
	}
	// Not dumpable: a job of the same user can neither trace the shim nor open its
	// memory, its descriptors, or its program, which is the host's own file.
	if err == nil {
		err = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	if err != nil {
		return fmt.Errorf("closing the shim to the command: %w", err)
	}
	return nil
}

// start runs the command. Its limits are the shim's own from here on, since Go
// can't set a child's; the shim writes no file, and the driver leaves room for
// its threads.
func start(b Boot) (pid int, err error) {
	if err := os.Chdir(b.Dir); err != nil {
		return 0, fmt.Errorf("working directory: %w", err)
	}
	path, err := look(b.Args[0], b.Env)
	if err != nil {
		return 0, err
	}
	if b.FileSize > 0 {
		if err := limit(unix.RLIMIT_FSIZE, b.FileSize); err != nil {
			return 0, err
		}
	}
	if b.Processes > 0 {
		if err := limit(unix.RLIMIT_NPROC, int64(b.Processes)); err != nil {
			return 0, err
		}
	}
	if err := limit(unix.RLIMIT_CORE, 0); err != nil {
		return 0, err
	}
	pid, err = syscall.ForkExec(path, b.Args, &syscall.ProcAttr{
		Env: b.Env, Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", path, err)
	}
	return pid, nil
}

func limit(what int, n int64) error {
	if err := unix.Setrlimit(what, &unix.Rlimit{Cur: uint64(n), Max: uint64(n)}); err != nil {
		return fmt.Errorf("setting a limit: %w", err)
	}
	return nil
}

// look finds a command as the shell would, by the command's own environment.
func look(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(list, ":") {
			path := dir + "/" + name
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s is not on the sandbox's PATH: %w", name, syscall.ENOENT)
}

// obey does what the driver says, until the driver is gone; then it ends the
// sandbox, since PID 1 takes every process with it.
func obey(control io.Reader, child int) {
	var b [1]byte
	for {
		if _, err := control.Read(b[:]); err != nil {
			os.Exit(128 + int(syscall.SIGKILL))
		}
		if b[0] == Interrupt {
			syscall.Kill(child, syscall.SIGTERM)
		}
	}
}

// relay passes signals on to the command.
func relay(child int) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for s := range signals {
		syscall.Kill(child, s.(syscall.Signal))
	}
}

// reap waits for all children, its own and the orphans, until the command ends.
func reap(child int, status io.Writer) (int, error) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return exitSetup, fmt.Errorf("waiting for the command: %w", err)
		case pid != child:
			continue
		}
		exited := Exited{Code: ws.ExitStatus()}
		if ws.Signaled() {
			exited = Exited{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
		}
		io.WriteString(status, Status{Exited: &exited}.String())
		return exited.Code, nil
	}
}

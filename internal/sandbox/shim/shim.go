// Package shim is the first process inside a sandbox (PID 1), the hub's own
// binary under another name. It guarantees:
//
//  1. The loopback ports lead to their sockets before the command starts.
//  2. The command gets nothing but its arguments, its environment, and standard
//     input, output and error: no descriptor, no order of the shim's.
//  3. No zombie stays, SIGTERM, SIGINT and SIGHUP reach the command, and every
//     process ends with it.
//  4. Everything ends when the driver's end of the control pipe closes, so also
//     when the driver is killed.
//
// It has nothing that a job could gain by attacking it: no privilege, and no
// secret that the job has not. Its first half is package boot.
package shim

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
)

// Wanted reports whether a process with these arguments (os.Args) is a shim. The
// hub's main asks it before anything else.
func Wanted(args []string) bool { return len(args) > 1 && args[1] == boot.Arg }

// Main is the shim. It returns the code to exit with: the command's, or 128 plus
// the signal that ended it.
func Main(args []string) int {
	started := boot.Take()
	if !Wanted(args) || started == nil {
		fmt.Fprintln(os.Stderr, "claude-hub: this command is for the inside of a sandbox only")
		return boot.ExitSetup
	}
	for i, f := range started.Order.Forwards {
		l, err := net.FileListener(os.NewFile(uintptr(started.Listeners[i]), "listener"))
		if err != nil {
			fmt.Fprintln(os.Stderr, "claude-hub: taking over a port inside the sandbox:", err)
			return boot.ExitSetup
		}
		go serve(l.(*net.TCPListener), f.Socket)
	}
	// So that reads go through the poller; else they hold a thread.
	_ = syscall.SetNonblock(boot.ControlFD, true)
	go obey(os.NewFile(boot.ControlFD, "control"), started.Child)
	go relay(started.Child)
	return boot.Reap(started.Child)
}

// obey does what the driver says, until the driver is gone; then it ends the
// sandbox, since PID 1 takes every process with it.
func obey(control io.Reader, child int) {
	var b [1]byte
	for {
		if _, err := control.Read(b[:]); err != nil {
			os.Exit(128 + int(syscall.SIGKILL))
		}
		if b[0] == boot.Interrupt {
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

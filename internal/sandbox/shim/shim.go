// Package shim is the first process inside a sandbox (PID 1), the hub's own
// binary under another name. It guarantees:
//
//  1. The loopback ports lead to their sockets before the command starts.
//  2. The command gets nothing but its arguments, its environment, and standard
//     input, output and error: no descriptor, no order of the shim's.
//     A command that is to have a terminal gets one made here; the shim carries
//     its keys and its screen.
//  3. No zombie stays, SIGTERM, SIGINT and SIGHUP reach the command, and every
//     process ends with it.
//  4. Everything ends when the driver's end of the control pipe closes, so also
//     when the driver is killed.
//
// It has nothing that a job could gain by attacking it: no privilege, and no
// secret that the job has not. Its first half is package boot.
package shim

import (
	"encoding/binary"
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
	_ = syscall.SetNonblock(started.Control, true)
	go relay(started.Child)
	control := os.NewFile(uintptr(started.Control), "control")
	if started.Terminal < 0 {
		go obey(control, started.Child, nil)
		return boot.Reap(started.Child)
	}
	t := newTerminal(started.Terminal)
	go obey(control, started.Child, t)
	code := boot.Reap(started.Child)
	t.finish()
	return code
}

// obey does what the driver says, until the driver is gone; then it ends the
// sandbox, since PID 1 takes every process with it.
func obey(control io.Reader, child int, t *terminal) {
	var b [1]byte
	var size [4]byte
	for {
		_, err := control.Read(b[:])
		if err == nil && b[0] == boot.Resize {
			_, err = io.ReadFull(control, size[:])
		}
		switch {
		case err != nil:
			os.Exit(128 + int(syscall.SIGKILL))
		case b[0] == boot.Interrupt:
			syscall.Kill(child, syscall.SIGTERM)
		case b[0] == boot.Resize && t != nil:
			t.resize(binary.BigEndian.Uint16(size[:2]), binary.BigEndian.Uint16(size[2:]))
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

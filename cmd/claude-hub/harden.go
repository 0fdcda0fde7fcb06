package main

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// harden closes this process's memory, which comes to hold tokens: no other
// process of the same user can read or trace it, and it leaves no core file. The
// programs that it starts are not concerned.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("closing the process to others: %w", err)
	}
	return nil
}

// leaveNoCore is for a process that starts a CLI with a real login: a CLI that
// crashes would write it into a core file.
func leaveNoCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("turning core files off: %w", err)
	}
	return nil
}

// checkHome refuses a hub directory that is not this user's, or that others can
// change: they could put a socket there and be taken for the daemon.
func checkHome(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("looking at the hub's directory: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode().Perm(); {
	case !info.IsDir():
		return fmt.Errorf("%w: %s is not a directory", hub.ErrInvalid, dir)
	case !ok || int(stat.Uid) != os.Geteuid():
		return hub.Hint(fmt.Errorf("%w: %s belongs to another user", hub.ErrRefused, dir),
			"run as that user, or set CLAUDE_HUB_DIR to a hub of your own")
	case mode&0o077 != 0:
		return hub.Hint(fmt.Errorf("%w: %s is open to other users (mode %04o)", hub.ErrRefused, dir, mode), "chmod 0700 "+dir)
	}
	return nil
}

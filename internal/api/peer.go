package api

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// IsOwn reports whether the other end of a unix socket is a process of this user
// or of root. Modes say the same; this holds where they have been changed.
func IsOwn(conn net.Conn) bool {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return false
	}
	own := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		own = err == nil && (int(cred.Uid) == os.Geteuid() || cred.Uid == 0)
	})
	return err == nil && own
}

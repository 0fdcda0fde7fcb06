package wire

import (
	"crypto/tls"
	"net"
	"syscall"
)

// silent reports whether an idle connection is still open and has nothing to
// say. What an origin says unasked, its goodbye included, ends the connection.
func silent(c net.Conn) bool {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return true // found out by using it
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN //nolint:errorlint // an Errno
		return true
	})
	return err == nil && quiet
}

package shim

import (
	"errors"
	"io"
	"net"
	"time"
)

// serve leads each connection to the socket, until the listener is closed.
func serve(l *net.TCPListener, socket string) {
	for {
		in, err := l.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors: the job's doing, and passing
			continue
		}
		go join(in, socket)
	}
}

// join carries bytes both ways. Each side's end of writing is passed on by
// itself, so that a half-closed connection still gets its answer; an error on
// either side ends both.
func join(in *net.TCPConn, socket string) {
	defer in.Close()
	out, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return
	}
	defer out.Close()
	done := make(chan error, 2)
	go func() { done <- carry(out, in) }()
	go func() { done <- carry(in, out) }()
	for range 2 {
		if err := <-done; err != nil {
			return
		}
	}
}

type stream interface {
	io.ReadWriter
	CloseWrite() error
}

// carry lets the kernel move the bytes, where it can: both ends are sockets.
func carry(dst, src stream) error {
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.CloseWrite()
}

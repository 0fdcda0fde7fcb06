package server

import (
	"net"

	"github.com/claude-hub/claude-hub/internal/api"
)

// ownPeers accepts connections of processes that run as the daemon's own user
// and closes all others. The socket's mode says the same; this holds even where
// the mode has been changed.
type ownPeers struct{ net.Listener }

func (l ownPeers) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if api.IsOwn(conn) {
			return conn, nil
		}
		conn.Close()
	}
}

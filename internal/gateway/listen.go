package gateway

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// listen opens a unix socket at path, or a port on loopback if path is empty. It
// returns the Host headers that mean the port.
func listen(path string) (net.Listener, []string, error) {
	if path != "" {
		l, err := listenUnix(path)
		return l, nil, err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	return l, []string{"127.0.0.1:" + port, "localhost:" + port}, nil
}

// longestSocket is what the kernel takes as a socket's name.
const longestSocket = 107

// listenUnix makes a socket of mode 0600. The directory must be closed to
// others, because between bind and chmod the mode is the umask's.
func listenUnix(path string) (net.Listener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return nil, hub.Hint(fmt.Errorf("%w: the directory %s is open to others", hub.ErrRefused, dir.Name()), "chmod 700 "+dir.Name())
	}
	name := path
	if len(name) > longestSocket {
		name = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: %s", hub.ErrExists, path)
	}
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by the path instead, see socket
	s := &socket{UnixListener: l, path: path}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// socket takes its file away when it is closed, also if it was bound by a name
// that was good only for that moment.
type socket struct {
	*net.UnixListener
	path string
}

func (s *socket) Close() error {
	err := s.UnixListener.Close()
	if rm := os.Remove(s.path); !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/supervise"
)

// door is the socket where a container's shim fetches its descriptors.
type door struct {
	listener *net.UnixListener
	path     string
}

// listen opens the door in the place.
func (p *place) listen() (*door, error) {
	dir, err := p.subdir(doorName)
	if err != nil {
		return nil, fmt.Errorf("making a container's door: %w", err)
	}
	// A socket's path has 108 bytes at the most, and the hub's may have more.
	at, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("making a container's door: %w", err)
	}
	defer at.Close()
	short := "/proc/self/fd/" + strconv.Itoa(int(at.Fd())) + "/" + socketName
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making a container's door: %w", err)
	}
	l.SetUnlinkOnClose(false) // its short name means nothing later
	d := &door{l, dir + "/" + socketName}
	p.made = append(p.made, d.path)
	return d, os.Chmod(d.path, 0o600)
}

// close takes the door away.
func (d *door) close() {
	d.listener.Close()
	os.Remove(d.path)
}

// accept waits for the one connection and closes the door behind it. It returns
// the number of the process that has connected.
func (d *door) accept(ctx context.Context) (*net.UnixConn, int, error) {
	defer d.close()
	stop := context.AfterFunc(ctx, func() { d.listener.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := d.listener.AcceptUnix()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, 0, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, 0, err
	}
	var peer *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(cerr, err); err == nil && peer.Pid <= 0 {
		err = hub.Hint(errors.New("the container's processes can't be seen from here"), "run claude-hub in the same process namespace as the engine, on the host itself")
	}
	if err != nil {
		conn.Close()
		return nil, 0, err
	}
	return conn, int(peer.Pid), nil
}

// handOver gives the shim its descriptors.
func handOver(conn *net.UnixConn, ends *supervise.Ends, sockets []*os.File) error {
	defer conn.Close()
	fds := []int{
		int(ends.Stdin.Fd()), int(ends.Stdout.Fd()), int(ends.Stderr.Fd()), int(ends.Control.Fd()), int(ends.Status.Fd()),
	}
	for _, s := range sockets {
		fds = append(fds, int(s.Fd()))
	}
	conn.SetDeadline(time.Now().Add(startTimeout))
	_, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil)
	return err
}

// give lets the job open its own standard files again, as /dev/stderr for one: they
// are the hub's.
func give(ends *supervise.Ends, e *engine) error {
	if os.Getuid() != 0 {
		return nil
	}
	for _, f := range []*os.File{ends.Stdout, ends.Stderr} {
		if err := f.Chown(e.uid, e.gid); err != nil {
			return fmt.Errorf("giving the job its output: %w", err)
		}
	}
	if info, err := ends.Stdin.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		return ends.Stdin.Chown(e.uid, e.gid)
	}
	return nil
}

// sockets opens what Spec.Sockets lead to, so that they can be handed over: they
// are never mounted anywhere.
func (d *Driver) sockets(spec sandbox.Spec) ([]*os.File, error) {
	var all []*os.File
	for _, s := range spec.Sockets {
		info, err := os.Stat(s.Host)
		if err == nil && info.Mode().Type() != os.ModeSocket {
			err = fmt.Errorf("%s is not a socket", s.Host)
		}
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("%w: %w", hub.ErrInvalid, err)
		}
		var f *os.File
		if d.userns != nil {
			f, err = d.userns.clone(s.Host, false)
		} else {
			f, err = os.OpenFile(s.Host, unix.O_PATH, 0)
		}
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

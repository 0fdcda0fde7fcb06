package boot

import (
	"errors"
	"strconv"
	"syscall"
)

// handed is what a driver hands to a shim that had to connect to it.
type handed struct {
	control, status int
	sockets         []int // what Order.Forwards lead to, in their order
}

// HandedFiles is how many descriptors come before those of the sockets: standard
// input, output and error, control, status.
const HandedFiles = 5

// maxHanded bounds the descriptors of one message, as the kernel does.
const maxHanded = 253

// connect asks for the descriptors at the driver's socket, which answers once. It
// is for a driver that can't start its shim with them. Standard input, output and
// error take their places; the others keep the numbers that they got, because the
// runtime has files of its own by now.
func connect(path string) (handed, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return handed{}, err
	}
	defer syscall.Close(fd)
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		return handed{}, err
	}
	rights := make([]byte, syscall.CmsgSpace(4*maxHanded))
	var one [1]byte
	var n int
	for {
		_, n, _, _, err = syscall.Recvmsg(fd, one[:], rights, syscall.MSG_CMSG_CLOEXEC)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return handed{}, err
	}
	messages, err := syscall.ParseSocketControlMessage(rights[:n])
	if err != nil {
		return handed{}, err
	}
	var fds []int
	for i := range messages {
		more, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			return handed{}, err
		}
		fds = append(fds, more...)
	}
	if len(fds) < HandedFiles {
		return handed{}, errors.New("the driver handed over " + strconv.Itoa(len(fds)) + " descriptors")
	}
	for i, fd := range fds[:3] {
		if err := syscall.Dup3(fd, i, 0); err != nil {
			return handed{}, err
		}
		syscall.Close(fd)
	}
	return handed{control: fds[3], status: fds[4], sockets: fds[HandedFiles:]}, nil
}

// lead has the order's ports lead to the sockets that were handed over.
func (h handed) lead(o *Order) error {
	if len(h.sockets) != len(o.Forwards) {
		return errors.New(strconv.Itoa(len(h.sockets)) + " sockets for " + strconv.Itoa(len(o.Forwards)) + " ports")
	}
	for i, fd := range h.sockets {
		o.Forwards[i].Socket = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	return nil
}

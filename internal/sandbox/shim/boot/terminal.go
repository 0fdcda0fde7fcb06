package boot

import (
	"syscall"
	"unsafe"
)

// What package syscall does not name.
const (
	tiocsptlck  = 0x40045431 // unlock the inner end
	tiocgptpeer = 0x5441     // open the inner end without a path; Linux 4.13
)

// openTerminal makes a terminal. outer is what is typed and shown, and not
// blocking; inner is the command's end.
func openTerminal(rows, cols uint16) (outer, inner int, err error) {
	outer, err = syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return -1, -1, err
	}
	var locked int32
	if _, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(outer), tiocsptlck, uintptr(unsafe.Pointer(&locked))); errno != 0 {
		syscall.Close(outer)
		return -1, -1, errno
	}
	fd, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(outer), tiocgptpeer, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC)
	if errno != 0 {
		syscall.Close(outer)
		return -1, -1, errno
	}
	if err := SetWindow(outer, rows, cols); err != nil {
		syscall.Close(outer)
		syscall.Close(int(fd))
		return -1, -1, err
	}
	return outer, int(fd), nil
}

// SetWindow gives a terminal a size; the kernel tells its foreground process.
func SetWindow(fd int, rows, cols uint16) error {
	size := [4]uint16{rows, cols}
	_, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCSWINSZ, uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return errno
	}
	return nil
}

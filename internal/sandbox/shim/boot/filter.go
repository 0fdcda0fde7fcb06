package boot

import (
	"syscall"
	"unsafe"
)

// What package syscall does not name.
const (
	prSetNoNewPrivs   = 38
	seccompModeFilter = 1
	seccompAllThreads = 1
)

// filter puts this process, with all its threads, and what it starts under a
// system call filter: 8 bytes an instruction, as the kernel reads them. None sets
// none.
func filter(program []byte) error {
	if len(program) == 0 {
		return nil
	}
	if len(program)%8 != 0 {
		return syscall.EINVAL
	}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	prog := struct {
		length uint16
		filter unsafe.Pointer
	}{uint16(len(program) / 8), unsafe.Pointer(&program[0])}
	thread, _, errno := syscall.RawSyscall(sysSeccomp, seccompModeFilter, seccompAllThreads, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	if thread != 0 { // one that could not be put under it
		return syscall.ESRCH
	}
	return nil
}

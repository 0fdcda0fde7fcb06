package refresh

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// ballastSize is the room that an answer, the CLI's own files beside it, and the
// new generation in the vault may need; they take some 50 KiB.
const ballastSize = 4 << 20

// makeBallast takes room on the disk, so that nobody else can fill it while the
// answer is on its way.
func makeBallast(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), 0, 0, ballastSize)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) { // then by hand
		_, err = f.Write(make([]byte, ballastSize))
	}
	if err != nil {
		return noRoom(fmt.Errorf("taking room for the answer: %w", err))
	}
	return nil
}

// checkRoom refuses a file system that is nearly full, or read-only.
func checkRoom(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("looking at the disk: %w", os.NewSyscallError("statfs", err))
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return noRoom(fmt.Errorf("%s: %w", dir, unix.EROFS))
	}
	if free := st.Bavail * uint64(st.Bsize); free < ballastSize || st.Files > 0 && st.Ffree < 64 {
		return noRoom(fmt.Errorf("%s: %w", dir, unix.ENOSPC))
	}
	return nil
}

func noRoom(err error) error {
	return hub.Hint(err, "make room on the disk; the refresh is tried again by itself")
}

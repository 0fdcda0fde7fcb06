package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// What a hub needs of its disk. A refresh takes 4 MiB for itself before it begins,
// and a run is ended when less than its own minimum is left.
const (
	needBytes  = 32 << 20  // less is an error
	wantBytes  = 256 << 20 // less is a warning
	needInodes = 1000
)

var diskCheck = check{
	name: "disk", group: groupHub, hub: true, // writing may block on a disk in trouble: then it is a finding
	looks: []Entry{
		{ID: "disk-full", Level: LevelError, Meaning: "the hub's disk has little or no room, or no inodes: no refresh is begun without room for its answer"},
		{ID: "disk-write", Level: LevelError, Meaning: "the hub's disk can't be written to or made durable: read-only, or in trouble"},
	},
	run: lookAtDisk,
}

func lookAtDisk(_ context.Context, p *patient) []Finding {
	var st unix.Statfs_t
	if err := unix.Statfs(p.Dir, &st); err != nil {
		return []Finding{unwritten(p.Dir, err)}
	}
	var found []Finding
	if f, ok := room(p.Dir, st); ok {
		found = append(found, f)
	}
	if err := probeWrite(p.Dir); err != nil && (!errors.Is(err, unix.ENOSPC) || len(found) == 0) && !errors.Is(err, unix.EACCES) {
		found = append(found, unwritten(p.Dir, err)) // EACCES: permissions and owner say so
	}
	return found
}

func room(dir string, st unix.Statfs_t) (Finding, bool) {
	f := Finding{
		ID: "disk-full", Level: LevelError,
		Cause: "runs, the CLI or something else on that file system has filled it",
		Fix:   "make room: `df -h " + quote(dir) + "`, `du -sh " + quote(dir) + "/*`",
	}
	free := st.Bavail * uint64(st.Bsize) //nolint:gosec // a block size is positive
	switch {
	case free < needBytes:
		f.Symptom = fmt.Sprintf("%d MiB are free on the hub's disk: refreshes wait until there is room", free>>20)
	case st.Files > 0 && st.Ffree < needInodes:
		f.Symptom = fmt.Sprintf("%d inodes are free on the hub's disk: no more files can be made", st.Ffree)
		f.Fix = "remove files: `df -i " + quote(dir) + "`"
	case free < wantBytes && total(st) >= 2*wantBytes:
		f.Level = LevelWarning
		f.Symptom = fmt.Sprintf("%d MiB are free on the hub's disk", free>>20)
	default:
		return f, false
	}
	return f, true
}

func total(st unix.Statfs_t) uint64 { return st.Blocks * uint64(st.Bsize) } //nolint:gosec // a block size is positive

func unwritten(dir string, err error) Finding {
	f := Finding{
		ID: "disk-write", Level: LevelError,
		Symptom: fmt.Sprintf("a file in %s can't be written durably: %v", dir, err),
		Cause:   "a disk in trouble, or a file system that can't do it",
		Fix:     "look in the kernel's log (`dmesg`), and have the hub on a local disk",
	}
	if errors.Is(err, unix.EROFS) {
		f.Cause = "the file system is mounted read-only: by its mount (`:ro` on a hub's own volume), or by the kernel after an error"
		f.Fix = "mount it for writing; if the kernel did it, look in its log (`dmesg`)"
	}
	return f
}

// probeWrite writes a block to a file without a name and has it made durable. The
// file leaves no trace, also when this process is killed.
func probeWrite(dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return nil // a file system without such files; statfs has been looked at
	}
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
		return os.NewSyscallError("write", err)
	}
	return os.NewSyscallError("fsync", unix.Fsync(fd))
}

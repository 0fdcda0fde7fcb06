package supervise

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// Slack is how many threads the shim may have, where there is no control
// group: the kernel counts them against the job's limit.
const Slack = 16

// watcher looks at a sandbox every so often.
type watcher struct {
	quit chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

func (w *watcher) stop() {
	w.once.Do(func() { close(w.quit) })
	w.wg.Wait()
}

// watch starts looking, if there is anything to look at.
func (p *Process) watch() *watcher {
	w := &watcher{quit: make(chan struct{})}
	var looks []func() sandbox.Reason
	if p.spec.Limits.MinFree > 0 {
		looks = append(looks, p.lookAtDisk)
	}
	if p.killed != nil {
		looks = append(looks, p.lookAtGroup)
	}
	if p.procs != nil {
		looks = append(looks, p.lookAtProcesses)
	}
	if len(looks) == 0 {
		return w
	}
	w.wg.Go(func() {
		tick := time.NewTicker(p.cfg.Interval)
		defer tick.Stop()
		for {
			for _, look := range looks {
				if why := look(); why != sandbox.ReasonNone {
					p.End(why)
				}
			}
			select {
			case <-tick.C:
			case <-w.quit:
				return
			}
		}
	})
	return w
}

// lookAtDisk looks for room on each file system that the job may fill.
func (p *Process) lookAtDisk() sandbox.Reason {
	paths := []string{p.spec.Home}
	for _, m := range p.spec.Mounts {
		if m.Writable {
			paths = append(paths, m.Source)
		}
	}
	for _, path := range paths {
		var fs unix.Statfs_t
		if path == "" || unix.Statfs(path, &fs) != nil {
			continue
		}
		if full(&fs, p.spec.Limits.MinFree) {
			return sandbox.ReasonDisk
		}
	}
	return sandbox.ReasonNone
}

// minInodes is how many files a file system must still take: or a twentieth of all,
// where that is less.
const minInodes = 10_000

// full reports whether less than minFree bytes, or too few files, can still be
// written. A file system that doesn't count files says that it has none.
func full(fs *unix.Statfs_t, minFree int64) bool {
	return int64(fs.Bavail)*fs.Bsize < minFree || fs.Files > 0 && fs.Ffree < min(minInodes, fs.Files/20)
}

// lookAtGroup ends a sandbox in which the kernel had to kill for memory: what is
// left of it would only fail in odder ways.
func (p *Process) lookAtGroup() sandbox.Reason {
	if p.killed() {
		return sandbox.ReasonMemory
	}
	return sandbox.ReasonNone
}

// lookAtProcesses adds up memory and threads of all processes of the sandbox, as
// its own /proc lists them.
func (p *Process) lookAtProcesses() sandbox.Reason {
	limits := p.spec.Limits
	var memory int64
	threads := 0
	pids := p.listProcesses()
	for _, pid := range pids {
		rss, n := p.measure(pid)
		memory += rss
		threads += n
	}
	switch {
	case limits.Processes > 0 && threads > limits.Processes:
		return sandbox.ReasonProcesses
	case limits.Memory > 0 && memory > limits.Memory:
		return sandbox.ReasonMemory
	}
	return sandbox.ReasonNone
}

// insideProc is the sandbox's /proc, relative to its PID 1's directory in ours.
const insideProc = "root/proc"

// listProcesses names the sandbox's processes but the shim. There are none when
// it has ended.
func (p *Process) listProcesses() []string {
	fd, err := unix.Openat(int(p.procs.Fd()), insideProc, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	dir := os.NewFile(uintptr(fd), insideProc)
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	pids := names[:0]
	for _, name := range names {
		if _, err := strconv.Atoi(name); err == nil && name != "1" {
			pids = append(pids, name)
		}
	}
	return pids
}

// measure returns the memory that is the process's own (so without the pages of
// programs and libraries, which many share), and its number of threads.
func (p *Process) measure(pid string) (memory int64, threads int) {
	fd, err := unix.Openat(int(p.procs.Fd()), insideProc+"/"+pid+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0
	}
	defer unix.Close(fd)
	var buf [4096]byte
	n, _ := unix.Read(fd, buf[:])
	return parseStatus(buf[:max(0, n)])
}

// parseStatus reads RssAnon, RssShmem and Threads of a status file. A job
// chooses its name there, but not a newline in it.
func parseStatus(status []byte) (memory int64, threads int) {
	for line := range bytes.Lines(status) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		value, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
		switch string(name) {
		case "RssAnon", "RssShmem":
			kib, _ := strconv.ParseInt(string(value), 10, 64)
			memory += kib << 10
		case "Threads":
			threads, _ = strconv.Atoi(string(value))
		}
	}
	return memory, threads
}

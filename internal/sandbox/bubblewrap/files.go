package bubblewrap

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/supervise"
)

// inherited are the files that bubblewrap starts with. The first two of extra
// are the shim's, see package shim; the others are read or opened through
// /proc/self/fd, which saves a mount for each.
type inherited struct {
	*supervise.Ends
	extra []*os.File
	errs  []error

	info, seccomp, shim string   // numbers of descriptors, inside
	etc                 []string // as the driver's etc
	sockets             []string // paths, as Spec.Sockets
}

// open opens all that a sandbox needs. Nothing stays open when it fails.
func (d *Driver) open(spec sandbox.Spec) (pipes *supervise.Pipes, info *os.File, in *inherited, err error) {
	pipes, ends, err := supervise.Open(spec.Stdin != nil)
	if err != nil {
		return nil, nil, nil, err
	}
	in = &inherited{Ends: ends}
	info, itsInfo := in.pipe()
	in.add(ends.Control)
	in.add(ends.Status)
	in.info = in.add(itsInfo)
	in.seccomp = in.add(in.ready(d.seccomp))
	in.shim = in.add(in.file(d.shim, os.O_RDONLY))
	for _, file := range d.etc {
		if file.host != "" {
			in.etc = append(in.etc, in.add(in.file(file.host, os.O_RDONLY)))
		} else {
			in.etc = append(in.etc, in.add(in.ready([]byte(file.text))))
		}
	}
	for _, s := range spec.Sockets {
		in.sockets = append(in.sockets, "/proc/self/fd/"+in.add(in.socket(s.Host)))
	}
	if err := errors.Join(in.errs...); err != nil {
		pipes.Close()
		info.Close()
		in.close()
		return nil, nil, nil, err
	}
	return pipes, info, in, nil
}

// add gives f to bubblewrap and returns its number there.
func (in *inherited) add(f *os.File) string {
	in.extra = append(in.extra, f)
	return strconv.Itoa(2 + len(in.extra))
}

func (in *inherited) pipe() (r, w *os.File) {
	r, w, err := os.Pipe()
	in.errs = append(in.errs, err)
	return r, w
}

func (in *inherited) file(path string, flags int) *os.File {
	f, err := os.OpenFile(path, flags, 0)
	in.errs = append(in.errs, err)
	return f
}

// ready returns a pipe that holds data, which must be smaller than a pipe.
func (in *inherited) ready(data []byte) *os.File {
	r, w := in.pipe()
	if w != nil {
		_, err := w.Write(data)
		in.errs = append(in.errs, err)
		w.Close()
	}
	return r
}

func (in *inherited) socket(path string) *os.File {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Type() != os.ModeSocket {
		err = fmt.Errorf("%s is not a socket", path)
	}
	if err != nil {
		in.errs = append(in.errs, fmt.Errorf("%w: %w", hub.ErrInvalid, err))
		return nil
	}
	return in.file(path, unix.O_PATH)
}

func (in *inherited) close() {
	in.Close()
	for _, f := range in.extra {
		f.Close() // control and status a second time, which only returns an error
	}
}

package bubblewrap

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// pipes are the driver's ends of the pipes to a sandbox.
type pipes struct {
	stdin, control               *os.File // to the sandbox; stdin is nil without an input
	stdout, stderr, status, info *os.File // from it
}

func (p *pipes) close() {
	for _, file := range []*os.File{p.stdin, p.stdout, p.stderr, p.control, p.status, p.info} {
		file.Close() // a nil *os.File only returns an error
	}
}

// inherited are the files that bubblewrap starts with. The first two of extra
// are the shim's, see package shim; the others are read or opened through
// /proc/self/fd, which saves a mount for each.
type inherited struct {
	stdin, stdout, stderr *os.File
	extra                 []*os.File
	errs                  []error

	info, seccomp, shim string   // numbers of descriptors, inside
	etc                 []string // as the driver's etc
	sockets             []string // paths, as Spec.Sockets
}

// open opens all that a sandbox needs. Nothing stays open when it fails.
func (d *Driver) open(spec sandbox.Spec) (*pipes, *inherited, error) {
	p, in := &pipes{}, &inherited{}
	if spec.Stdin != nil {
		in.stdin, p.stdin = in.pipe()
	} else {
		in.stdin = in.file(os.DevNull, os.O_RDONLY)
	}
	p.stdout, in.stdout = in.pipe()
	p.stderr, in.stderr = in.pipe()
	var control, status, info *os.File
	control, p.control = in.pipe()
	p.status, status = in.pipe()
	p.info, info = in.pipe()
	in.add(control)
	in.add(status)
	in.info = in.add(info)
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
		p.close()
		in.close()
		return nil, nil, err
	}
	return p, in, nil
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
	for _, f := range append(in.extra, in.stdin, in.stdout, in.stderr) {
		f.Close()
	}
}

package bubblewrap

import (
	"errors"
	"os"
)

// files are the driver's ends of the pipes to a sandbox.
type files struct {
	stdin, control               *os.File // to the sandbox; stdin is nil without an input
	stdout, stderr, status, info *os.File // from it
}

// ends are bubblewrap's ends of the same pipes, and what it reads once.
type ends struct {
	stdin, stdout, stderr *os.File
	control, status, info *os.File
	seccomp               *os.File
	etc                   []*os.File
}

// open makes the pipes. What it has opened when it fails, is closed.
func (f *files) open(seccomp []byte, input bool) (*ends, error) {
	e := &ends{}
	var errs []error
	in := func(ours, theirs **os.File) { // we write
		r, w, err := os.Pipe()
		*theirs, *ours, errs = r, w, append(errs, err)
	}
	out := func(ours, theirs **os.File) { // we read
		r, w, err := os.Pipe()
		*ours, *theirs, errs = r, w, append(errs, err)
	}
	ready := func(data []byte) *os.File { // smaller than a pipe
		r, w, err := os.Pipe()
		if err == nil {
			_, err = w.Write(data)
			w.Close()
		}
		errs = append(errs, err)
		return r
	}
	if input {
		in(&f.stdin, &e.stdin)
	} else {
		null, err := os.Open(os.DevNull)
		e.stdin, errs = null, append(errs, err)
	}
	out(&f.stdout, &e.stdout)
	out(&f.stderr, &e.stderr)
	in(&f.control, &e.control)
	out(&f.status, &e.status)
	out(&f.info, &e.info)
	e.seccomp = ready(seccomp)
	for _, file := range etc {
		e.etc = append(e.etc, ready([]byte(file.text)))
	}
	if err := errors.Join(errs...); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// extra is bubblewrap's files from descriptor 3 on: the shim's two first.
func (e *ends) extra() []*os.File {
	return append([]*os.File{e.control, e.status, e.info, e.seccomp}, e.etc...)
}

// numbers says where extra puts them.
func (e *ends) numbers() descriptors { return descriptors{info: 5, seccomp: 6, etc: 7} }

func (e *ends) close() {
	for _, f := range append(e.extra(), e.stdin, e.stdout, e.stderr) {
		f.Close() // a nil *os.File only returns an error
	}
}

func (f *files) close() {
	for _, file := range []*os.File{f.stdin, f.stdout, f.stderr, f.control, f.status, f.info} {
		file.Close()
	}
}

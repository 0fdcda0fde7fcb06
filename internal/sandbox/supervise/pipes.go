package supervise

import (
	"errors"
	"os"
)

// Pipes are the driver's ends of the pipes to a sandbox.
type Pipes struct {
	Stdin          *os.File // to the sandbox; nil without an input
	Control        *os.File // to the shim
	Stdout, Stderr *os.File // from the sandbox
	Status         *os.File // from the shim
}

// Close closes all of them.
func (p *Pipes) Close() {
	for _, file := range []*os.File{p.Stdin, p.Stdout, p.Stderr, p.Control, p.Status} {
		file.Close() // a nil *os.File only returns an error
	}
}

// Ends are the sandbox's ends.
type Ends struct {
	Stdin, Stdout, Stderr *os.File
	Control, Status       *os.File
}

// Close closes all of them.
func (e *Ends) Close() {
	for _, file := range []*os.File{e.Stdin, e.Stdout, e.Stderr, e.Control, e.Status} {
		file.Close()
	}
}

// Open makes the pipes of one sandbox; without an input, its standard input is
// empty. Nothing stays open when it fails.
func Open(input bool) (*Pipes, *Ends, error) {
	p, e := &Pipes{}, &Ends{}
	var errs []error
	pipe := func(r, w **os.File) {
		var err error
		*r, *w, err = os.Pipe()
		errs = append(errs, err)
	}
	if input {
		pipe(&e.Stdin, &p.Stdin)
	} else {
		var err error
		e.Stdin, err = os.Open(os.DevNull)
		errs = append(errs, err)
	}
	pipe(&p.Stdout, &e.Stdout)
	pipe(&p.Stderr, &e.Stderr)
	pipe(&e.Control, &p.Control)
	pipe(&p.Status, &e.Status)
	if err := errors.Join(errs...); err != nil {
		p.Close()
		e.Close()
		return nil, nil, err
	}
	return p, e, nil
}

package boot

import (
	"errors"
	"io"
	"strconv"
	"syscall"
)

// Arg as the first argument makes the hub's binary act as the shim.
const Arg = "sandbox-shim"

// The descriptors that a driver gives the shim. One that can't do that gives it
// the path of a socket as its second argument, and hands them over there.
const (
	// ControlFD is a pipe from the driver: first the [Order], then one byte for
	// each thing to do. Its end kills the sandbox.
	ControlFD = 3
	// StatusFD is a pipe to the driver: one line for each [Status].
	StatusFD = 4
)

// What a byte on the control pipe means.
const (
	// Interrupt sends SIGTERM to the command.
	Interrupt byte = 'T'
	// Resize gives the command's terminal another size: rows and columns follow,
	// in two bytes each, the high one first.
	Resize byte = 'W'
)

// Order is what the shim is to do. It comes over a pipe, because arguments and
// environment can be read by every user of the host.
type Order struct {
	Args     []string
	Env      []string
	Dir      string
	Forwards []Forward
	// FileSize and Processes become resource limits of the command; 0 is none.
	FileSize  int64
	Processes int
	// Rows and Cols are the size of the command's terminal; 0 is no terminal.
	Rows, Cols uint16
	// Filter is the system call filter for the shim and the command, 8 bytes an
	// instruction; empty where the driver has set one.
	Filter []byte
}

// Forward is a loopback port that leads to a unix socket.
type Forward struct {
	Port   int
	Socket string
}

// MaxOrder bounds an Order on the wire: an argument list and an environment can't
// be longer in the kernel either.
const MaxOrder = 8 << 20

// ReadOrder receives an order, and not a byte more: its length in 4 bytes, then
// its fields, each ended by NUL, which none can contain; a list begins with its
// length.
func ReadOrder(r io.Reader) (Order, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return Order{}, err
	}
	n := uint32(size[0])<<24 | uint32(size[1])<<16 | uint32(size[2])<<8 | uint32(size[3])
	if n == 0 || n > MaxOrder {
		return Order{}, errors.New("an order of " + strconv.Itoa(int(n)) + " bytes")
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return Order{}, err
	}
	return parseOrder(string(data))
}

func parseOrder(data string) (Order, error) {
	f := fields{rest: data}
	o := Order{Dir: f.text(), FileSize: f.number(1<<63 - 1), Processes: int(f.number(1<<31 - 1))}
	o.Args = f.list()
	o.Env = f.list()
	for range f.number(maxForwards) {
		o.Forwards = append(o.Forwards, Forward{Port: int(f.number(65535)), Socket: f.text()})
	}
	o.Rows, o.Cols = uint16(f.number(65535)), uint16(f.number(65535))
	o.Filter = f.bytes()
	if f.bad || f.rest != "" || len(o.Args) == 0 {
		return Order{}, errors.New("an order that makes no sense")
	}
	return o, nil
}

// maxForwards bounds the ports of one sandbox.
const maxForwards = 64

// fields takes an order apart. After the first that is missing or is no
// number, bad is set, and all others are empty.
type fields struct {
	rest string
	bad  bool
}

func (f *fields) text() string {
	text, rest, ok := cut(f.rest, 0)
	if !ok || f.bad {
		f.bad = true
		return ""
	}
	f.rest = rest
	return text
}

func (f *fields) number(most int64) int64 {
	n, err := strconv.ParseInt(f.text(), 10, 64)
	if err != nil || n < 0 || n > most {
		f.bad = true
		return 0
	}
	return n
}

func (f *fields) list() []string {
	// Each element has a byte at least, so that the length can't ask for more
	// memory than the message has.
	n := f.number(int64(len(f.rest)))
	list := make([]string, 0, n)
	for range n {
		list = append(list, f.text())
	}
	return list
}

// bytes reads hexadecimal digits, two a byte.
func (f *fields) bytes() []byte {
	text := f.text()
	if len(text)%2 != 0 {
		f.bad = true
		return nil
	}
	var data []byte
	for ; text != ""; text = text[2:] {
		b, err := strconv.ParseUint(text[:2], 16, 8)
		if err != nil {
			f.bad = true
			return nil
		}
		data = append(data, byte(b))
	}
	return data
}

// Status is what the shim says: that the command runs, that it can't be started,
// or how it ended. Exactly one of the fields is set.
type Status struct {
	Started bool
	Failed  *Failure
	Exited  *Exited
}

// Failure is why the command could not be started.
type Failure struct {
	Errno syscall.Errno // 0 if unknown
	What  string
}

// Exited is how the command ended: Signal is 0 if it exited by itself.
type Exited struct {
	Code   int
	Signal syscall.Signal
}

// String returns the line that stands for s on the status pipe.
func (s Status) String() string {
	switch {
	case s.Failed != nil:
		return "failed " + strconv.Itoa(int(s.Failed.Errno)) + " " + strconv.Quote(s.Failed.What) + "\n"
	case s.Exited != nil:
		return "exited " + strconv.Itoa(s.Exited.Code) + " " + strconv.Itoa(int(s.Exited.Signal)) + "\n"
	}
	return "started\n"
}

// cut is strings.Cut, without package strings.
func cut(s string, sep byte) (before, after string, found bool) {
	for i := range len(s) {
		if s[i] == sep {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

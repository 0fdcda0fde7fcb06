package boot

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"syscall"
)

// Arg, as the first argument, makes the hub's binary act as the shim.
const Arg = "sandbox-shim"

// The descriptors that a driver gives the shim.
const (
	// ControlFD is a pipe from the driver: first the [Order], then one byte for
	// each thing to do. Its end kills the sandbox.
	ControlFD = 3
	// StatusFD is a pipe to the driver: one line for each [Status].
	StatusFD = 4
)

// Interrupt, on the control pipe, sends SIGTERM to the command.
const Interrupt byte = 'T'

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
}

// Forward is a loopback port that leads to a unix socket.
type Forward struct {
	Port   int
	Socket string
}

// maxOrder bounds an Order on the wire: an argument list and an environment can't
// be longer in the kernel either.
const maxOrder = 8 << 20

// WriteOrder sends o in one write: its length in 4 bytes, then its fields, each
// ended by NUL, which none can contain; a list begins with its length.
func WriteOrder(w io.Writer, o Order) error {
	fields := []string{o.Dir, strconv.FormatInt(o.FileSize, 10), strconv.Itoa(o.Processes), strconv.Itoa(len(o.Args))}
	fields = append(fields, o.Args...)
	fields = append(append(fields, strconv.Itoa(len(o.Env))), o.Env...)
	fields = append(fields, strconv.Itoa(len(o.Forwards)))
	for _, f := range o.Forwards {
		fields = append(fields, strconv.Itoa(f.Port), f.Socket)
	}
	data := make([]byte, 4)
	for _, field := range fields {
		if strings.ContainsRune(field, 0) {
			return errors.New("a NUL byte in the command or its environment")
		}
		data = append(append(data, field...), 0)
	}
	if len(data) > maxOrder {
		return errors.New("the command and its environment have more than " + strconv.Itoa(maxOrder) + " bytes")
	}
	binary.BigEndian.PutUint32(data, uint32(len(data)-4))
	_, err := w.Write(data)
	return err
}

// ReadOrder receives what WriteOrder sent, and not a byte more.
func ReadOrder(r io.Reader) (Order, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return Order{}, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > maxOrder {
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
	o := Order{Dir: f.text(), FileSize: f.number(math.MaxInt64), Processes: int(f.number(math.MaxInt32))}
	o.Args = f.list()
	o.Env = f.list()
	for range f.number(maxForwards) {
		o.Forwards = append(o.Forwards, Forward{Port: int(f.number(65535)), Socket: f.text()})
	}
	if f.bad || f.rest != "" || len(o.Args) == 0 {
		return Order{}, errors.New("an order that makes no sense")
	}
	return o, nil
}

const maxForwards = 64

// fields takes an order apart. After the first that is missing or is no
// number, bad is set, and all others are empty.
type fields struct {
	rest string
	bad  bool
}

func (f *fields) text() string {
	text, rest, ok := strings.Cut(f.rest, "\x00")
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

// ParseStatus reads one line of the status pipe. A job might have written it.
func ParseStatus(line string) (Status, error) {
	bad := errors.New("the sandbox's shim said " + strconv.Quote(line[:min(len(line), 100)]))
	line, ok := strings.CutSuffix(line, "\n")
	if !ok {
		return Status{}, bad
	}
	word, rest, _ := strings.Cut(line, " ")
	first, second, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(first)
	switch word {
	case "started":
		if rest == "" {
			return Status{Started: true}, nil
		}
	case "failed":
		what, qerr := strconv.Unquote(second)
		if err == nil && qerr == nil && n >= 0 && n < 4096 {
			return Status{Failed: &Failure{Errno: syscall.Errno(n), What: what}}, nil
		}
	case "exited":
		sig, serr := strconv.Atoi(second)
		if err == nil && serr == nil && n >= 0 && n <= 255 && sig >= 0 && sig <= 64 {
			return Status{Exited: &Exited{Code: n, Signal: syscall.Signal(sig)}}, nil
		}
	}
	return Status{}, bad
}

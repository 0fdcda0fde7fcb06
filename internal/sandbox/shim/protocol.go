package shim

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
)

// WriteOrder sends o in one write: its length in 4 bytes, then its fields, each
// ended by NUL, which none can contain; a list begins with its length.
func WriteOrder(w io.Writer, o boot.Order) error {
	fields := []string{o.Dir, strconv.FormatInt(o.FileSize, 10), strconv.Itoa(o.Processes), strconv.Itoa(len(o.Args))}
	fields = append(fields, o.Args...)
	fields = append(append(fields, strconv.Itoa(len(o.Env))), o.Env...)
	fields = append(fields, strconv.Itoa(len(o.Forwards)))
	for _, f := range o.Forwards {
		fields = append(fields, strconv.Itoa(f.Port), f.Socket)
	}
	fields = append(fields, strconv.Itoa(int(o.Rows)), strconv.Itoa(int(o.Cols)), hex.EncodeToString(o.Filter))
	data := make([]byte, 4)
	for _, field := range fields {
		if strings.ContainsRune(field, 0) {
			return errors.New("a NUL byte in the command or its environment")
		}
		data = append(append(data, field...), 0)
	}
	if len(data) > boot.MaxOrder {
		return fmt.Errorf("the command and its environment have %d bytes, more than %d", len(data), boot.MaxOrder)
	}
	binary.BigEndian.PutUint32(data, uint32(len(data)-4))
	_, err := w.Write(data)
	return err
}

// ResizeMessage returns what the control pipe gets for a terminal of another size.
func ResizeMessage(rows, cols uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16([]byte{boot.Resize}, rows), cols)
}

// ParseStatus reads one line of the status pipe. A job might have written it.
func ParseStatus(line string) (boot.Status, error) {
	bad := fmt.Errorf("the sandbox's shim said %.100q", line)
	line, ok := strings.CutSuffix(line, "\n")
	if !ok {
		return boot.Status{}, bad
	}
	word, rest, _ := strings.Cut(line, " ")
	first, second, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(first)
	switch word {
	case "started":
		if rest == "" {
			return boot.Status{Started: true}, nil
		}
	case "failed":
		what, qerr := strconv.Unquote(second)
		if err == nil && qerr == nil && n >= 0 && n < 4096 {
			return boot.Status{Failed: &boot.Failure{Errno: syscall.Errno(n), What: what}}, nil
		}
	case "exited":
		sig, serr := strconv.Atoi(second)
		if err == nil && serr == nil && n >= 0 && n <= 255 && sig >= 0 && sig <= 64 {
			return boot.Status{Exited: &boot.Exited{Code: n, Signal: syscall.Signal(sig)}}, nil
		}
	}
	return boot.Status{}, bad
}

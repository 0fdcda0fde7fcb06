package shim_test

import (
	"bytes"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
)

func TestOrderArrivesAsSent(t *testing.T) {
	for _, order := range []boot.Order{
		{Args: []string{"true"}},
		{
			Args: []string{"a b", "", "\xff\n", "ü"}, Env: []string{"A=", "B=\xfe"}, Dir: "/x\n",
			Forwards: []boot.Forward{{Port: 4017, Socket: "/a b"}, {Port: 65535, Socket: ""}}, FileSize: 1 << 62, Processes: 7, Rows: 1, Cols: 65535,
		},
		{Args: []string{strings.Repeat("x", 1<<20)}, Env: make([]string, 5000)},
	} {
		var wire bytes.Buffer
		if err := shim.WriteOrder(&wire, order); err != nil {
			t.Fatal(err)
		}
		wire.WriteString("T") // what comes next must stay on the wire
		got, err := boot.ReadOrder(&wire)
		if err != nil {
			t.Fatal(err)
		}
		if order.Env == nil {
			order.Env = []string{}
		}
		if !reflect.DeepEqual(got, order) {
			t.Errorf("got %.200v; want %.200v", got, order)
		}
		if wire.String() != "T" {
			t.Errorf("after the message, %q is on the wire", wire.String())
		}
	}
}

func TestWriteOrderRefuses(t *testing.T) {
	for name, order := range map[string]boot.Order{
		"NUL":      {Args: []string{"a\x00b"}},
		"too much": {Args: []string{strings.Repeat("x", 9<<20)}},
	} {
		var wire bytes.Buffer
		if err := shim.WriteOrder(&wire, order); err == nil || wire.Len() > 0 {
			t.Errorf("%s: error %v and %d bytes", name, err, wire.Len())
		}
	}
}

func FuzzReadOrder(f *testing.F) {
	var wire bytes.Buffer
	shim.WriteOrder(&wire, boot.Order{Args: []string{"a", "b"}, Env: []string{"A=b"}, Forwards: []boot.Forward{{Port: 1, Socket: "s"}}})
	f.Add(wire.Bytes())
	f.Add([]byte("\x00\x00\x00\x0c\x000\x000\x00999999\x00"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		order, err := boot.ReadOrder(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := shim.WriteOrder(&again, order); err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		if got, err := boot.ReadOrder(&again); err != nil || !reflect.DeepEqual(got, order) {
			t.Errorf("read again: %v, %v; want %v", got, err, order)
		}
	})
}

func TestStatusArrivesAsSent(t *testing.T) {
	for _, s := range []boot.Status{
		{Started: true},
		{Failed: &boot.Failure{Errno: syscall.ENOENT, What: "two\nlines and \"quotes\" \xff"}},
		{Exited: &boot.Exited{Code: 255}},
		{Exited: &boot.Exited{Code: 137, Signal: syscall.SIGKILL}},
	} {
		line := s.String()
		if got, err := shim.ParseStatus(line); err != nil || !reflect.DeepEqual(got, s) || strings.Count(line, "\n") != 1 {
			t.Errorf("%q arrives as %v, %v", line, got, err)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	for _, seed := range []string{"started\n", "failed 2 \"no\"\n", "exited 0 0\n", "exited 999 -1\n", "exited 0\n", "", "x", "started"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		s, err := shim.ParseStatus(line)
		if err != nil {
			return
		}
		if e := s.Exited; e != nil && (e.Code < 0 || e.Code > 255 || e.Signal < 0 || e.Signal > 64) {
			t.Errorf("%q is accepted as %+v", line, *e)
		}
		if _, err := shim.ParseStatus(s.String()); err != nil {
			t.Errorf("%q is accepted, but not once more: %v", line, err)
		}
	})
}

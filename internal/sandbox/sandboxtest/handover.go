package sandboxtest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

const handoverSocket = "handover.sock"

// probeHandOver writes something and then passes its standard output on, through
// a socket in the workspace, to whoever listens there.
func probeHandOver() {
	conn, err := net.Dial("unix", filepath.Join(insideWork, handoverSocket))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Println("handed over")
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix([]byte{0}, syscall.UnixRights(1), nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	syscall.Exit(0)
}

// testHandOver: a sandbox ends with its own processes, also when its output lives
// on with somebody else, who can be reached through the workspace.
func testHandOver(t *testing.T, d sandbox.Driver) {
	p := newPlace(t)
	l, err := net.Listen("unix", filepath.Join(p.work, handoverSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(filepath.Join(p.work, handoverSocket), 0o777); err != nil {
		t.Fatal(err)
	}
	taken := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return // the job never came; the test says so below
		}
		taken <- conn // the descriptor stays open in what was not received yet
	}()
	spec := p.spec(t, insideProbe, probeArg, "hand-over")
	r := run(t, d, spec)
	if r.Exit != (sandbox.Exit{}) || r.out != "handed over\n" {
		t.Errorf("ended with %+v, output %q, error %q", r.Exit, r.out, r.err)
	}
	select {
	case conn := <-taken:
		conn.Close()
	default:
		t.Error("nothing was handed over")
	}
}

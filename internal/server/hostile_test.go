package server_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// asAnother runs f on a thread that has become another user, and reports whether
// it could: root alone can.
func asAnother(t *testing.T, f func()) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const nobody, same = 65534, ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, nobody, same); errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return true
}

// TestAnotherUsersSocketIsNotTheDaemon has another user listen where the daemon
// would: no prompt goes there.
func TestAnotherUsersSocketIsNotTheDaemon(t *testing.T) {
	dir := t.TempDir()
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "hub.sock")
	var l net.Listener
	var err error
	if !asAnother(t, func() { l, err = net.Listen("unix", socket) }) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := api.Dial(t.Context(), socket); !errors.Is(err, hub.ErrRefused) || hub.HintOf(err) == "" {
		t.Errorf("Dial = %v, %v; want refused with a hint", c, err)
	}
}

// TestAnotherUserIsNotAnswered opens the socket's modes, so that only the check
// of the peer is left.
func TestAnotherUserIsNotAnswered(t *testing.T) {
	dir := t.TempDir()
	_, _, s := startAt(t, filepath.Join(dir, "hub.sock"))
	defer s.Close()
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "hub.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	asAnother(t, func() {
		conn, err := net.Dial("unix", filepath.Join(dir, "hub.sock"))
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		conn.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
		if n, err := conn.Read(make([]byte, 100)); n > 0 || err == nil {
			t.Errorf("%d bytes were answered, %v", n, err)
		}
	})
}

// TestAnEventThatHTMLWouldEscapeArrives sends an event that is far from the bound
// of a line, unless each character of it is escaped.
func TestAnEventThatHTMLWouldEscapeArrives(t *testing.T) {
	_, c, _ := start(t)
	event := `{"a":"` + strings.Repeat("<", 1<<20) + `"}`
	var got string
	_, err := c.Run(t.Context(), api.RunRequest{Prompt: event}, func(line []byte) { got = string(line) })
	if err != nil || got != event {
		t.Errorf("got %d bytes of %d, %v", len(got), len(event), err)
	}
}

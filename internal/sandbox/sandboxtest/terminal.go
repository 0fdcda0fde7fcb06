package sandboxtest

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// onTerminal returns a sandbox that runs a script on a terminal, on which nothing
// is typed but keys.
func onTerminal(t *testing.T, script string, keys io.Reader) sandbox.Spec {
	t.Helper()
	spec := newPlace(t).spec(t, "sh", "-c", script)
	spec.Terminal, spec.Stdin = true, keys
	return spec
}

func testTerminal(t *testing.T, d sandbox.Driver) {
	t.Run("it is the controlling one, and the shim's own end stays outside", func(t *testing.T) {
		const script = `test -t 0 && test -t 1 && test -t 2 && echo up >/dev/tty && stty size && ls /proc/$$/fd && echo error >&2`
		r := run(t, d, onTerminal(t, script, nil))
		if want := "up\r\n24 80\r\n0  1  2\r\nerror\r\n"; r.Exit != (sandbox.Exit{}) || !sameScreen(r.out, want) || r.err != "" {
			t.Errorf("ended with %+v, screen %q, error %q; want the screen %q", r.Exit, r.out, r.err, want)
		}
	})
	t.Run("its first size is there before the command", func(t *testing.T) {
		spec := onTerminal(t, `stty size`, nil)
		spec.Size = sandbox.Size{Rows: 50, Cols: 8192}
		if r := run(t, d, spec); !sameScreen(r.out, "50 8192\r\n") {
			t.Errorf("screen %q", r.out)
		}
	})
	t.Run("the end of the input is typed", func(t *testing.T) {
		for _, typed := range []string{"", "whole\n", "half"} {
			r := run(t, d, onTerminal(t, `stty -echo; cat; echo; echo over`, strings.NewReader(typed)))
			if r.Exit != (sandbox.Exit{}) || !strings.HasSuffix(r.out, "over\r\n") || !strings.Contains(r.out, strings.TrimSpace(typed)) {
				t.Errorf("typed %q: ended with %+v, screen %q", typed, r.Exit, r.out)
			}
		}
	})
	t.Run("all of the screen comes, whoever still holds it", func(t *testing.T) {
		const last = 20000
		r := run(t, d, onTerminal(t, `sleep 300 & seq 1 `+strconv.Itoa(last)+`; exit 3`, nil))
		var want strings.Builder
		for i := range last {
			want.WriteString(strconv.Itoa(i+1) + "\r\n")
		}
		if r.Exit != (sandbox.Exit{Code: 3}) || !sameScreen(r.out, want.String()) {
			t.Errorf("ended with %+v and %d bytes; want %d", r.Exit, len(r.out), want.Len())
		}
	})
	t.Run("it outlives its last holder", func(t *testing.T) {
		if r := run(t, d, onTerminal(t, `exec 0<&- 1>&- 2>&-; sleep 0.1; echo back >/dev/tty`, nil)); !sameScreen(r.out, "back\r\n") {
			t.Errorf("screen %q", r.out)
		}
	})
}

// sameScreen compares what was shown, but for the blanks and the marks of a
// Ctrl-D that a terminal may show.
func sameScreen(got, want string) bool {
	clean := strings.NewReplacer("^D\b\b", "", " ", "", "\t", "").Replace
	return clean(got) == clean(want)
}

// testKeys types control characters, and drags the window.
func testKeys(t *testing.T, d sandbox.Driver) {
	keys, typing := io.Pipe()
	defer typing.Close()
	spec := onTerminal(t, `
		trap 'echo interrupted' INT
		trap 'echo "now $(stty size)"' WINCH
		stty -echo
		echo ready
		read -r line; echo "read <$line>"
		while :; do sleep 0.02; [ -e stop ] && exit 9; done`, keys)
	out := newLines()
	defer out.Close()
	spec.Stdout = out
	s := start(t, d, spec)
	out.await(t, "ready\r")
	typing.Write([]byte("some words\r")) // Enter, as a keyboard sends it
	out.await(t, "read <some words>\r")
	if err := s.Resize(30, 90); err != nil {
		t.Fatal(err)
	}
	out.await(t, "now 30 90\r")
	typing.Write([]byte("\x03"))
	out.await(t, "interrupted\r")
	typing.Write([]byte("\x1c")) // Ctrl-\ ends what runs in the foreground
	if exit, err := s.Wait(); err != nil || exit != (sandbox.Exit{Code: -1, Signal: "SIGQUIT"}) {
		t.Errorf("ended with %+v, %v", exit, err)
	}
	if err := s.Resize(10, 10); err != nil {
		t.Errorf("Resize after the end: %v", err)
	}
	var screen bytes.Buffer
	spec = newPlace(t).spec(t, "true")
	spec.Stdout = &screen
	s = start(t, d, spec)
	if err := s.Resize(10, 10); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("Resize without a terminal: %v; want ErrInvalid", err)
	}
}

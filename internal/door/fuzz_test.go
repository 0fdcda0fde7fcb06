package door_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/door"
)

// What the parser calls the target stands in the request line letter by letter,
// and what follows the header is neither lost nor changed.
func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("CONNECT platform.claude.com:443 HTTP/1.1\r\nHost: platform.claude.com:443\r\n\r\nearly"))
	f.Add([]byte("CONNECT platform.claude.com\x00:443 HTTP/1.1\r\n\r\n"))
	f.Add([]byte("GET http://platform.claude.com/ HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("CONNECT a:1 HTTP/1.1\nTransfer-Encoding: chunked\n\n0\n\n"))
	f.Add([]byte("\x16\x03\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		method, target, rest, err := door.ReadTarget(bytes.NewReader(b))
		if err != nil {
			return
		}
		line, _, _ := strings.Cut(string(b), "\n")
		if !strings.Contains(line, method+" "+target+" ") {
			t.Errorf("%q %q is not in the request line %q", method, target, line)
		}
		tail, err := io.ReadAll(rest)
		if err != nil || !bytes.HasSuffix(b, tail) {
			t.Errorf("after the header came %q, %v; want the end of %q", tail, err, b)
		}
	})
}

package wire_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
)

func TestChunksAreReadInAnyPieces(t *testing.T) {
	const text = "5\r\nhello\r\n00A\r\n, world!!!\r\n1f\r\n" + "0123456789012345678901234567890" + "\r\n0\r\n\r\nGET /"
	for name, r := range map[string]io.Reader{
		"whole": strings.NewReader(text), "bytes": iotest.OneByteReader(strings.NewReader(text)), "halves": iotest.HalfReader(strings.NewReader(text)),
	} {
		body, rest, err := wire.Chunks(r, true)
		if err != nil || string(body) != "hello, world!!!0123456789012345678901234567890" || !strings.HasPrefix("GET /", string(rest)) {
			t.Errorf("%s: %q, then %q, %v", name, body, rest, err)
		}
	}
}

func TestChunksOfARequestAreStrict(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		answer bool // whether an answer may have it
	}{
		"an extension":          {"5;a=b\r\nhello\r\n0\r\n\r\n", true},
		"a space before CR":     {"5 \r\nhello\r\n0\r\n\r\n", false},
		"a trailer":             {"5\r\nhello\r\n0\r\nX-A: b\r\n\r\n", true},
		"a bare LF":             {"5\nhello\r\n0\r\n\r\n", false},
		"a bare LF behind":      {"5\r\nhello\n0\r\n\r\n", false},
		"a bare LF at the end":  {"5\r\nhello\r\n0\r\n\n", false},
		"no CR LF behind":       {"5\r\nhello0\r\n\r\n", false},
		"more than its size":    {"5\r\nhello!\r\n0\r\n\r\n", false},
		"no size":               {"\r\nhello\r\n0\r\n\r\n", false},
		"a size with 0x":        {"0x5\r\nhello\r\n0\r\n\r\n", false},
		"a size with a sign":    {"+5\r\nhello\r\n0\r\n\r\n", false},
		"a size that overflows": {"10000000000000005\r\nhello\r\n0\r\n\r\n", false},
		"an endless line":       {"5;" + strings.Repeat("a", 10000) + "\r\nhello\r\n0\r\n\r\n", false},
		"no end":                {"5\r\nhello\r\n", false},
		"half a chunk":          {"5\r\nhel", false},
	} {
		if body, _, err := wire.Chunks(strings.NewReader(c.text), true); err == nil {
			t.Errorf("%s: accepted in a request as %q", name, body)
		}
		if body, _, err := wire.Chunks(strings.NewReader(c.text), false); (err == nil) != c.answer {
			t.Errorf("%s: in an answer: %q, %v", name, body, err)
		}
	}
}

// Whatever we accept, net/http must read in the same way.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\nGET"), true)
	f.Add([]byte("5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"), false)
	f.Add([]byte("0A\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, text []byte, strict bool) {
		ours, rest, err := wire.Chunks(bytes.NewReader(text), strict)
		pieces, _, err2 := wire.Chunks(iotest.OneByteReader(bytes.NewReader(text)), strict)
		if (err == nil) != (err2 == nil) || err == nil && !bytes.Equal(ours, pieces) {
			t.Fatalf("whole: %q, %v; in bytes: %q, %v", ours, err, pieces, err2)
		}
		if err != nil {
			return
		}
		br := bufio.NewReader(bytes.NewReader(text))
		theirs, err := io.ReadAll(httputil.NewChunkedReader(br))
		if err != nil || !bytes.Equal(ours, theirs) {
			t.Errorf("ours %q, theirs %q, %v", ours, theirs, err)
		}
		if behind, _ := io.ReadAll(br); strict && string(behind) != "\r\n"+string(rest) {
			t.Errorf("behind the body: ours %q, theirs %q", rest, behind)
		}
	})
}

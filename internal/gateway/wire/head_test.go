package wire_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
)

// crlf makes a head of lines.
func crlf(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

func TestParseRequest(t *testing.T) {
	r, err := wire.ParseRequest([]byte(crlf("POST /v1/messages?beta=true HTTP/1.1", "Host: 127.0.0.1:80", "content-LENGTH:  17\t", "X-Empty:",
		"Connection: keep-alive, Close", "Expect: 100-Continue", "X-Utf: \xd1\x8b")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Method) != "POST" || string(r.Target) != "/v1/messages?beta=true" || string(r.Host) != "127.0.0.1:80" || r.Length != 17 || !r.Close || !r.Continue || len(r.Fields) != 6 {
		t.Errorf("%+v", r)
	}
	if r, err = wire.ParseRequest([]byte(crlf("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: Chunked")), nil); err != nil || r.Length != -1 || r.Close {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = wire.ParseRequest([]byte(crlf("GET / HTTP/1.1", "Host: x")), nil); err != nil || r.Length != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestParseRequestRefusesWhatCanBeReadInTwoWays(t *testing.T) {
	const line, host = "POST / HTTP/1.1", "Host: x"
	for name, head := range map[string]string{
		"CL and TE":                crlf(line, host, "Content-Length: 5", "Transfer-Encoding: chunked"),
		"TE and CL":                crlf(line, host, "Transfer-Encoding: chunked", "Content-Length: 5"),
		"TE twice":                 crlf(line, host, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
		"TE of two codings":        crlf(line, host, "Transfer-Encoding: gzip, chunked"),
		"TE identity":              crlf(line, host, "Transfer-Encoding: identity"),
		"TE in disguise":           crlf(line, host, "Transfer-Encoding: xchunked"),
		"TE with a tab inside":     crlf(line, host, "Transfer-Encoding: chun\tked"),
		"TE with a vertical tab":   crlf(line, host, "Transfer-Encoding: \x0bchunked"),
		"a space before the colon": crlf(line, host, "Transfer-Encoding : chunked"),
		"CL twice":                 crlf(line, host, "Content-Length: 5", "Content-Length: 5"),
		"two CLs":                  crlf(line, host, "Content-Length: 5", "Content-Length: 6"),
		"CL as a list":             crlf(line, host, "Content-Length: 5, 5"),
		"CL with a sign":           crlf(line, host, "Content-Length: +5"),
		"CL below zero":            crlf(line, host, "Content-Length: -5"),
		"CL in hexadecimal":        crlf(line, host, "Content-Length: 0x5"),
		"CL that overflows":        crlf(line, host, "Content-Length: 18446744073709551621"),
		"CL empty":                 crlf(line, host, "Content-Length:"),
		"CL with a space inside":   crlf(line, host, "Content-Length: 1 2"),
		"a folded line":            crlf(line, host, "X-A: b", " c"),
		"a folded line with a tab": crlf(line, host, "X-A: b", "\tc"),
		"a folded first line":      crlf(line, " Host: x"),
		"a bare LF":                "POST / HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n",
		"a bare CR":                crlf(line, host, "X-A: b\rX-B: c"),
		"a NUL":                    crlf(line, host, "X-A: b\x00c"),
		"a NUL in a name":          crlf(line, host, "X\x00A: b"),
		"no colon":                 crlf(line, host, "X-A"),
		"no name":                  crlf(line, host, ": b"),
		"no Host":                  crlf(line, "X-A: b"),
		"two Hosts":                crlf(line, host, host),
		"no version":               crlf("POST /", host),
		"another version":          crlf("POST / HTTP/1.0", host),
		"HTTP/2":                   crlf("PRI * HTTP/2.0"),
		"a version in small":       crlf("POST / http/1.1", host),
		"two spaces":               crlf("POST  / HTTP/1.1", host),
		"a tab":                    crlf("POST\t/ HTTP/1.1", host),
		"a space in the target":    crlf("POST /a b HTTP/1.1", host),
		"a NUL in the target":      crlf("POST /a\x00b HTTP/1.1", host),
		"bytes in the target":      crlf("POST /\xff HTTP/1.1", host),
		"a space before it":        crlf(" POST / HTTP/1.1", host),
		"an empty line before it":  "\r\n" + crlf(line, host),
		"no end":                   "POST / HTTP/1.1\r\nHost: x\r\n",
		"something behind it":      crlf(line, host) + "GET / HTTP/1.1\r\n\r\n",
		"another expectation":      crlf(line, host, "Expect: 200-ok"),
		"too many fields":          crlf(append([]string{line, host}, strings.Split(strings.Repeat("X-A: b ", 200), " ")...)...),
	} {
		if r, err := wire.ParseRequest([]byte(head), nil); err == nil {
			t.Errorf("%s: accepted as %s %s with a body of %d", name, r.Method, r.Target, r.Length)
		}
	}
}

// Whatever we accept, net/http must read in the same way.
func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{
		crlf("POST /v1/messages?beta=true HTTP/1.1", "Host: 127.0.0.1:80", "Content-Length: 17", "X-A: b"),
		crlf("POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "Connection: close"),
		crlf("GET //a/../b%2f HTTP/1.1", "host:x", "A: \t b \t", "Expect: 100-continue"),
		crlf("CONNECT a:1 HTTP/1.1", "Host: a:1"), crlf("GET http://a/ HTTP/1.1", "Host: b"),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		ours, err := wire.ParseRequest(head, nil)
		if err != nil {
			return
		}
		theirs, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(head), strings.NewReader("0\r\n\r\n"))))
		if err != nil {
			return // stricter still, about URLs
		}
		if string(ours.Method) != theirs.Method || string(ours.Target) != theirs.RequestURI || ours.Length != theirs.ContentLength || ours.Close != theirs.Close {
			t.Errorf("ours: %s %s %d %v, theirs: %s %s %d %v", ours.Method, ours.Target, ours.Length, ours.Close, theirs.Method, theirs.RequestURI, theirs.ContentLength, theirs.Close)
		}
		if ours.Target[0] == '/' && string(ours.Host) != theirs.Host {
			t.Errorf("Host: ours %q, theirs %q", ours.Host, theirs.Host)
		}
		sameFields(t, ours.Fields, theirs.Header)
	})
}

func sameFields(t *testing.T, ours []wire.Field, theirs http.Header) {
	seen := map[string]int{}
	for _, f := range ours {
		name := http.CanonicalHeaderKey(string(f.Name))
		switch name {
		case "Host", "Transfer-Encoding", "Trailer", "Content-Length", "Connection", "Pragma", "Cache-Control":
			continue
		}
		n := seen[name]
		seen[name]++
		if values := theirs[name]; n >= len(values) || values[n] != string(f.Value) {
			t.Errorf("%s: ours %q, theirs %q", name, f.Value, values)
		}
	}
}

func TestParseAnswer(t *testing.T) {
	for _, c := range []struct {
		head   string
		status int
		length int64
		close  bool
	}{
		{crlf("HTTP/1.1 200 OK", "Content-Length: 5"), 200, 5, false},
		{crlf("HTTP/1.1 200", "Content-Length: 5", "Content-Length: 5", "Connection: close"), 200, 5, true},
		{crlf("HTTP/1.1 529 Overloaded badly", "transfer-encoding: chunked"), 529, -1, false},
		{crlf("HTTP/1.1 200 OK"), 200, -2, true},
		{crlf("HTTP/1.0 200 OK", "Content-Length: 5"), 200, 5, true},
		{crlf("HTTP/1.1 204 No Content"), 204, 0, false},
		{crlf("HTTP/1.1 100 Continue"), 100, 0, false},
	} {
		a, err := wire.ParseAnswer([]byte(c.head), false, nil)
		if err != nil || a.Status != c.status || a.Length != c.length || a.Close != c.close {
			t.Errorf("%q: %+v, %v", c.head, a, err)
		}
	}
	for _, head := range []string{
		crlf("HTTP/2 200 OK"), crlf("HTTP/1.1  200 OK"), crlf("HTTP/1.1 20 OK"), crlf("HTTP/1.1 2000 OK"), crlf("HTTP/1.1 099 OK"), crlf("ICY 200 OK"), "",
		crlf("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 6"), crlf("HTTP/1.1 200 OK", "Content-Length: 5", "Transfer-Encoding: chunked"),
		crlf("HTTP/1.1 200 OK", "Transfer-Encoding: gzip"), crlf("HTTP/1.1 200 OK", "Content-Length: x"), crlf("HTTP/1.1 200 OK", "X: a\x00b"),
	} {
		if a, err := wire.ParseAnswer([]byte(head), false, nil); err == nil {
			t.Errorf("%q: accepted as %+v", head, a)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(crlf("HTTP/1.1 200 OK", "Content-Length: 5", "X-A: b")))
	f.Add([]byte(crlf("HTTP/1.1 204 No Content", "Connection: close")))
	f.Add([]byte(crlf("HTTP/1.0 200 OK", "Transfer-Encoding: chunked")))
	f.Fuzz(func(t *testing.T, head []byte) {
		ours, err := wire.ParseAnswer(head, false, nil)
		if err != nil || bytes.HasPrefix(head, []byte("HTTP/1.0")) { // net/http knows no chunks there
			return
		}
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
		if err != nil {
			return
		}
		length := theirs.ContentLength
		if length == -1 && len(theirs.TransferEncoding) == 0 {
			length = -2
		}
		if ours.Status != theirs.StatusCode || ours.Length != length {
			t.Errorf("ours: %d %d, theirs: %d %d", ours.Status, ours.Length, theirs.StatusCode, length)
		}
		sameFields(t, ours.Fields, theirs.Header)
	})
}

package door

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
)

// maxHeader bounds a client's request and an upstream proxy's answer, in bytes.
const maxHeader = 16 << 10

// refusal is an error with the status that the client gets to see.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string { return r.reason }

func (r *refusal) response() string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", r.status, http.StatusText(r.status))
}

// admit reads the client's request and returns the address that it may be
// connected to, with a reader of everything that the client sends after it.
func (d *Door) admit(client io.Reader) (in io.Reader, address string, err error) {
	req, in, err := readRequest(client)
	if err != nil {
		return nil, "", err
	}
	if req.method != http.MethodConnect || !slices.Contains(d.cfg.Allow, req.target) {
		return nil, "", &refusal{403, fmt.Sprintf("%q %q is not what the door opens to", clip(req.method), clip(req.target))}
	}
	if !d.allowed(req.authorization) {
		return nil, "", &refusal{407, "the client does not know the door's password"}
	}
	return in, req.target, nil
}

// request is what matters of a client's request, as it was written.
type request struct{ method, target, authorization string }

// readRequest reads one request header from r. The reader that it returns has
// everything that follows the header.
func readRequest(r io.Reader) (request, io.Reader, error) {
	limited := &io.LimitedReader{R: r, N: maxHeader}
	header := bufio.NewReader(limited)
	req, err := http.ReadRequest(header)
	if err != nil {
		if limited.N <= 0 {
			return request{}, nil, &refusal{431, "the request header is too long"}
		}
		return request{}, nil, &refusal{400, "not an HTTP request"} // the parser's words quote the client's bytes
	}
	if req.ContentLength != 0 || len(req.TransferEncoding) > 0 {
		return request{}, nil, &refusal{403, "a request with a body"}
	}
	got := request{method: req.Method, target: req.RequestURI, authorization: req.Header.Get("Proxy-Authorization")}
	return got, resume(header, r), nil
}

// clip bounds what of a client's bytes gets into a log line.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

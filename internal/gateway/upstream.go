package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
)

// answer is what the upstream answered.
type answer struct {
	head wire.Answer // its fields are good until the first call of Next
	body stream
}

// stream is the body of an answer as it comes; see wire.Reader.
type stream interface {
	Next() ([]byte, error)
	Ready() bool
	Close()
}

// sender carries one attempt to the upstream.
type sender func(context.Context, *wire.Parcel) (answer, error)

// overWire sends with the client of package wire.
func overWire(c *wire.Client) sender {
	return func(ctx context.Context, p *wire.Parcel) (answer, error) {
		r, err := c.Do(ctx, p)
		if err != nil {
			return answer{}, err
		}
		return answer{r.Answer, r}, nil
	}
}

// rejected reports whether the upstream does not accept the access token: 401, or
// 403 with the words of a revoked one.
func rejected(a *answer) bool {
	if a.head.Status == http.StatusUnauthorized {
		return true
	}
	const longest = 4 << 10
	if a.head.Status != http.StatusForbidden || a.head.Length <= 0 || a.head.Length > longest {
		return false
	}
	var fields []wire.Field
	for _, f := range a.head.Fields {
		fields = append(fields, wire.Field{Name: bytes.Clone(f.Name), Value: bytes.Clone(f.Value)})
	}
	a.head.Fields = fields
	var text []byte
	for int64(len(text)) < a.head.Length {
		p, err := a.body.Next()
		if err != nil {
			break // whoever relays it meets the error too
		}
		text = append(text, p...)
	}
	a.body = &reread{text, a.body}
	return bytes.Contains(text, []byte("OAuth token has been revoked"))
}

// reread is a stream of which a part was read ahead.
type reread struct {
	ahead []byte
	stream
}

func (r *reread) Next() ([]byte, error) {
	if len(r.ahead) == 0 {
		return r.stream.Next()
	}
	p := r.ahead
	r.ahead = nil
	return p, nil
}

func (r *reread) Ready() bool { return len(r.ahead) > 0 || r.stream.Ready() }

// overTransport sends with an http.RoundTripper.
func overTransport(t http.RoundTripper, upstream *url.URL) sender {
	return func(ctx context.Context, p *wire.Parcel) (answer, error) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(p.Head)))
		if err != nil {
			p.Done()
			return answer{}, fmt.Errorf("reading our own request: %w", err)
		}
		r.URL.Scheme, r.URL.Host, r.RequestURI = upstream.Scheme, upstream.Host, ""
		if len(r.Header["User-Agent"]) == 0 {
			r.Header["User-Agent"] = nil // or the transport would make one up
		}
		r.Body = &once{Reader: bytes.NewReader(p.Body), done: sync.OnceFunc(p.Done)}
		res, err := t.RoundTrip(r.WithContext(ctx))
		var dial *net.OpError
		if errors.As(err, &dial) && dial.Op == "dial" {
			err = fmt.Errorf("%w: %w", wire.ErrNotSent, err)
		}
		if err != nil {
			return answer{}, err
		}
		head := wire.Answer{Status: res.StatusCode, Length: res.ContentLength}
		for name, values := range res.Header {
			for _, v := range values {
				head.Fields = append(head.Fields, wire.Field{Name: []byte(name), Value: []byte(v)})
			}
		}
		return answer{head, &transported{body: res.Body}}, nil
	}
}

// once is a request's body that says when it is closed.
type once struct {
	io.Reader
	done func()
}

func (o *once) Close() error {
	o.done()
	return nil
}

// transported is the stream of a transport's answer.
type transported struct {
	body   io.ReadCloser
	buffer [4 << 10]byte
	err    error
}

func (t *transported) Next() ([]byte, error) {
	for t.err == nil {
		var n int
		if n, t.err = t.body.Read(t.buffer[:]); n > 0 {
			return t.buffer[:n], nil
		}
	}
	return nil, t.err
}

func (t *transported) Ready() bool { return errors.Is(t.err, io.EOF) }
func (t *transported) Close()      { t.body.Close() }

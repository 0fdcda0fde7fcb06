// Package wire speaks HTTP/1.1 on the gateway's two sides, with one goroutine a
// request: that is less latency, processor time and memory than net/http's
// general server and client, and it can be stricter.
//
//  1. A request that two servers could read in two ways is none: two lengths, bare
//     line feeds, folded lines, chunk extensions, trailers and the like are refused.
//     What is accepted, net/http reads in the same way; fuzz targets hold the two
//     against each other.
//  2. Everything that a peer sends is bounded: heads, fields, bodies, connections,
//     and the time that a head or a body may take. A stream may last as long as it
//     likes.
//  3. Who leaves is noticed, and what is under way for him is cut: a [Watcher] looks
//     at the clients, and a request's context cuts the connection to the server.
//  4. An answer that breaks off is never given a regular end, and a connection on
//     which something is left unread or unwritten is never used again.
package wire

import (
	"bytes"
	"errors"
	"fmt"
)

// Field is a line of a head, as it was written. Both parts point into the buffer
// that the head was read into.
type Field struct{ Name, Value []byte }

// Is reports whether the field has that name, given in lower case.
func (f Field) Is(name string) bool {
	if len(f.Name) != len(name) {
		return false
	}
	for i, c := range f.Name {
		if lower(c) != name[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// Request is the head of a request.
type Request struct {
	Method, Target []byte
	Host           []byte
	Fields         []Field
	Length         int64 // of the body; -1 if it comes in chunks
	Close          bool  // the client wants no other request on the connection
	Continue       bool  // the client waits for leave to send the body
}

// ErrVersion means a version of HTTP other than 1.1.
var ErrVersion = errors.New("not HTTP/1.1")

const maxFields = 100

// ParseRequest reads a head that ends with its empty line. It is strict: what
// RFC 9112 lets a server accept for the sake of old or sloppy clients, and what
// two servers could read in two ways, is an error. Into is a slice to reuse.
func ParseRequest(b []byte, into []Field) (Request, error) {
	line, rest, _ := bytes.Cut(b, []byte("\r\n"))
	method, line, ok1 := bytes.Cut(line, []byte{' '})
	target, version, ok2 := bytes.Cut(line, []byte{' '})
	if !ok1 || !ok2 || !token(method) || !visible(target) {
		return Request{}, errors.New("malformed request line")
	}
	if string(version) != "HTTP/1.1" {
		return Request{}, ErrVersion
	}
	r := Request{Method: method, Target: target}
	var err error
	if r.Fields, err = parseFields(rest, into); err != nil {
		return Request{}, err
	}
	return r, r.frame()
}

// frame finds the body's length and what else the fields say about the message.
func (r *Request) frame() error {
	var hosts, lengths, codings int
	for _, f := range r.Fields {
		switch len(f.Name) { // the cheapest way to pass by most of them
		case 4:
			if f.Is("host") {
				hosts++
				r.Host = f.Value
			}
		case 6:
			if f.Is("expect") {
				if !equalFold(f.Value, "100-continue") {
					return errors.New("an expectation that is not met")
				}
				r.Continue = true
			}
		case 10:
			r.Close = r.Close || f.Is("connection") && names(f.Value, "close")
		case 14:
			if f.Is("content-length") {
				lengths++
				n, err := decimal(f.Value)
				if err != nil {
					return err
				}
				r.Length = n
			}
		case 17:
			if f.Is("transfer-encoding") {
				codings++
				if !equalFold(f.Value, "chunked") {
					return errors.New("a transfer coding other than chunked")
				}
				r.Length = -1
			}
		}
	}
	switch {
	case hosts != 1:
		return fmt.Errorf("%d Host fields", hosts)
	case lengths+codings > 1:
		return errors.New("the body's length is given more than once")
	}
	return nil
}

// Answer is the head of an answer.
type Answer struct {
	Status int
	Fields []Field
	Length int64 // of the body; -1 if it comes in chunks, -2 if it goes on to the end
	Close  bool  // the connection ends with the answer
}

// ParseAnswer reads a head that ends with its empty line. Head says that the
// answer is to a HEAD request and has no body.
func ParseAnswer(b []byte, head bool, into []Field) (Answer, error) {
	line, rest, _ := bytes.Cut(b, []byte("\r\n"))
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return Answer{}, errors.New("malformed status line")
	}
	status, err := decimal(line[9:12])
	if err != nil || status < 100 {
		return Answer{}, errors.New("malformed status line")
	}
	a := Answer{Status: int(status), Close: line[7] == '0'}
	if a.Fields, err = parseFields(rest, into); err != nil {
		return Answer{}, err
	}
	return a, a.frame(head)
}

func (a *Answer) frame(head bool) error {
	var lengths, codings int
	a.Length = -2
	for _, f := range a.Fields {
		switch {
		case f.Is("connection"):
			a.Close = a.Close || names(f.Value, "close")
		case f.Is("content-length"):
			n, err := decimal(f.Value)
			if err != nil || lengths > 0 && n != a.Length {
				return errors.New("the answer's length is not plain")
			}
			lengths++
			a.Length = n
		case f.Is("transfer-encoding"):
			codings++
			if !equalFold(f.Value, "chunked") {
				return errors.New("a transfer coding other than chunked")
			}
		}
	}
	switch {
	case codings > 1 || codings == 1 && lengths > 0:
		return errors.New("the answer's length is given more than once")
	case head || a.Status < 200 || a.Status == 204 || a.Status == 304:
		a.Length = 0
	case codings == 1:
		a.Length = -1
	case lengths == 0:
		a.Close = true
	}
	return nil
}

// parseFields reads header lines up to the empty one.
func parseFields(b []byte, into []Field) ([]Field, error) {
	fields := into[:0]
	for {
		line, rest, ok := bytes.Cut(b, []byte("\r\n"))
		if !ok {
			return nil, errors.New("the header has no end")
		}
		if len(line) == 0 {
			if len(rest) > 0 {
				return nil, errors.New("something is behind the header")
			}
			return fields, nil
		}
		name, value, ok := bytes.Cut(line, []byte{':'})
		if !ok || !token(name) { // a folded line begins with a space, which is no token
			return nil, errors.New("malformed header line")
		}
		value = bytes.Trim(value, " \t")
		if !plain(value) {
			return nil, errors.New("a control character in a header")
		}
		if len(fields) == maxFields {
			return nil, ErrLongHead
		}
		fields = append(fields, Field{name, value})
		b = rest
	}
}

// isToken tells the characters of a token, RFC 9110 section 5.6.2.
var isToken = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] = true
	}
	return t
}()

func token(b []byte) bool {
	for _, c := range b {
		if !isToken[c] {
			return false
		}
	}
	return len(b) > 0
}

func visible(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(b) > 0
}

// plain reports whether b has no control character but tabs.
func plain(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func equalFold(b []byte, s string) bool { return Field{Name: b}.Is(s) }

// names reports whether b, a list, has the element s, given in lower case.
func names(b []byte, s string) bool {
	for part := range bytes.SplitSeq(b, []byte{','}) {
		if equalFold(bytes.Trim(part, " \t"), s) {
			return true
		}
	}
	return false
}

// decimal reads digits and nothing else.
func decimal(b []byte) (int64, error) {
	if len(b) == 0 || len(b) > 18 {
		return 0, errors.New("malformed number")
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, errors.New("malformed number")
		}
		n = 10*n + int64(c-'0')
	}
	return n, nil
}

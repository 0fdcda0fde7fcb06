package wire

import (
	"errors"
	"io"
	"time"
)

// Chunks reads a body in chunks from r, in pieces as r gives them. It returns
// the body and what was read behind it.
func Chunks(r io.Reader, strict bool) (body, rest []byte, err error) {
	in := input{c: r}
	defer in.drop()
	f := framing{in: &in, chunked: true, strict: strict}
	for {
		ready := f.ready()
		held := len(in.held())
		p, err := f.next()
		if ready && err == nil && held == 0 {
			panic("ready with nothing held")
		}
		if errors.Is(err, io.EOF) {
			return body, append([]byte(nil), in.held()...), nil
		}
		if err != nil {
			return body, nil, err
		}
		body = append(body, p...)
	}
}

// Exempt is exempt, for tests.
var Exempt = exempt

// AwaitLooks waits until w has looked n times more.
func AwaitLooks(w *Watcher, n int) {
	looks := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.looks
	}
	for end := looks() + n; looks() < end; {
		time.Sleep(lookEvery / 10)
	}
}

package wire_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
)

// front is a server on loopback or on a unix socket.
type front struct {
	*wire.Server
	watcher *wire.Watcher
	network string
	addr    string
}

func startFront(t *testing.T, network string, handle func(*wire.Conn, *wire.Request), change ...func(*wire.Server)) *front {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{network: network, addr: l.Addr().String(), watcher: &wire.Watcher{}}
	f.Server = &wire.Server{Handle: handle, Refuse: func(c *wire.Conn, err error) { c.Answer(400, nil, []byte(err.Error())) }, Watcher: f.watcher, MaxConns: 8}
	for _, c := range change {
		c(f.Server)
	}
	f.Start(l)
	t.Cleanup(func() {
		f.Close()
		f.watcher.Close()
	})
	return f
}

func (f *front) dial(t *testing.T) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial(f.network, f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, bufio.NewReader(c)
}

// answer reads one answer.
func answer(t *testing.T, br *bufio.Reader) (int, string) {
	t.Helper()
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatalf("reading an answer: %v", err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading an answer's body: %v", err)
	}
	return res.StatusCode, string(b)
}

// echo answers with the request's body.
func echo(c *wire.Conn, r *wire.Request) {
	var b []byte
	n, err := c.ReadBody(1<<20, func(used, n int) []byte {
		b = append(make([]byte, 0, n), b[:used]...)[:n]
		return b
	})
	if err != nil {
		c.Answer(400, nil, []byte(err.Error()))
		return
	}
	c.Answer(200, nil, b[:n])
}

const chunkedHead = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

func TestRequestsOnOneConnectionAreAnsweredInOrder(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		f := startFront(t, network, echo)
		c, br := f.dial(t)
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none"+chunkedHead+"3\r\ntwo\r\n0\r\n\r\n"+getHead+"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nfo")
		for _, want := range []string{"one", "two", ""} {
			if status, got := answer(t, br); status != 200 || got != want {
				t.Errorf("%s: %d %q; want %q", network, status, got, want)
			}
		}
		io.WriteString(c, "ur")
		if _, got := answer(t, br); got != "four" {
			t.Errorf("%s: %q; want the body that came in two parts", network, got)
		}
	}
}

func TestBodiesAreBoundedAndWhole(t *testing.T) {
	f := startFront(t, "tcp", echo)
	big := strings.Repeat("x", 1<<20)
	for name, c := range map[string]struct {
		request, want string
	}{
		"too long":            {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n", "too large"},
		"too long in chunks":  {chunkedHead + "100000\r\n" + big + "\r\n1\r\nx\r\n0\r\n\r\n", "too large"},
		"a chunk's extension": {chunkedHead + "1;a\r\nx\r\n0\r\n\r\n", "did not come whole"},
		"a trailer":           {chunkedHead + "1\r\nx\r\n0\r\nX: y\r\n\r\n", "did not come whole"},
		"a malformed chunk":   {chunkedHead + "zz\r\nx\r\n0\r\n\r\n", "did not come whole"},
		"no request":          {"GET / HTTP/1.1\r\n\r\n", "Host"},
		"bare LFs":            {"GET / HTTP/1.1\nHost: x\n\n", "CR LF"},
		"a head without end":  {"GET / HTTP/1.1\r\nX: " + big, "too long"},
		"a TLS hello":         {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "malformed"},
	} {
		nc, br := f.dial(t)
		go io.WriteString(nc, c.request)
		if status, got := answer(t, br); status != 400 || !strings.Contains(got, c.want) {
			t.Errorf("%s: %d %q", name, status, got)
		}
		if _, err := br.ReadByte(); err == nil {
			t.Errorf("%s: the connection goes on", name)
		}
	}
}

func TestLeaveToSendIsGiven(t *testing.T) {
	f := startFront(t, "tcp", echo)
	c, br := f.dial(t)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	if line, err := br.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" || err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	br.ReadString('\n')
	io.WriteString(c, "one")
	if _, got := answer(t, br); got != "one" {
		t.Errorf("%q", got)
	}
}

func TestConnectionEndsWhenTheClientSaysSo(t *testing.T) {
	f := startFront(t, "tcp", echo)
	c, br := f.dial(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"+getHead)
	answer(t, br)
	if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the answer: %v; want the end", err)
	}
}

func TestClientThatLeavesEndsItsContext(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		begun, over := make(chan struct{}), make(chan error, 1)
		f := startFront(t, network, func(c *wire.Conn, _ *wire.Request) {
			close(begun)
			<-c.Context().Done()
			over <- context.Cause(c.Context())
		})
		c, _ := f.dial(t)
		io.WriteString(c, getHead)
		<-begun
		c.Close()
		if err := <-over; err == nil {
			t.Errorf("%s: no cause", network)
		}
	}
}

func TestClientThatWaitsIsNotTakenForGone(t *testing.T) {
	release := make(chan struct{})
	f := startFront(t, "tcp", func(c *wire.Conn, r *wire.Request) {
		<-release
		if err := c.Context().Err(); err != nil {
			t.Errorf("the context has ended: %v", err)
		}
		echo(c, r)
	})
	c, br := f.dial(t)
	io.WriteString(c, getHead+getHead) // with the next request waiting
	wire.AwaitLooks(f.watcher, 2)
	close(release)
	answer(t, br)
	answer(t, br)
}

func TestConnectionsAreBounded(t *testing.T) {
	var now, most atomic.Int32
	release := make(chan struct{})
	f := startFront(t, "tcp", func(c *wire.Conn, _ *wire.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		<-release
		now.Add(-1)
		c.Answer(200, nil, nil)
	}, func(s *wire.Server) { s.MaxConns = 2 })
	answers := make(chan int, 6)
	for range 6 {
		c, br := f.dial(t)
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		go func() {
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				answers <- 0
				return
			}
			answers <- res.StatusCode
		}()
	}
	for now.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	for range 6 {
		if got := <-answers; got != 200 {
			t.Errorf("answer %d", got)
		}
	}
	if most.Load() != 2 {
		t.Errorf("%d connections at once; want 2", most.Load())
	}
}

func TestPanicCutsItsOwnConnectionOnly(t *testing.T) {
	var panics atomic.Int32
	f := startFront(t, "tcp", func(c *wire.Conn, r *wire.Request) {
		if string(r.Target) == "/panic" {
			panic("oops")
		}
		echo(c, r)
	}, func(s *wire.Server) { s.Panicked = func(any) { panics.Add(1) } })
	other, obr := f.dial(t)
	c, br := f.dial(t)
	io.WriteString(c, "GET /panic HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := br.ReadByte(); err == nil {
		t.Error("the connection goes on")
	}
	io.WriteString(other, getHead)
	if status, _ := answer(t, obr); status != 200 || panics.Load() != 1 {
		t.Errorf("%d, %d panics", status, panics.Load())
	}
}

func TestAnswerWithoutItsEndCutsTheConnection(t *testing.T) {
	f := startFront(t, "tcp", func(c *wire.Conn, _ *wire.Request) {
		c.WriteAll(c.Begin(nil, wire.Reply{Status: 200, Length: -1}), wire.AppendChunk(nil, []byte("some")))
	})
	c, br := f.dial(t)
	io.WriteString(c, getHead)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); string(b) != "some" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v; want it cut", b, err)
	}
}

func TestCloseCutsConnectionsAndWaitsForHandlers(t *testing.T) {
	begun := make(chan struct{})
	var over atomic.Bool
	f := startFront(t, "tcp", func(c *wire.Conn, _ *wire.Request) {
		close(begun)
		<-c.Context().Done()
		over.Store(true)
	})
	c, br := f.dial(t)
	io.WriteString(c, getHead)
	f.dial(t) // and an idle one
	<-begun
	if err := f.Close(); err != nil || !over.Load() {
		t.Errorf("Close: %v; the handler was over: %v", err, over.Load())
	}
	f.Close()
	if _, err := br.ReadByte(); err == nil {
		t.Error("the connection goes on")
	}
	if c, err := net.Dial("tcp", f.addr); err == nil {
		c.Close()
		t.Error("the listener goes on")
	}
}

func TestTimeoutsEndSlowClientsButNoStream(t *testing.T) {
	const short = 50 * time.Millisecond
	f := startFront(t, "tcp", func(c *wire.Conn, r *wire.Request) {
		if string(r.Method) == "POST" {
			echo(c, r)
			return
		}
		c.WriteAll(c.Begin(nil, wire.Reply{Status: 200, Length: -1}), nil)
		for range 10 {
			time.Sleep(short / 2) // longer than every timeout, in all
			c.WriteAll(wire.AppendChunk(nil, []byte("ping ")), nil)
		}
		c.WriteAll([]byte(wire.LastChunk), nil)
		c.Finish()
	}, func(s *wire.Server) { s.Timeouts = wire.Timeouts{Idle: short, Head: short, Body: short} })
	for name, c := range map[string]struct {
		request, want string // "" : no answer
	}{
		"a stream":        {getHead, strings.Repeat("ping ", 10)},
		"nothing":         {"", ""},
		"half a head":     {"GET / HTTP/1.1\r\nHo", ""},
		"half a body":     {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", "the body did not come whole"},
		"half the chunks": {chunkedHead + "5\r\nha", "the body did not come whole"},
	} {
		nc, br := f.dial(t)
		io.WriteString(nc, c.request)
		if c.want == "" {
			if _, err := br.ReadByte(); err == nil {
				t.Errorf("%s: was answered", name)
			}
			continue
		}
		if _, got := answer(t, br); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
}

func TestIdleConnectionsMakeRoomForThoseThatWait(t *testing.T) {
	f := startFront(t, "tcp", echo, func(s *wire.Server) { s.MaxConns = 2 })
	for range 2 { // two that stay, with nothing to do
		c, br := f.dial(t)
		io.WriteString(c, getHead)
		answer(t, br)
	}
	for range 3 {
		c, br := f.dial(t)
		io.WriteString(c, getHead)
		if status, _ := answer(t, br); status != 200 {
			t.Errorf("%d", status)
		}
	}
}

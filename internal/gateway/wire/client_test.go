package wire_test

import (
	"bufio"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	getHead = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	okHead  = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

// origin is a server of raw connections: answer is called for each, with its
// number from 1.
type origin struct {
	*wire.Client
	accepted atomic.Int32
}

func startOrigin(t *testing.T, answer func(c net.Conn, br *bufio.Reader, number int)) *origin {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(o.accepted.Add(1))
			go func() {
				defer c.Close()
				answer(c, bufio.NewReader(c), n)
			}()
		}
	}()
	o.Client = wire.NewClient(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	})
	t.Cleanup(func() {
		o.Close()
		l.Close()
		<-done
	})
	return o
}

// request reads one request and returns its body.
func request(br *bufio.Reader) (string, bool) {
	r, err := http.ReadRequest(br)
	if err != nil {
		return "", false
	}
	b, err := io.ReadAll(r.Body)
	return string(b), err == nil
}

func always(text string) func(net.Conn, *bufio.Reader, int) {
	return func(c net.Conn, br *bufio.Reader, _ int) {
		for {
			if _, ok := request(br); !ok {
				return
			}
			io.WriteString(c, text)
		}
	}
}

// get sends a small request and returns the answer's body.
func (o *origin) get(t *testing.T) (int, string, error) {
	t.Helper()
	r, err := o.Do(t.Context(), &wire.Parcel{Head: []byte(getHead)})
	if err != nil {
		return 0, "", err
	}
	defer r.Close()
	body, err := readAll(r)
	return r.Status, body, err
}

func readAll(r *wire.Reader) (string, error) {
	var body []byte
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return string(body), nil
		}
		if err != nil {
			return string(body), err
		}
		body = append(body, p...)
	}
}

func TestAnswersInEachFramingAreReadAndTheConnectionKept(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 10000)
	for name, c := range map[string]struct {
		answer, body string
		kept         bool
	}{
		"length":       {okHead, "ok", true},
		"a long one":   {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(long), long), long, true},
		"chunks":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x\r\nay!\r\n0\r\nX: y\r\n\r\n", "okay!", true},
		"no body":      {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true},
		"after a hint": {"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + okHead, "ok", true},
		"close":        {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "ok", false},
		"too much":     {okHead + "junk", "ok", false},
	} {
		t.Run(name, func(t *testing.T) {
			o := startOrigin(t, always(c.answer))
			for range 3 {
				if status, body, err := o.get(t); status != 200 || body != c.body || err != nil {
					t.Fatalf("%d, %d bytes, %v", status, len(body), err)
				}
			}
			if got := o.accepted.Load(); (got == 1) != c.kept {
				t.Errorf("%d connections for 3 requests", got)
			}
		})
	}
}

func TestAnswerThatGoesOnToTheEndIsRead(t *testing.T) {
	o := startOrigin(t, func(c net.Conn, br *bufio.Reader, _ int) {
		request(br)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nall of it")
	})
	if _, body, err := o.get(t); body != "all of it" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
}

func TestConnectionClosedMeanwhileIsReplacedOnce(t *testing.T) {
	o := startOrigin(t, func(c net.Conn, br *bufio.Reader, _ int) {
		if _, ok := request(br); ok {
			io.WriteString(c, okHead)
		}
	})
	for range 3 {
		if _, body, err := o.get(t); body != "ok" || err != nil {
			t.Fatalf("%q, %v", body, err)
		}
	}
}

func TestRequestThatMayHaveBeenReadIsNotRepeated(t *testing.T) {
	var requests atomic.Int32
	for name, answer := range map[string]string{"nothing": "", "half a head": "HTTP/1.1 200 OK\r\nConte"} {
		requests.Store(0)
		o := startOrigin(t, func(c net.Conn, br *bufio.Reader, n int) {
			if _, ok := request(br); ok {
				requests.Add(1)
				io.WriteString(c, answer)
			}
		})
		if _, _, err := o.get(t); err == nil || requests.Load() != 1 {
			t.Errorf("%s: error %v after %d requests", name, err, requests.Load())
		}
	}
}

func TestAnswerThatBreaksOffIsAnError(t *testing.T) {
	for name, text := range map[string]string{
		"length":            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
		"chunks":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
		"within a chunk":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nok",
		"behind the last":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
		"a malformed chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n\r\n",
	} {
		o := startOrigin(t, func(c net.Conn, br *bufio.Reader, _ int) {
			request(br)
			io.WriteString(c, text)
		})
		if _, body, err := o.get(t); !strings.HasPrefix(body, "ok") || err == nil {
			t.Errorf("%s: %q, %v", name, body, err)
		}
	}
}

func TestHeadsOfAnswersAreBounded(t *testing.T) {
	for name, text := range map[string]string{
		"a long line":  "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 1<<20),
		"endless 1xx":  strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1<<15),
		"many lines":   "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1<<10) + "\r\n",
		"101":          "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"no HTTP":      "SSH-2.0-x\r\n\r\n",
		"a bare LF":    "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
		"two framings": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		o := startOrigin(t, func(c net.Conn, br *bufio.Reader, _ int) {
			request(br)
			io.WriteString(c, text)
			io.Copy(io.Discard, c) // until the client has had enough
		})
		if status, _, err := o.get(t); err == nil {
			t.Errorf("%s: accepted as %d", name, status)
		}
	}
}

func TestAnswerBeforeTheBodyIsReadIsNotLost(t *testing.T) {
	release := make(chan struct{})
	o := startOrigin(t, func(c net.Conn, br *bufio.Reader, _ int) {
		br.ReadString('\n')
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
		<-release
	})
	defer close(release)
	done := make(chan struct{})
	body := make([]byte, 32<<20)
	r, err := o.Do(t.Context(), &wire.Parcel{Head: []byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 33554432\r\n\r\n"), Body: body, Done: func() { close(done) }})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := readAll(r); r.Status != 413 || text != "no" || err != nil {
		t.Errorf("%d %q, %v", r.Status, text, err)
	}
	r.Close()
	<-done // the body is let go of, though the origin never read it
}

func TestLongBodyArrivesWhole(t *testing.T) {
	got := make(chan string, 1)
	o := startOrigin(t, func(c net.Conn, br *bufio.Reader, _ int) {
		b, _ := request(br)
		got <- b
		io.WriteString(c, okHead)
	})
	body := strings.Repeat("0123456789", 100_000)
	done := make(chan struct{})
	r, err := o.Do(t.Context(), &wire.Parcel{Head: fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", len(body)), Body: []byte(body), Done: func() { close(done) }})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if <-got != body {
		t.Error("the body is not the same")
	}
	<-done
}

func TestContextCutsTheConnection(t *testing.T) {
	cut, begun := make(chan struct{}, 2), make(chan struct{}, 2)
	o := startOrigin(t, func(c net.Conn, br *bufio.Reader, n int) {
		request(br)
		if n == 2 {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok")
		}
		begun <- struct{}{}
		io.Copy(io.Discard, br)
		cut <- struct{}{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	if _, err := o.Do(ctx, &wire.Parcel{Head: []byte(getHead)}); !errors.Is(err, context.Canceled) {
		t.Errorf("before the answer: %v", err)
	}
	<-cut
	ctx, cancel = context.WithCancel(t.Context())
	r, err := o.Do(ctx, &wire.Parcel{Head: []byte(getHead)})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if body, err := readAll(r); err == nil {
		t.Errorf("in the answer: no error behind %q", body)
	}
	<-cut
	r.Close()
}

func TestNoConnectionIsToldFromNoAnswer(t *testing.T) {
	c := wire.NewClient(func(context.Context) (net.Conn, error) { return nil, errors.New("refused") })
	done := false
	if _, err := c.Do(t.Context(), &wire.Parcel{Head: []byte(getHead), Done: func() { done = true }}); !errors.Is(err, wire.ErrNotSent) || !done {
		t.Errorf("%v, done %v", err, done)
	}
}

// environ is a getenv for tests.
func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// secure is a TLS server, and the file of its CA.
func secure(t *testing.T) (*url.URL, string) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u, file
}

func fetch(t *testing.T, dial func(context.Context) (net.Conn, error)) (string, error) {
	t.Helper()
	o := &origin{Client: wire.NewClient(dial)}
	defer o.Close()
	_, body, err := o.get(t)
	return body, err
}

func TestDialTrustsTheEnvironmentsCA(t *testing.T) {
	u, ca := secure(t)
	dial, err := wire.Dialer(u, environ("NODE_EXTRA_CA_CERTS", ca))
	if err != nil {
		t.Fatal(err)
	}
	if body, err := fetch(t, dial); body != "HTTP/1.1" || err != nil {
		t.Errorf("with the CA: %q, %v", body, err)
	}
	if dial, err = wire.Dialer(u, environ()); err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(t, dial); err == nil {
		t.Error("without the CA: the certificate was accepted")
	}
	if _, err := wire.Dialer(u, environ("NODE_EXTRA_CA_CERTS", "/nowhere")); err == nil {
		t.Error("a CA file that is not there was accepted")
	}
}

func TestDialGoesThroughTheEnvironmentsProxy(t *testing.T) {
	u, ca := secure(t)
	_, port, _ := net.SplitHostPort(u.Host)
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
		asked.Store(strings.Join([]string{r.Method, r.Host, user, password}, " "))
		if r.Host != "example.com:"+port {
			w.WriteHeader(403)
			return
		}
		up, err := net.Dial("tcp", u.Host)
		if err != nil {
			return
		}
		defer up.Close()
		w.WriteHeader(200)
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		go io.Copy(up, c)
		io.Copy(c, up)
	}))
	defer proxy.Close()
	target := &url.URL{Scheme: "https", Host: "example.com:" + port} // a name of httptest's certificate
	through := strings.Replace(proxy.URL, "http://", "http://owner:secret@", 1)
	dial, err := wire.Dialer(target, environ("https_proxy", through, "NODE_EXTRA_CA_CERTS", ca, "NO_PROXY", "other.com, ample.com"))
	if err != nil {
		t.Fatal(err)
	}
	if body, err := fetch(t, dial); body != "HTTP/1.1" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	if got := asked.Load(); got != "CONNECT example.com:"+port+" owner secret" {
		t.Errorf("the proxy was asked %q", got)
	}
	if dial, err = wire.Dialer(&url.URL{Scheme: "https", Host: "other.org"}, environ("HTTPS_PROXY", through)); err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(t, dial); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a proxy that refuses: %v", err)
	}
}

func TestProxyIsNotUsedWhereItMustNot(t *testing.T) {
	u, ca := secure(t) // on loopback
	proxied := "http://127.0.0.1:1"
	if dial, err := wire.Dialer(u, environ("HTTPS_PROXY", proxied, "NODE_EXTRA_CA_CERTS", ca)); err != nil {
		t.Fatal(err)
	} else if _, err := fetch(t, dial); err != nil {
		t.Errorf("loopback through the proxy: %v", err)
	}
	for list, want := range map[string]bool{
		"*": true, "api.example.com": true, "example.com": true, ".example.com": true, "*.example.com": true, "x, API.example.com:443": true,
		"": false, "ple.com": false, "api.example.com.evil": false, "i.example.com": false,
	} {
		if got := wire.Exempt(list, "api.example.com"); got != want {
			t.Errorf("NO_PROXY=%q: exempt %v; want %v", list, got, want)
		}
	}
	for _, bad := range []string{"http://", "socks5://127.0.0.1:1", "http://user:secret@bad host:1"} {
		_, err := wire.Dialer(&url.URL{Scheme: "https", Host: "api.example.com"}, environ("HTTPS_PROXY", bad))
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("HTTPS_PROXY=%q: %v", bad, err)
		}
	}
}

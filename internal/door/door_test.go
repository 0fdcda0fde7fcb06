package door_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/door"
	"github.com/claude-hub/claude-hub/internal/hub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const platform = "platform.claude.com:443"

// upstream is a company proxy that leads every allowed CONNECT to one echo
// server and remembers what it was asked for.
type upstream struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
	auth  []string
}

func (u *upstream) seen() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.asked)
}

func newUpstream(t *testing.T, status int) *upstream {
	t.Helper()
	u := &upstream{}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.asked = append(u.asked, r.RequestURI)
		u.auth = append(u.auth, r.Header.Get("Proxy-Authorization"))
		u.mu.Unlock()
		if r.Method != http.MethodConnect || status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhello ") // the server speaks first
		io.Copy(c, rw)
	}))
	t.Cleanup(u.Close)
	return u
}

func start(t *testing.T, cfg door.Config) *door.Door {
	t.Helper()
	if cfg.Allow == nil {
		cfg.Allow = []string{platform}
	}
	d, err := door.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func dial(t *testing.T, d *door.Door) net.Conn {
	t.Helper()
	u, err := url.Parse(d.URL())
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second)) // a hang fails, it does not stall the suite
	return c
}

// ask sends raw to the door and returns the status of its answer, 0 if it hung up.
func ask(t *testing.T, d *door.Door, raw string) int {
	t.Helper()
	c := dial(t, d)
	defer c.Close()
	io.WriteString(c, raw)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	return resp.StatusCode
}

func connect(target string) string {
	return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"
}

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestTunnelThroughTheCompanyProxy(t *testing.T) {
	up := newUpstream(t, http.StatusOK)
	proxy := parse(t, up.URL)
	proxy.User = url.UserPassword("alice", "fake password")
	connected := make(chan string, 2)
	d := start(t, door.Config{Upstream: proxy, Connected: func(a string) error { connected <- a; return nil }})
	c := dial(t, d)
	io.WriteString(c, connect(platform)+"early ") // a client may not wait for the answer
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the door's answer = %v, %v", resp, err)
	}
	io.WriteString(c, "late")
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "hello early late" {
		t.Errorf("through the tunnel came %q, %v", got, err)
	}
	if len(connected) != 1 || <-connected != platform || !slices.Equal(up.seen(), []string{platform}) {
		t.Errorf("Connected was not called once with the address, or the proxy was asked for %q", up.seen())
	}
	if want := "Basic YWxpY2U6ZmFrZSBwYXNzd29yZA=="; up.auth[0] != want {
		t.Errorf("the proxy was given %q; want %q", up.auth[0], want)
	}
}

func TestTunnelWithoutAProxy(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		if c, err := echo.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	address := echo.Addr().String()
	d, err := door.New(door.Config{Allow: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "door.sock")
	if err := d.StartUnix(path); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v; want mode 0600", info, err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, connect(address)+"ping")
	c.(*net.UnixConn).CloseWrite()
	got, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(got), "HTTP/1.1 200 ") || !strings.HasSuffix(string(got), "\r\n\r\nping") {
		t.Errorf("the client got %q", got)
	}
	if d.URL() != "" {
		t.Errorf("URL() = %q for a unix socket", d.URL())
	}
}

// Everything that is not the allowed address, letter by letter, is refused
// before anything is dialled.
func TestRefuses(t *testing.T) {
	up := newUpstream(t, http.StatusOK)
	called := false
	d := start(t, door.Config{Upstream: parse(t, up.URL), Connected: func(string) error { called = true; return nil }})
	targets := []string{
		"Platform.claude.com:443", "PLATFORM.CLAUDE.COM:443", "platform.claude.com.:443", "platform.claude.com",
		"platform.claude.com:", "platform.claude.com:80", "platform.claude.com:0443", "platform.claude.com:4430",
		"platform.claude.com:443.evil.example:443", "platform.claude.com.evil:443", "platform.claude.com:443@evil.example:443",
		"user@platform.claude.com:443", "evil.example:443#platform.claude.com:443", "platform.claude.com:443/", "platform.claude.com:443?x",
		"xplatform.claude.com:443", "platform.claude.com%00.evil:443", "platform%2eclaude.com:443", "api.anthropic.com:443",
		"127.0.0.1:443", "[::1]:443", "2130706433:443", "169.254.169.254:80", "plаtform.claude.com:443" /* Cyrillic a */, "xn--pltform-7nf.claude.com:443",
		"/" + platform, "https://platform.claude.com:443/", "//" + platform, "*",
	}
	for _, target := range targets {
		if got := ask(t, d, connect(target)); got != 403 && got != 400 {
			t.Errorf("CONNECT %q was answered %d", target, got)
		}
	}
	raw := map[string]string{
		"absolute form":     "GET https://platform.claude.com:443/v1/oauth/token HTTP/1.1\r\nHost: platform.claude.com\r\n\r\n",
		"absolute form, p":  "GET http://platform.claude.com/ HTTP/1.1\r\nHost: platform.claude.com\r\n\r\n",
		"origin form":       "GET / HTTP/1.1\r\nHost: " + platform + "\r\n\r\n",
		"host is allowed":   "CONNECT evil.example:443 HTTP/1.1\r\nHost: " + platform + "\r\n\r\n",
		"lower case method": "connect " + platform + " HTTP/1.1\r\n\r\n",
		"NUL":               connect("platform.claude.com\x00.evil:443"),
		"NUL at the end":    connect(platform + "\x00"),
		"tab":               "CONNECT\t" + platform + "\tHTTP/1.1\r\n\r\n",
		"two spaces":        "CONNECT  " + platform + " HTTP/1.1\r\n\r\n",
		"a body":            "CONNECT " + platform + " HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
		"a chunked body":    "CONNECT " + platform + " HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"both lengths":      "CONNECT " + platform + " HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		"garbage":           "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 garbage\r\n\r\n",
		"HTTP/2":            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"header continued":  "CONNECT " + platform + " HTTP/1.1\r\n x\r\n\r\n",
	}
	for name, request := range raw {
		if got := ask(t, d, request); got != 403 && got != 400 {
			t.Errorf("%s was answered %d", name, got)
		}
	}
	if called || len(up.seen()) != 0 {
		t.Errorf("connected = %v, the proxy was asked for %q; want nothing to leave", called, up.seen())
	}
}

func TestHeaderIsBounded(t *testing.T) {
	d := start(t, door.Config{HeaderTimeout: 100 * time.Millisecond})
	long := "CONNECT " + platform + " HTTP/1.1\r\nX: " + strings.Repeat("a", 64<<10)
	if got := ask(t, d, long); got != 431 {
		t.Errorf("a header without end was answered %d; want 431", got)
	}
	c := dial(t, d)
	for range 10_000 { // a byte now and then does not keep the connection
		if _, err := io.WriteString(c, "C"); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond) // the slow client itself
	}
	t.Error("a client that never ends its header is still connected")
}

// Without the callback's consent no byte gets through, and the client is told no.
func TestConnectedCanRefuse(t *testing.T) {
	up := newUpstream(t, http.StatusOK)
	d := start(t, door.Config{Upstream: parse(t, up.URL), Connected: func(string) error { return errors.New("disk full") }})
	c := dial(t, d)
	io.WriteString(c, connect(platform)+"secret bytes")
	got, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(got), "HTTP/1.1 403 ") || strings.Contains(string(got), "hello") {
		t.Errorf("the client got %q; want 403 alone", got)
	}
}

// The callback has returned before the client sees its tunnel.
func TestConnectedComesBeforeTheAnswer(t *testing.T) {
	up := newUpstream(t, http.StatusOK)
	enter, leave := make(chan struct{}), make(chan struct{})
	d := start(t, door.Config{Upstream: parse(t, up.URL), Connected: func(string) error { close(enter); <-leave; return nil }})
	c := dial(t, d)
	io.WriteString(c, connect(platform))
	<-enter
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("while the callback runs the client read %d bytes, %v", n, err)
	}
	close(leave)
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect}); err != nil || resp.StatusCode != 200 {
		t.Errorf("the answer = %v, %v", resp, err)
	}
}

// The server's first byte waits for Answered, and stays behind if that refuses.
func TestAnsweredComesBeforeTheFirstByte(t *testing.T) {
	up := newUpstream(t, http.StatusOK) // says hello
	enter, leave := make(chan struct{}), make(chan error)
	d := start(t, door.Config{Upstream: parse(t, up.URL), Answered: func(string) error { enter <- struct{}{}; return <-leave }})
	for _, verdict := range []error{nil, errors.New("disk full")} {
		c := dial(t, d)
		io.WriteString(c, connect(platform))
		r := bufio.NewReader(c)
		if resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect}); err != nil || resp.StatusCode != 200 {
			t.Fatalf("the answer = %v, %v", resp, err)
		}
		<-enter
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if b, err := r.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("while the callback runs the client read %q, %v", b, err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		leave <- verdict
		b, err := r.ReadByte()
		if allowed := err == nil && b == 'h'; allowed != (verdict == nil) {
			t.Errorf("after %v the client read %q, %v", verdict, b, err)
		}
		c.Close()
	}
}

// A server that never speaks was never asked anything.
func TestSilenceIsNotAnswered(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	go func() {
		if c, err := mute.Accept(); err == nil {
			io.ReadFull(c, make([]byte, 5))
			c.Close()
		}
	}()
	address, called := mute.Addr().String(), false
	d := start(t, door.Config{Allow: []string{address}, Answered: func(string) error { called = true; return nil }})
	c := dial(t, d)
	io.WriteString(c, connect(address)+"hello")
	got, _ := io.ReadAll(c)
	d.Close()
	if !strings.HasPrefix(string(got), "HTTP/1.1 200 ") || called {
		t.Errorf("the client got %q, answered = %v; want a tunnel and no answer", got, called)
	}
}

func TestPasswordKeepsOthersOut(t *testing.T) {
	up := newUpstream(t, http.StatusOK)
	d := start(t, door.Config{Upstream: parse(t, up.URL), Password: "fake-password"})
	if got := ask(t, d, connect(platform)); got != 407 {
		t.Errorf("without the password: %d; want 407", got)
	}
	wrong := "CONNECT " + platform + " HTTP/1.1\r\nProxy-Authorization: Basic ZG9vcjp3cm9uZw==\r\n\r\n"
	if got := ask(t, d, wrong); got != 407 {
		t.Errorf("with a wrong password: %d; want 407", got)
	}
	if len(up.seen()) != 0 {
		t.Errorf("the proxy was asked for %q", up.seen())
	}
	proxy := parse(t, d.URL())
	tr := &http.Transport{Proxy: http.ProxyURL(proxy)}
	defer tr.CloseIdleConnections()
	_, err := tr.RoundTrip(mustRequest(t, "https://"+platform+"/"))
	if err == nil || len(up.seen()) != 1 {
		t.Errorf("with the URL's password: %v, the proxy was asked for %q; want the tunnel, and TLS to fail on the echo", err, up.seen())
	}
}

func mustRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// Where nothing was reached, Connected is not called: never sent.
func TestUnreachableIsNotConnected(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	refusing := newUpstream(t, http.StatusForbidden)
	for name, proxy := range map[string]string{"proxy gone": "http://" + gone.Addr().String(), "proxy refuses": refusing.URL} {
		called := false
		d := start(t, door.Config{Upstream: parse(t, proxy), Connected: func(string) error { called = true; return nil }})
		if got := ask(t, d, connect(platform)); got != 502 || called {
			t.Errorf("%s: answered %d, connected = %v; want 502, false", name, got, called)
		}
	}
}

// A proxy that takes the request and never answers holds neither client nor Close.
func TestSilentProxy(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := start(t, door.Config{Upstream: parse(t, "http://"+silent.Addr().String()), DialTimeout: 50 * time.Millisecond})
	if got := ask(t, d, connect(platform)); got != 502 {
		t.Errorf("a silent proxy was answered %d; want 502", got)
	}
	patient := start(t, door.Config{Upstream: parse(t, "http://"+silent.Addr().String()), DialTimeout: time.Hour})
	io.WriteString(dial(t, patient), connect(platform))
	for range 2 { // the second connection is the patient door's
		if c, err := silent.Accept(); err == nil {
			defer c.Close()
		}
	}
	patient.Close() // goleak and the test's own deadline tell if it hangs
}

func TestCloseCutsTunnelsAndWaits(t *testing.T) {
	up := newUpstream(t, http.StatusOK)
	d := start(t, door.Config{Upstream: parse(t, up.URL)})
	c := dial(t, d)
	io.WriteString(c, connect(platform))
	r := bufio.NewReader(c)
	if _, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect}); err != nil {
		t.Fatal(err)
	}
	idle := dial(t, d) // sends nothing
	d.Close()
	for _, c := range []io.Reader{r, idle} {
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection outlived Close")
		}
	}
	if err := d.Close(); err != nil {
		t.Errorf("the second Close = %v", err)
	}
	if err := d.Start(); err == nil {
		t.Error("a closed door was started")
	}
}

func TestMoreClientsThanSlotsAreServedInTurn(t *testing.T) {
	d := start(t, door.Config{})
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if got := ask(t, d, connect("evil.example:443")); got != 403 {
				t.Errorf("answered %d; want 403", got)
			}
		})
	}
	wg.Wait()
}

func TestNewRefuses(t *testing.T) {
	for _, a := range []string{"", "platform.claude.com", "platform.claude.com:", "Platform.claude.com:443", "platform.claude.com.:443", "a b:443", ":443", "x:0", "x:0443", "x:65536", "x\x00:1", "*:443"} {
		if _, err := door.New(door.Config{Allow: []string{a}}); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("New(Allow: %q) = %v; want ErrInvalid", a, err)
		}
	}
	if _, err := door.New(door.Config{}); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("New without Allow = %v; want ErrInvalid", err)
	}
	_, err := door.New(door.Config{Allow: []string{platform}, Upstream: parse(t, "socks5://alice:fakepw@proxy:1080")})
	if !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" || strings.Contains(fmt.Sprint(err), "fakepw") {
		t.Errorf("New with a SOCKS proxy = %v (hint %q); want ErrInvalid, a hint and no password", err, hub.HintOf(err))
	}
}

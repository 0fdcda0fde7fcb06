package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	accessToken = "sk-ant-oat01-fake-access-1"
	smallBody   = `{"model":"claude-sonnet-4-5","max_tokens":10,"messages":[]}`
)

// tokens is a source whose login never changes.
type tokens struct{}

func (tokens) AccessToken(_ context.Context, _ hub.ProfileID, stale hub.Generation) (secret.Text, hub.Generation, error) {
	if stale != 0 {
		return secret.Text{}, 0, hub.ErrLoginRequired
	}
	return secret.New(accessToken), 1, nil
}

// upstream is a server that remembers what it was asked.
type upstream struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
}

func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.requests)
}

func (u *upstream) last(t *testing.T) (*http.Request, string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) == 0 {
		t.Fatal("the upstream was not asked")
	}
	return u.requests[len(u.requests)-1], u.bodies[len(u.bodies)-1]
}

func newServer(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func cancellable(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithCancel(r.Context())
}

func startUpstream(t *testing.T, answer http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		u.mu.Lock()
		u.requests, u.bodies = append(u.requests, r), append(u.bodies, string(b))
		u.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"type":"message","model":"claude-sonnet-4-5","usage":{"input_tokens":7,"output_tokens":5}}`)
	}))
	t.Cleanup(u.Close)
	return u
}

// logBuffer is a log that tests read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// bench is a gateway with one open endpoint on a port.
type bench struct {
	*gateway.Endpoint
	gateway *gateway.Gateway
	log     *logBuffer
	client  *http.Client
}

func start(t *testing.T, u *upstream, change ...func(*gateway.Config, *gateway.Request)) *bench {
	t.Helper()
	target, err := url.Parse(u.URL)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{log: &logBuffer{}}
	cfg := gateway.Config{Upstream: target, Tokens: tokens{}, Log: slog.New(slog.NewTextHandler(b.log, nil))}
	req := gateway.Request{Run: "r-test", Profile: "p-test", Limits: hub.Limits{Lifetime: time.Minute}}
	for _, c := range change {
		c(&cfg, &req)
	}
	if b.gateway, err = gateway.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.gateway.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if b.Endpoint, err = b.gateway.Open(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	ct := &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}
	t.Cleanup(ct.CloseIdleConnections)
	b.client = &http.Client{Transport: ct, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return b
}

func unixClient(t *testing.T, socket string) *http.Client {
	t.Helper()
	ct := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(ct.CloseIdleConnections)
	return &http.Client{Transport: ct}
}

func mkdir(t *testing.T, dir string, mode os.FileMode) {
	t.Helper()
	if err := os.Mkdir(dir, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// post sends body to /v1/messages with the endpoint's own token.
func (b *bench) post(t *testing.T, body string) (*http.Response, string) {
	t.Helper()
	return b.do(t, b.request(t, "POST", "/v1/messages?beta=true", body))
}

func (b *bench) request(t *testing.T, method, path, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, b.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+b.Token().Reveal())
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (b *bench) do(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := b.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	return res, string(text)
}

func TestRequestCarriesTheAccessTokenAndNothingOfTheClients(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	r := b.request(t, "POST", "/v1/messages?beta=true", smallBody)
	for k, v := range map[string]string{
		"X-Api-Key": b.Token().Reveal(), "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1.2.3.4",
		"Accept-Encoding": "gzip, br", "Anthropic-Beta": "oauth-2025-04-20,x", "Anthropic-Version": "2023-06-01",
		"X-App": "cli", "Connection": "X-Named, keep-alive", "X-Named": "1", "User-Agent": "claude-cli/2 (x)", "Te": "trailers",
	} {
		r.Header.Set(k, v)
	}
	res, text := b.do(t, r)
	if res.StatusCode != 200 || !strings.Contains(text, `"input_tokens":7`) {
		t.Fatalf("answer %d %s", res.StatusCode, text)
	}
	got, body := u.last(t)
	if body != smallBody || got.ContentLength != int64(len(smallBody)) || got.RequestURI != "/v1/messages?beta=true" {
		t.Errorf("upstream got %s with %d bytes: %s", got.RequestURI, got.ContentLength, body)
	}
	want := map[string]string{
		"Authorization": "Bearer " + accessToken, "Anthropic-Beta": "oauth-2025-04-20,x", "Anthropic-Version": "2023-06-01",
		"X-App": "cli", "User-Agent": "claude-cli/2 (x)", "Content-Type": "application/json", "Accept-Encoding": "identity", "Content-Length": fmt.Sprint(len(smallBody)),
	}
	for k := range got.Header {
		if v, ok := want[k]; !ok || got.Header.Get(k) != v {
			t.Errorf("upstream got the header %s: %q", k, got.Header[k])
		}
	}
	if len(got.Header) != len(want) {
		t.Errorf("upstream got %d headers; want %d: %v", len(got.Header), len(want), got.Header)
	}
	if strings.Contains(b.log.String(), "fake-access") {
		t.Error("the access token is in the log")
	}
}

// finalUsage closes e and returns what has gone through: the end of an answer may
// be with its reader before it is counted.
func finalUsage(t *testing.T, e *gateway.Endpoint) hub.Usage {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	return e.Usage()
}

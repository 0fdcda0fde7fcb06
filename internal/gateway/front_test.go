package gateway_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// errorOf checks that an answer has the API's error shape, and returns the
// error's type and message.
func errorOf(t *testing.T, res *http.Response, text string) (string, string) {
	t.Helper()
	var e struct {
		Type  string
		Error struct{ Type, Message string }
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil || e.Type != "error" || e.Error.Type == "" || !strings.HasPrefix(e.Error.Message, "claude-hub: ") {
		t.Errorf("answer %d has not the API's error shape: %q", res.StatusCode, text)
	}
	if ct := res.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type of a refusal: %q", ct)
	}
	return e.Error.Type, e.Error.Message
}

// raw sends text to the endpoint as it is, with TOKEN and HOST replaced, and
// returns the statuses of all answers up to the connection's end.
func (b *bench) raw(t *testing.T, text string) []int {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(b.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text = strings.NewReplacer("TOKEN", b.Token().Reveal(), "HOST", strings.TrimPrefix(b.URL(), "http://")).Replace(text)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	br := bufio.NewReader(c)
	var statuses []int
	for {
		if _, err := br.Peek(1); err != nil {
			return statuses
		}
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Errorf("behind %v: no answer: %v", statuses, err)
			return statuses
		}
		io.Copy(io.Discard, res.Body)
		c.(*net.TCPConn).CloseWrite() // or a connection that is kept would never end
		statuses = append(statuses, res.StatusCode)
	}
}

const (
	line   = "POST /v1/messages HTTP/1.1\r\nHost: HOST\r\n"
	auth   = "Authorization: Bearer TOKEN\r\n"
	small  = `{"model":"claude-sonnet-4-5"}`                                       // 29 bytes
	second = line + auth + "Content-Length: 22\r\n\r\n" + `{"model":"smuggled-1"}` // what an attacker wants to be read as a request of its own
)

// A request that could be read in two ways becomes no upstream request, and
// nothing behind it is read.
func TestAmbiguousRequestsReachNobody(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	for name, text := range map[string]string{
		"CL.TE":                  line + auth + "Content-Length: 29\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second,
		"TE.CL":                  line + auth + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n1d\r\n" + small + "\r\n0\r\n\r\n" + second,
		"TE.TE":                  line + auth + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + second,
		"TE with a space before": line + auth + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + second,
		"TE folded":              line + auth + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + second,
		"TE in disguise":         line + auth + "Transfer-Encoding: xchunked\r\nContent-Length: 29\r\n\r\n" + small + second,
		"two lengths":            line + auth + "Content-Length: 29\r\nContent-Length: 0\r\n\r\n" + small + second,
		"a length as a list":     line + auth + "Content-Length: 29, 29\r\n\r\n" + small + second,
		"bare LF":                strings.ReplaceAll(line+auth, "\r\n", "\n") + "Content-Length: 29\n\n" + small + second,
		"bare LF in a field":     line + auth + "X-A: b\nContent-Length: 0\r\nContent-Length: 29\r\n\r\n" + small + second,
		"a folded field":         line + auth + "X-A: b\r\n\tContent-Length: 0\r\nContent-Length: 29\r\n\r\n" + small + second,
		"a folded token":         line + "Authorization: Bearer\r\n TOKEN\r\nContent-Length: 29\r\n\r\n" + small + second,
		"a NUL":                  line + auth + "X-A: \x00\r\nContent-Length: 29\r\n\r\n" + small + second,
		"two Hosts":              line + "Host: HOST\r\n" + auth + "Content-Length: 29\r\n\r\n" + small + second,
		"a chunk's extension":    line + auth + "Transfer-Encoding: chunked\r\n\r\n1d;a=\"\r\n\"\r\n" + small + "\r\n0\r\n\r\n" + second,
		"a trailer":              line + auth + "Transfer-Encoding: chunked\r\n\r\n1d\r\n" + small + "\r\n0\r\nX-Api-Key: x\r\n\r\n" + second,
		"a chunk with bare LF":   line + auth + "Transfer-Encoding: chunked\r\n\r\n1d\n" + small + "\r\n0\r\n\r\n" + second,
		"a chunk's size with 0x": line + auth + "Transfer-Encoding: chunked\r\n\r\n0x1d\r\n" + small + "\r\n0\r\n\r\n" + second,
		"HTTP/1.0":               strings.Replace(line, "1.1", "1.0", 1) + auth + "Content-Length: 29\r\n\r\n" + small + second,
		"HTTP/2":                 "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + second,
	} {
		before := u.count()
		statuses := b.raw(t, text)
		if len(statuses) != 1 || statuses[0] < 400 {
			t.Errorf("%s: answers %v; want one refusal", name, statuses)
		}
		if got := u.count() - before; got != 0 {
			t.Errorf("%s: %d upstream requests", name, got)
		}
	}
}

// Whatever its framing, a request that is accepted becomes exactly one, with a
// length.
func TestAcceptedRequestsBecomeExactlyOne(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	for name, text := range map[string]string{
		"length":         line + auth + "Content-Length: 29\r\n\r\n" + small,
		"chunks":         line + auth + "Transfer-Encoding: chunked\r\n\r\n3\r\n" + small[:3] + "\r\n1A\r\n" + small[3:] + "\r\n0\r\n\r\n",
		"an API key":     line + "X-Api-Key: TOKEN\r\nContent-Length: 29\r\n\r\n" + small,
		"both":           line + auth + "x-api-key: TOKEN\r\nContent-Length: 29\r\n\r\n" + small,
		"odd upper case": line + "AUTHORIZATION: bearer TOKEN\r\ncontent-LENGTH: 29\r\n\r\n" + small,
		"localhost":      strings.Replace(line, "Host: HOST", "Host: localhost:"+b.URL()[strings.LastIndex(b.URL(), ":")+1:], 1) + auth + "Content-Length: 29\r\n\r\n" + small,
	} {
		before := u.count()
		if statuses := b.raw(t, text); len(statuses) != 1 || statuses[0] != 200 {
			t.Errorf("%s: answers %v; want 200", name, statuses)
		}
		r, body := u.last(t)
		if u.count()-before != 1 || body != small || r.ContentLength != 29 || len(r.TransferEncoding) > 0 || r.Header.Get("Authorization") != "Bearer "+accessToken || r.Header.Get("X-Api-Key") != "" {
			t.Errorf("%s: %d upstream requests, the last %+v with %q", name, u.count()-before, r.Header, body)
		}
	}
}

func TestOnlyTheAllowedPathsAreServed(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	for _, target := range []string{
		"POST /", "POST /v1", "POST /v1/messages/", "POST //v1/messages", "POST /v1//messages", "POST /v1/./messages", "POST /v1/x/../messages",
		"POST /v1/messages/../messages", "POST /%761/messages", "POST /v1%2fmessages", "POST /v1/messages%00", "POST /v1/messages;a=b", "POST /V1/messages",
		"POST /v1/messages#x", "POST /v1/messages?a=%0d%0a", "POST /v1/messages?a=/../b", "POST /v1/messages?" + strings.Repeat("a", 600),
		"GET /v1/messages", "PUT /v1/messages", "post /v1/messages", "POST /v1/messages/batches", "POST /v1/complete", "GET /v1/models",
		"GET /api/oauth/profile", "POST /v1/oauth/token", "GET /api/oauth/usage", "POST /api/hello", "OPTIONS *", "OPTIONS /v1/messages", "TRACE /v1/messages",
		"POST http://HOST/v1/messages", "POST https://api.anthropic.com/v1/messages", "POST http://evil.test/v1/messages", "POST @evil.test/v1/messages",
		"POST ?/v1/messages", "CONNECT api.anthropic.com:443", "CONNECT /v1/messages", "POST \\v1\\messages",
	} {
		if statuses := b.raw(t, target+" HTTP/1.1\r\nHost: HOST\r\n"+auth+"Content-Length: 29\r\n\r\n"+small); len(statuses) == 0 || statuses[0] != 403 {
			t.Errorf("%s: answers %v; want 403", target, statuses)
		}
	}
	if got := u.count(); got != 0 {
		t.Errorf("%d upstream requests", got)
	}
	for _, target := range []string{"POST /v1/messages", "POST /v1/messages?", "POST /v1/messages?beta=true", "POST /v1/messages/count_tokens?beta=true"} {
		if statuses := b.raw(t, target+" HTTP/1.1\r\nHost: HOST\r\n"+auth+"Content-Length: 29\r\n\r\n"+small); len(statuses) != 1 || statuses[0] != 200 {
			t.Errorf("%s: answers %v; want 200", target, statuses)
		}
		if r, _ := u.last(t); r.RequestURI != strings.TrimPrefix(target, "POST ") {
			t.Errorf("%s became %s", target, r.RequestURI)
		}
	}
}

func TestHelloIsAnsweredHereWithoutAToken(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	if statuses := b.raw(t, "GET /api/hello HTTP/1.1\r\nHost: HOST\r\n\r\n"); len(statuses) != 1 || statuses[0] != 200 {
		t.Errorf("GET: %v", statuses)
	}
	r := b.request(t, "HEAD", "/api/hello", "")
	r.Header.Del("Authorization")
	if res, _ := b.do(t, r); res.StatusCode != 200 || u.count() != 0 {
		t.Errorf("HEAD: %d, %d upstream requests", res.StatusCode, u.count())
	}
}

func TestWebPagesAndOtherProtocolsAreRefused(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	for _, field := range []string{
		"Origin: http://127.0.0.1", "Origin: null", "Sec-Fetch-Site: same-origin", "Upgrade: websocket\r\nConnection: Upgrade", "Upgrade: h2c", "Content-Encoding: gzip",
	} {
		if statuses := b.raw(t, line+auth+field+"\r\nContent-Length: 29\r\n\r\n"+small); len(statuses) != 1 || statuses[0] != 403 && statuses[0] != 415 {
			t.Errorf("%s: answers %v; want a refusal", field, statuses)
		}
	}
	port := b.URL()[strings.LastIndex(b.URL(), ":")+1:]
	for _, host := range []string{"evil.test", "evil.test:" + port, "127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:" + port, "localhost.:" + port, "[::1]:" + port, "127.0.0.1:" + port + "@evil.test", ""} {
		if statuses := b.raw(t, strings.Replace(line, "Host: HOST", "Host: "+host, 1)+auth+"Content-Length: 29\r\n\r\n"+small); len(statuses) != 1 || statuses[0] != 403 {
			t.Errorf("Host %q: answers %v; want 403", host, statuses)
		}
	}
	if u.count() != 0 {
		t.Errorf("%d upstream requests", u.count())
	}
}

func TestOnlyTheEndpointsOwnTokenIsGood(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	other, err := b.gateway.Open(t.Context(), gateway.Request{Run: "r-other", Profile: "p-test", Limits: hub.Limits{Lifetime: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	foreign := other.Token().Reveal()
	for name, c := range map[string]struct {
		fields string
		alarms int
	}{
		"none":                       {"", 0},
		"empty":                      {"Authorization: Bearer \r\n", 0},
		"no scheme":                  {"Authorization: TOKEN\r\n", 0},
		"basic":                      {"Authorization: Basic TOKEN\r\n", 0},
		"another":                    {"Authorization: Bearer sk-ant-oat01-lease-fakefakefakefakefakefakefakefakefakefakefa\r\n", 0},
		"the access token":           {"Authorization: Bearer " + accessToken + "\r\n", 0},
		"a part":                     {"Authorization: Bearer TOKE\r\n", 0},
		"with a space behind":        {"Authorization: Bearer TOKEN x\r\n", 0},
		"twice":                      {auth + auth, 0},
		"twice as a key":             {"X-Api-Key: TOKEN\r\nX-Api-Key: TOKEN\r\n", 0},
		"both, differing":            {auth + "X-Api-Key: sk-ant-api03-fake\r\n", 0},
		"both, the key good":         {"Authorization: Bearer sk-ant-oat01-fake\r\nX-Api-Key: TOKEN\r\n", 0},
		"both, one empty":            {auth + "X-Api-Key: \r\n", 0},
		"two bearers in one":         {"Authorization: Bearer TOKEN, Bearer TOKEN\r\n", 0},
		"another run's":              {"Authorization: Bearer " + foreign + "\r\n", 1},
		"another run's as a key":     {"X-Api-Key: " + foreign + "\r\n", 1},
		"another run's with its own": {auth + "X-Api-Key: " + foreign + "\r\n", 0},
	} {
		before := b.Alarms()
		if statuses := b.raw(t, line+c.fields+"Content-Length: 29\r\n\r\n"+small); len(statuses) != 1 || statuses[0] != 401 {
			t.Errorf("%s: answers %v; want 401", name, statuses)
		}
		if got := b.Alarms() - before; got != c.alarms {
			t.Errorf("%s: %d alarms; want %d", name, got, c.alarms)
		}
	}
	if u.count() != 0 {
		t.Errorf("%d upstream requests", u.count())
	}
	log := b.log.String()
	if strings.Count(log, "level=ERROR msg=\"alarm") != 2 || !strings.Contains(log, "r-other") || strings.Contains(log, foreign) {
		t.Errorf("the alarms are not in the log as they should be:\n%s", log)
	}
	other.Close()
	if statuses := b.raw(t, line+"X-Api-Key: "+foreign+"\r\nContent-Length: 29\r\n\r\n"+small); len(statuses) != 1 || statuses[0] != 401 || b.Alarms() != 3 {
		t.Errorf("the token of a run that has ended: %v, %d alarms", statuses, b.Alarms())
	}
}

// Invariant 3: the platform's own tools would be a network.
func TestRunMayNotHaveThePlatformReachOut(t *testing.T) {
	const search = `{"model":"m","tools":[{"type":"web_search_20250305","name":"web_search"}]}`
	for _, body := range []string{
		search, `{"model":"m","mcp_servers":[{"type":"url","url":"https://evil.example"}]}`,
		`{"model":"m","messages":[{"content":[{"type":"image","source":{"type":"url","url":"https://evil.example/?x"}}]}]}`,
	} {
		u := startUpstream(t, nil)
		res, text := start(t, u).post(t, body)
		if kind, message := errorOf(t, res, text); res.StatusCode != 403 || kind != "permission_error" || !strings.Contains(message, "no network") || u.count() != 0 {
			t.Errorf("%s: %d %s %q, %d upstream requests", body, res.StatusCode, kind, message, u.count())
		}
	}
	u := startUpstream(t, nil)
	b := start(t, u, func(_ *gateway.Config, r *gateway.Request) { r.Remote = true })
	if res, text := b.post(t, search); res.StatusCode != 200 {
		t.Errorf("where it is allowed: %d %s", res.StatusCode, text)
	}
}

func TestBodiesThatHideTheirModelAreRefused(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u, func(_ *gateway.Config, r *gateway.Request) { r.Limits.Models = []string{"cheap-*"} })
	for _, body := range []string{
		`{"model":"cheap-1","model":"dear-1"}`, `{"model":"dear-1","model":"cheap-1"}`, `{"model":"cheap-1","mod\u0065l":"dear-1"}`,
		`{"messages":"\"model\":\"cheap-1\""}`, `{"model":["cheap-1"]}`, `{"model":"cheap-1"}{"model":"dear-1"}`, `[]`, ``, `{`,
	} {
		res, text := b.post(t, body)
		if kind, _ := errorOf(t, res, text); res.StatusCode != 400 || kind != "invalid_request_error" {
			t.Errorf("%s: %d %s", body, res.StatusCode, kind)
		}
	}
	if res, _ := b.post(t, `{"model":"ch\u0065ap-1"}`); res.StatusCode != 200 || u.count() != 1 {
		t.Errorf("an escaped name: %d, %d upstream requests", res.StatusCode, u.count())
	}
}

func TestHeadsAndBodiesAreBounded(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	if statuses := b.raw(t, line+auth+"X-A: "+strings.Repeat("a", 100<<10)+"\r\n\r\n"); len(statuses) != 1 || statuses[0] != 431 {
		t.Errorf("a long head: %v; want 431", statuses)
	}
	if statuses := b.raw(t, line+auth+strings.Repeat("X-A: a\r\n", 200)+"\r\n"); len(statuses) != 1 || statuses[0] != 431 {
		t.Errorf("many fields: %v; want 431", statuses)
	}
	if statuses := b.raw(t, line+auth+"Content-Length: 33554433\r\n\r\n"); len(statuses) != 1 || statuses[0] != 413 {
		t.Errorf("a long body: %v; want 413", statuses)
	}
	if u.count() != 0 {
		t.Errorf("%d upstream requests", u.count())
	}
	big := `{"model":"m","x":"` + strings.Repeat("y", 20<<20) + `"}`
	if res, _ := b.post(t, big); res.StatusCode != 200 {
		t.Errorf("20 MB: %d", res.StatusCode)
	}
	if _, body := u.last(t); body != big {
		t.Error("20 MB did not arrive as they were sent")
	}
}

func TestUnixSocketIsPrivateAndGoneAfterClose(t *testing.T) {
	u := startUpstream(t, nil)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	mkdir(t, dir, 0o700)
	socket := filepath.Join(dir, "gateway.sock")
	b := start(t, u, func(_ *gateway.Config, r *gateway.Request) { r.Socket = socket })
	if got := mode(t, socket); got.Perm() != 0o600 {
		t.Errorf("the socket's mode is %v", got)
	}
	if len(socket) < 108 {
		t.Fatal("the path is not longer than the kernel takes")
	}
	t.Chdir(dir)
	b.client = unixClient(t, "gateway.sock")
	if res, _ := b.post(t, small); res.StatusCode != 200 {
		t.Errorf("answer %d", res.StatusCode)
	}
	for _, host := range []string{"127.0.0.1", "localhost:8080"} {
		r := b.request(t, "POST", "/v1/messages", small)
		r.Host = host
		if res, _ := b.do(t, r); res.StatusCode != 200 {
			t.Errorf("Host %s: %d", host, res.StatusCode)
		}
	}
	r := b.request(t, "POST", "/v1/messages", small)
	r.Host = "evil.test"
	if res, _ := b.do(t, r); res.StatusCode != 403 {
		t.Errorf("another Host: %d", res.StatusCode)
	}
	if _, err := b.gateway.Open(t.Context(), gateway.Request{Run: "r", Profile: "p", Limits: hub.Limits{Lifetime: 1}, Socket: socket}); err == nil {
		t.Error("a second endpoint took the socket over")
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if exists(socket) {
		t.Error("the socket is still there")
	}
}

func TestSocketInAnOpenDirectoryIsRefused(t *testing.T) {
	u := startUpstream(t, nil)
	b := start(t, u)
	dir := filepath.Join(t.TempDir(), "d")
	mkdir(t, dir, 0o755)
	_, err := b.gateway.Open(t.Context(), gateway.Request{Run: "r", Profile: "p", Limits: hub.Limits{Lifetime: time.Minute}, Socket: filepath.Join(dir, "s")})
	if err == nil || hub.HintOf(err) != fmt.Sprintf("chmod 700 %s", dir) {
		t.Errorf("%v, hint %q", err, hub.HintOf(err))
	}
}

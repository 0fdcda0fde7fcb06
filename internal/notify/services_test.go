package notify_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/notify"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// service is a web service that writes down what it is sent.
type service struct {
	*httptest.Server
	mu     sync.Mutex
	got    []request
	status int // 0 answers well
}

type request struct {
	path, title, auth, body string
}

func newService(t *testing.T, start func(http.Handler) *httptest.Server) *service {
	t.Helper()
	s := &service{}
	s.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.status != 0 { // as an unfriendly one does: with all that it knows
			w.WriteHeader(s.status)
			fmt.Fprintf(w, "refused %s with %v and %q", r.URL, r.Header, body)
			return
		}
		s.got = append(s.got, request{r.URL.Path, r.Header.Get("Title"), r.Header.Get("Authorization"), string(body)})
		if r.Header.Get("Title") != "" { // ntfy's answer
			io.WriteString(w, `{"id":"x","event":"message"}`)
			return
		}
		io.WriteString(w, "ok")
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) fails(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// takes returns what has come since the last call.
func (s *service) takes() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

func (s *service) host() string {
	u, _ := url.Parse(s.URL)
	return u.Host
}

func (s *service) generic() string {
	return "generic://" + s.host() + "/hook/canarypath?disabletls=yes"
}

func targets(t *testing.T, urls ...string) []notify.Target {
	t.Helper()
	var values []secret.Text
	for _, u := range urls {
		values = append(values, secret.New(u))
	}
	all, err := notify.ParseTargets(values, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var message = notify.Message{Event: notify.EventTest, Profile: "default", Title: "claude-hub default: a title", Text: "a text\nof two lines"}

func TestWebhookAndNtfy(t *testing.T) {
	s := newService(t, httptest.NewServer)
	for _, to := range targets(t, s.generic(), s.generic()+"&template=json", "ntfy://me:pass@"+s.host()+"/topic?scheme=http") {
		if err := to.Send(t.Context(), message); err != nil {
			t.Errorf("%s: %v", to.Name(), err)
		}
	}
	got := s.takes()
	if len(got) != 3 {
		t.Fatalf("%d requests arrived; want 3", len(got))
	}
	if r := got[0]; r.path != "/hook/canarypath" || r.body != message.Title+"\n"+message.Text {
		t.Errorf("the webhook got %+v", r)
	}
	if r := got[1]; !strings.Contains(r.body, `"title":"`+message.Title+`"`) || !strings.Contains(r.body, `"message":"a text\nof two lines"`) {
		t.Errorf("the webhook with a template got %+v", r)
	}
	if r := got[2]; r.path != "/topic" || r.title != message.Title || !strings.Contains(r.body, "a text") ||
		r.auth != "Basic "+base64.StdEncoding.EncodeToString([]byte("me:pass")) {
		t.Errorf("ntfy got %+v", r)
	}
}

// Slack's host can't be chosen: the test is the host.
func TestSlack(t *testing.T) {
	s := newService(t, httptest.NewTLSServer)
	before := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = before })
	transport := s.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.InsecureSkipVerify = true
	transport.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		if address != "hooks.slack.com:443" {
			t.Errorf("somebody dials %s", address)
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.host())
	}
	http.DefaultTransport = transport
	t.Cleanup(transport.CloseIdleConnections)
	to := targets(t, "slack://hook:TCANARY12-BCANARY34-canarycanarycanarycanary@webhook")[0]
	if err := to.Send(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	got := s.takes()
	if len(got) != 1 || !strings.HasPrefix(got[0].path, "/services/TCANARY12/") || !strings.Contains(got[0].body, "of two lines") || !strings.Contains(got[0].body, message.Title) {
		t.Errorf("Slack got %+v", got)
	}
	s.fails(http.StatusForbidden)
	if err := to.Send(t.Context(), message); err == nil || strings.Contains(strings.ToLower(err.Error()), "canary") {
		t.Errorf("a refused message: %v; want an error without the token", err)
	}
}

// mailServer has the conversation of one mail server, and returns its host and
// what it was told.
func mailServer(t *testing.T, refuse string) (address string, said func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var mu sync.Mutex
	var all strings.Builder
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				mu.Lock()
				defer mu.Unlock()
				converse(conn, &all, refuse)
			}()
		}
	}()
	return l.Addr().String(), func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

func converse(conn net.Conn, said *strings.Builder, refuse string) {
	r := textproto.NewReader(bufio.NewReader(conn))
	reply := func(s string) { io.WriteString(conn, s+"\r\n") }
	reply("220 mail.example")
	for {
		line, err := r.ReadLine()
		if err != nil {
			return
		}
		said.WriteString(line + "\n")
		verb, _, _ := strings.Cut(line, " ")
		if verb = strings.ToUpper(verb); verb == refuse {
			reply("535 5.7.8 not with " + line + ", which says canarypass")
			continue
		}
		switch verb {
		case "EHLO":
			reply("250-mail.example\r\n250 AUTH PLAIN")
		case "AUTH":
			reply("235 good")
		case "DATA":
			reply("354 go on")
			data, err := r.ReadDotLines()
			if err != nil {
				return
			}
			said.WriteString(strings.Join(data, "\n") + "\n")
			reply("250 queued")
		case "QUIT":
			reply("221 bye")
			return
		default:
			reply("250 ok")
		}
	}
}

func mailURL(address string) string {
	return "smtp://canaryuser:canarypass@" + address + "/?fromaddress=hub@example.com&toaddresses=owner@example.com,canary@example.com&auth=plain&encryption=none&usestarttls=no"
}

func TestMail(t *testing.T) {
	address, said := mailServer(t, "")
	to := targets(t, mailURL(address))[0]
	if err := to.Send(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	all := said()
	for _, want := range []string{"AUTH PLAIN", "MAIL FROM:<hub@example.com>", "RCPT TO:<owner@example.com>", "RCPT TO:<canary@example.com>", "Subject: " + message.Title, "of two lines"} {
		if !strings.Contains(all, want) {
			t.Errorf("the mail server was not told %q:\n%s", want, all)
		}
	}
}

// canaries are what the URLs of this test hold that nobody may see, and the forms
// in which the library or a service could repeat it.
func leaks(text string) string {
	text = strings.ToLower(text)
	for _, c := range []string{"canary", strings.ToLower(base64.StdEncoding.EncodeToString([]byte("canaryuser:canarypass"))), "y2fuyxj5"} {
		if strings.Contains(text, c) {
			return c
		}
	}
	return ""
}

func TestNoErrorSaysWhatTheURLIs(t *testing.T) {
	refuses := newService(t, httptest.NewServer)
	refuses.fails(http.StatusForbidden)
	noLogin, _ := mailServer(t, "AUTH")
	noRecipient, _ := mailServer(t, "RCPT")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	tls := newService(t, httptest.NewTLSServer)
	tls.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	for u, want := range map[string]string{
		"generic://" + nobody + "/canary?disabletls=yes&$token=canary":           "refuses the connection",
		refuses.generic() + "&@Authorization=canary":                             "answered 403 Forbidden",
		"generic://" + tls.host() + "/canary":                                    "not trusted",
		"ntfy://canaryuser:canarypass@" + nobody + "/canary?scheme=http":         "refuses the connection",
		"ntfy://canaryuser:canarypass@" + refuses.host() + "/canary?scheme=http": "answered 403",
		"gotify://" + nobody + "/Acanary12345678?disabletls=yes":                 "",
		mailURL(nobody):      "refuses the connection",
		mailURL(noLogin):     "the user, the password",
		mailURL(noRecipient): "recipient",
	} {
		var log bytes.Buffer
		n := notify.New(notify.Config{
			Dir: t.TempDir(), Targets: targets(t, u), Link: func(hub.ProfileName) string { return "there" },
			Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err := n.Observe(t.Context(), []notify.Condition{{Profile: "p-1", Name: "default", Login: 1, Health: hub.HealthLoginRequired}}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), want) || !strings.Contains(log.String(), "not delivered") {
			t.Errorf("the log says %s; want %q", &log, want)
		}
		if c := leaks(log.String()); c != "" {
			t.Errorf("the log has %q: %s", c, &log)
		}
	}
}

func TestURLsAreUnderstoodOrNotRepeated(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "url")
	if err := os.WriteFile(file, []byte("ntfy://canaryuser:canarypass@ntfy.sh/canary\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"URL": "discord://canarytoken@123456789012345678"}
	for value, want := range map[string]string{
		"ntfy://ntfy.sh/canary": "ntfy",
		"file:" + file:          "ntfy",
		"file://" + file:        "ntfy",
		"env:URL":               "discord",
		"slack://xoxb:123456789012-123456789012-canarycanarycanarycanary@C01234567":      "slack",
		"telegram://123456789:AAcanary-canary_canarycanarycanary0@telegram?chats=@owner": "telegram",
		"matrix://canary:canary@127.0.0.1:1/":                                            "matrix",
		"generic+https://example.com/canary":                                             "generic",
		"":                                                                               "",
		"canary":                                                                         "",
		"canary://x":                                                                     "",
		"logger://canary":                                                                "",
		"xoxb-canary-canary":                                                             "",
		"ntfy://canary%zz":                                                               "",
		"slack://canary":                                                                 "",
		"ntfy://a/canary\nntfy://b/canary":                                               "",
		"smtp://canary:canary@canary":                                                    "",
		"env:canary":                                                                     "",
		"file:" + dir + "/nowhere":                                                       "",
		"file:" + empty:                                                                  "",
		"ntfy://" + strings.Repeat("canary", 3000):                                       "",
	} {
		all, err := notify.ParseTargets([]secret.Text{secret.New("ntfy://ntfy.sh/first"), secret.New(value)}, func(name string) string { return env[name] })
		if want == "" {
			if err == nil || len(all) != 1 || !strings.Contains(err.Error(), "entry 2") {
				t.Errorf("%q: %v, %v; want it refused by its position, and the other taken", value, all, err)
			} else if c := leaks(err.Error() + hub.HintOf(err)); c != "" {
				t.Errorf("%q: the error has %q: %v", value, c, err)
			}
			continue
		}
		if err != nil || len(all) != 2 || all[1].Service() != want || all[1].Name() != "2-"+want {
			t.Errorf("%q: %v, %v; want %s", value, all, err, want)
			continue
		}
		if c := leaks(fmt.Sprintf("%v %+v %#v %v", all[1], all[1], all[1], all)); c != "" {
			t.Errorf("a printed target has %q", c)
		}
	}
}

func TestSendingEndsWithItsContext(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(hang) })
	to := targets(t, "generic://"+strings.TrimPrefix(s.URL, "http://")+"/?disabletls=yes")[0]
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := to.Send(ctx, message); !errors.Is(err, context.Canceled) {
		t.Errorf("Send = %v; want the end of its context", err)
	}
	if err := to.Send(t.Context(), message); err == nil || !strings.Contains(err.Error(), "still on its way") {
		t.Errorf("Send while the last one hangs: %v; want it refused", err)
	}
}

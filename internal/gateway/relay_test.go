package gateway_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/usage"
)

const (
	startEvent = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-sonnet-4-5-20250929\",\"usage\":{\"input_tokens\":1000,\"cache_read_input_tokens\":2000,\"output_tokens\":1}}}\n\n"
	pingEvent  = "event: ping\ndata: {\"type\": \"ping\"}\n\n"
	textEvent  = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi \\u00e9 \xf0\x9f\x91\x8b\"}}\n\n"
	endEvents  = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":500}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
)

// streamed answers with events as they come out of a channel, until it is closed.
func streamed(events <-chan string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		w.Header().Set("Request-Id", "req_fake")
		rc := http.NewResponseController(w)
		rc.Flush()
		for {
			select {
			case e, ok := <-events:
				if !ok {
					return
				}
				io.WriteString(w, e)
				rc.Flush()
			case <-r.Context().Done():
				return
			}
		}
	}
}

func TestEachEventGoesOutBeforeTheNextComesIn(t *testing.T) {
	events := make(chan string)
	u := startUpstream(t, streamed(events))
	b := start(t, u)
	res, err := b.client.Do(b.request(t, "POST", "/v1/messages", small)) // the head alone, at once
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" || res.Header.Get("Request-Id") != "req_fake" {
		t.Errorf("head: %v", res.Header)
	}
	for i, e := range []string{startEvent, pingEvent, textEvent, ": a comment\n", "\n", "data", ": x\r\n\r\n", textEvent + textEvent, endEvents} {
		events <- e
		got := make([]byte, len(e))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != e {
			t.Fatalf("piece %d: %q, %v; want %q", i, got, err, e)
		}
	}
	close(events)
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
		t.Errorf("behind the last event: %q, %v", rest, err)
	}
	got := finalUsage(t, b.Endpoint)
	want := usage.Tokens{Input: 1000, CacheRead: 2000, Output: 500}
	if got.Requests != 1 || got.InputTokens != 1000 || got.OutputTokens != 500 || got.CacheReadTokens != 2000 || fmt.Sprint(got.Models) != "[claude-sonnet-4-5-20250929]" || got.Cost != usage.Cost("claude-sonnet-4-5", want) {
		t.Errorf("usage: %+v", got)
	}
}

func TestPromptIsCountedWhileTheStreamGoesOn(t *testing.T) {
	events := make(chan string)
	u := startUpstream(t, streamed(events))
	b := start(t, u)
	res, err := b.client.Do(b.request(t, "POST", "/v1/messages", small))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	events <- startEvent
	io.ReadFull(res.Body, make([]byte, len(startEvent)))
	await(t, "the prompt to be counted", func() bool { return b.Usage().InputTokens == 1000 })
	close(events)
}

// await waits for what becomes true a moment after what the test could wait for.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestAnswersPassByteForByte(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		kind   string
		body   string
		length bool
	}{
		"a document":       {200, "application/json", `{"type":"message","usage":{"input_tokens":1,"output_tokens":2}}`, true},
		"a long one":       {200, "application/json", `{"content":"` + strings.Repeat("0123456789\u00e9", 100_000) + `","usage":{"input_tokens":1,"output_tokens":2}}`, true},
		"without a length": {200, "application/json", `{"content":"` + strings.Repeat("x", 100_000) + `","usage":{"input_tokens":1,"output_tokens":2}}`, false},
		"a long stream":    {200, "text/event-stream", startEvent + strings.Repeat(textEvent+pingEvent, 2000) + endEvents, false},
		"one long event":   {200, "text/event-stream", startEvent + "event: x\ndata: " + strings.Repeat("y", 300_000) + "\n\n" + endEvents, false},
		"nothing":          {200, "application/json", "", true},
		"an error":         {529, "application/json", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, true},
		"a page":           {502, "text/html", "<html>bad gateway</html>", false},
		"a strange status": {599, "text/plain", "?", true},
	} {
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				h := w.Header()
				h.Set("Content-Type", c.kind)
				h.Set("Anthropic-Organization-Id", "org")
				h.Add("X-Twice", "1")
				h.Add("X-Twice", "2")
				h.Set("Set-Cookie", "a=b")
				h.Set("Connection", "X-Named")
				h.Set("X-Named", "1")
				if c.length {
					h.Set("Content-Length", fmt.Sprint(len(c.body)))
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			b := start(t, u)
			res, text := b.post(t, small)
			if res.StatusCode != c.status || text != c.body {
				t.Errorf("%d with %d bytes; want %d with %d", res.StatusCode, len(text), c.status, len(c.body))
			}
			h := res.Header
			if h.Get("Content-Type") != c.kind || h.Get("Anthropic-Organization-Id") != "org" || fmt.Sprint(h["X-Twice"]) != "[1 2]" || h.Get("Set-Cookie") != "" || h.Get("X-Named") != "" {
				t.Errorf("head: %v", h)
			}
			if c.length && res.ContentLength != int64(len(c.body)) {
				t.Errorf("Content-Length %d", res.ContentLength)
			}
		})
	}
}

func TestAnswerThatBreaksOffBreaksOffForTheClient(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/json"} {
		u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			io.WriteString(w, startEvent+strings.Repeat(textEvent, 8))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		b := start(t, u)
		res, err := b.client.Do(b.request(t, "POST", "/v1/messages", small))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if !errors.Is(err, io.ErrUnexpectedEOF) || string(text) != startEvent+strings.Repeat(textEvent, 8) {
			t.Errorf("%s: %d bytes, %v; want what had come, and that it broke off", kind, len(text), err)
		}
		await(t, "the cut answer to be charged", func() bool { return b.Usage().OutputTokens >= 8 })
	}
}

func TestRedirectsAreNotFollowedNorPassedOn(t *testing.T) {
	elsewhere := startUpstream(t, nil)
	for _, status := range []int{301, 302, 307, 308} {
		u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", elsewhere.URL+"/v1/messages")
			w.WriteHeader(status)
		})
		b := start(t, u)
		res, text := b.post(t, small)
		if errorOf(t, res, text); res.StatusCode != 502 || res.Header.Get("Location") != "" {
			t.Errorf("%d became %d, Location %q", status, res.StatusCode, res.Header.Get("Location"))
		}
	}
	if elsewhere.count() != 0 {
		t.Error("the redirect was followed")
	}
}

func TestClientThatLeavesCancelsTheUpstream(t *testing.T) {
	for _, early := range []bool{true, false} {
		left := make(chan struct{})
		begun := make(chan struct{})
		u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
			if !early {
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, startEvent)
				http.NewResponseController(w).Flush()
			}
			close(begun)
			<-r.Context().Done()
			close(left)
		})
		b := start(t, u)
		r := b.request(t, "POST", "/v1/messages", small)
		ctx, cancel := cancellable(r)
		go func() {
			<-begun
			cancel()
		}()
		if res, err := b.client.Do(r.WithContext(ctx)); err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		<-left
		await(t, "what was sent to be charged", func() bool { return b.Usage().InputTokens > 0 })
	}
}

func TestSlowReaderIsBoundedInMemory(t *testing.T) {
	var mu sync.Mutex
	sent := 0
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		for r.Context().Err() == nil {
			n, err := io.WriteString(w, textEvent)
			if err != nil {
				return
			}
			if err := rc.Flush(); err != nil {
				return
			}
			mu.Lock()
			sent += n
			mu.Unlock()
		}
	})
	b := start(t, u)
	res, err := b.client.Do(b.request(t, "POST", "/v1/messages", small))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	// What has been sent must come to a stop by itself: the kernel's buffers are
	// full, and ours are small.
	last, still := -1, 0
	await(t, "the sender to be held up", func() bool {
		mu.Lock()
		defer mu.Unlock()
		if still++; sent != last {
			last, still = sent, 0
		}
		return still > 300
	})
	if last > 64<<20 {
		t.Errorf("%d bytes were taken from the upstream for a client that reads nothing", last)
	}
}

func TestWindowsAreReported(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Anthropic-Ratelimit-Unified-Status", "allowed")
		w.Header().Set("Anthropic-Ratelimit-Unified-5h-Utilization", "0.5")
		io.WriteString(w, "{}")
	})
	told := make(chan usage.Windows, 1)
	b := start(t, u, func(c *gateway.Config, _ *gateway.Request) {
		c.OnWindows = func(p hub.ProfileID, w usage.Windows) {
			if p != "p-test" {
				t.Errorf("windows of %s", p)
			}
			told <- w
		}
	})
	res, _ := b.post(t, small)
	if w := <-told; w.FiveHour.Utilization != 0.5 || res.Header.Get("Anthropic-Ratelimit-Unified-Status") != "allowed" {
		t.Errorf("%+v, header %v", w, res.Header)
	}
}

// Streams of which the upstream sends the first bytes before it has read the
// request are what net/http's proxy cuts.
func TestNoStreamIsCutWhenTheUpstreamAnswersEarly(t *testing.T) {
	want := startEvent + strings.Repeat(textEvent, 3) + endEvents
	u := &upstream{Server: newServer(t, func(w http.ResponseWriter, r *http.Request) { // does not read the body
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		for e := range strings.SplitAfterSeq(want, "\n\n") {
			io.WriteString(w, e)
			rc.Flush()
		}
	})}
	b := start(t, u)
	body := `{"model":"m","x":"` + strings.Repeat("y", 100<<10) + `"}`
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 25 {
				res, err := b.client.Do(b.request(t, "POST", "/v1/messages", body))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(got) != want {
					t.Errorf("%d bytes, %v", len(got), err)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestManyStreamsAtOnceStayApart(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		for i := range 50 {
			fmt.Fprintf(w, "data: %s %d\n\n", r.Header.Get("X-Stream"), i)
			rc.Flush()
		}
	})
	b := start(t, u, func(c *gateway.Config, _ *gateway.Request) { c.MaxConns = 128 })
	var all sync.WaitGroup
	for n := range 100 {
		all.Go(func() {
			r := b.request(t, "POST", "/v1/messages", small)
			r.Header.Set("X-Stream", fmt.Sprint(n))
			res, err := b.client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			lines := bufio.NewScanner(res.Body)
			for i := 0; lines.Scan(); {
				if lines.Text() == "" {
					continue
				}
				if want := fmt.Sprintf("data: %d %d", n, i); lines.Text() != want {
					t.Errorf("%q; want %q", lines.Text(), want)
				}
				i++
			}
		})
	}
	all.Wait()
}

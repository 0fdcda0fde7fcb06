package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/usage"
)

// child is one of the parts in a process of its own, until SIGTERM.
func child(part string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch part {
	case "upstream":
		return serve(ctx, http.HandlerFunc(answer))
	case "stock":
		up := &url.URL{Scheme: "http", Host: os.Getenv("UPSTREAM")}
		return serve(ctx, &httputil.ReverseProxy{
			FlushInterval: -1,
			ErrorLog:      log.New(io.Discard, "", 0), // the streams that it cuts are counted by their readers
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(up)
				r.Out.Header.Set("Authorization", "Bearer "+benchToken)
			},
			Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		})
	case "gateway":
		return serveGateway(ctx)
	}
	return errors.New("no such part: " + part)
}

func serve(ctx context.Context, h http.Handler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h}
	context.AfterFunc(ctx, func() { srv.Close() })
	say(ready{Addr: l.Addr().String()})
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func say(r ready) { json.NewEncoder(os.Stdout).Encode(r) }

type staticToken struct{}

func (staticToken) AccessToken(context.Context, hub.ProfileID, hub.Generation) (secret.Text, hub.Generation, error) {
	return secret.New(benchToken), 1, nil
}

func serveGateway(ctx context.Context) error {
	g, err := gateway.New(gateway.Config{
		Upstream: &url.URL{Scheme: "http", Host: os.Getenv("UPSTREAM")}, Tokens: staticToken{},
		OnWindows: func(hub.ProfileID, usage.Windows) {}, MaxConns: 4096,
	})
	if err != nil {
		return err
	}
	defer g.Close()
	e, err := g.Open(ctx, gateway.Request{Run: "r-bench", Profile: "p-bench", Limits: hub.Limits{
		Lifetime: time.Hour, Requests: 1 << 40, Tokens: 1 << 50, Cost: 1 << 50, Models: []string{"claude-*"},
	}})
	if err != nil {
		return err
	}
	say(ready{Addr: strings.TrimPrefix(e.URL(), "http://"), Token: e.Token().Reveal()})
	<-ctx.Done()
	return nil
}

// answer is the upstream: what it does stands in the header X-Bench, such as
// "json", "sse 20 50ms" (so many events, so far apart) or "early 5".
func answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+benchToken {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	words := strings.Fields(r.Header.Get("X-Bench"))
	if len(words) == 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	h := w.Header()
	h.Set("Anthropic-Ratelimit-Unified-Status", "allowed")
	h.Set("Anthropic-Ratelimit-Unified-5h-Utilization", "0.31")
	h.Set("Anthropic-Ratelimit-Unified-5h-Reset", "1795000000")
	h.Set("Anthropic-Ratelimit-Unified-5h-Status", "allowed")
	if words[0] != "early" {
		io.Copy(io.Discard, r.Body)
	}
	if words[0] == "json" {
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(document)))
		io.WriteString(w, document)
		return
	}
	n, gap := 5, time.Duration(0)
	if len(words) > 1 {
		n, _ = strconv.Atoi(words[1])
	}
	if len(words) > 2 {
		gap, _ = time.ParseDuration(words[2])
	}
	stream(w, r, n, gap)
}

var document = `{"id":"msg_fake","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"` +
	strings.Repeat("lorem ipsum ", 60) + `"}],"stop_reason":"end_turn","usage":{"input_tokens":100,"cache_read_input_tokens":0,"output_tokens":20}}`

const (
	firstEvent = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_fake\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-4-5\",\"content\":[],\"usage\":{\"input_tokens\":100,\"output_tokens\":1}}}\n\n"
	lastEvents = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":20}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
)

// stream sends events that carry the time when they were sent.
func stream(w http.ResponseWriter, r *http.Request, n int, gap time.Duration) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	io.WriteString(w, firstEvent)
	rc.Flush()
	for range n {
		if gap > 0 {
			select {
			case <-time.After(gap):
			case <-r.Context().Done():
				return
			}
		}
		fmt.Fprintf(w, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"%d\"}}\n\n", time.Now().UnixNano())
		rc.Flush()
	}
	io.WriteString(w, lastEvents)
}

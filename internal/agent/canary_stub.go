package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
)

// stub is the least that the CLI takes for the platform, and the proxy of
// everything else, which it refuses and remembers.
type stub struct {
	url    string
	file   string // what the model asks to be written
	server *http.Server
	done   chan struct{}

	mu       sync.Mutex // guards what follows
	turns    int
	wrong    []string
	answered bool // the tool's result came back
}

func startStub(file string) (*stub, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &stub{url: "http://" + listener.Addr().String(), file: file, done: make(chan struct{})}
	s.server = &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		defer close(s.done)
		_ = s.server.Serve(listener) // ends with close
	}()
	return s, nil
}

// close ends the stub; it may be called twice.
func (s *stub) close() {
	s.server.Close()
	<-s.done
}

// differences returns what the CLI did otherwise.
func (s *stub) differences() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, w := range s.wrong {
		errs = append(errs, errors.New(w))
	}
	switch {
	case s.turns == 0:
		errs = append(errs, errors.New("it sent no inference request to ANTHROPIC_BASE_URL"))
	case !s.answered:
		errs = append(errs, errors.New("it did not use the tool that was asked for"))
	}
	return errors.Join(errs...)
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 32<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method == http.MethodConnect || r.URL.IsAbs():
		s.note("it wants to talk to %s", clip(r.Host, 100))
		w.WriteHeader(http.StatusForbidden)
	case r.Method == http.MethodPost && r.URL.Path == "/v1/messages":
		s.checkRequest(r)
		s.answer(w, body)
	case r.Method == http.MethodPost && r.URL.Path == "/v1/messages/count_tokens":
		s.checkRequest(r)
		io.WriteString(w, `{"input_tokens":1}`)
	case r.Method == http.MethodHead && r.URL.Path == "/api/hello":
	default:
		s.note("it asks ANTHROPIC_BASE_URL for %s %s", r.Method, clip(r.URL.Path, 100))
		w.WriteHeader(http.StatusNotFound)
	}
}

// note adds a difference, each once and not too many.
func (s *stub) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, w := range s.wrong {
		if w == text {
			return
		}
	}
	if len(s.wrong) < 20 {
		s.wrong = append(s.wrong, text)
	}
}

func (s *stub) checkRequest(r *http.Request) {
	if got := r.Header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer "+canaryToken {
		s.note("it does not send the placeholder as its bearer token")
	}
	if !strings.Contains(strings.Join(r.Header.Values("Anthropic-Beta"), ","), oauthBeta) {
		s.note("it does not send the beta header %s, so it left the subscription mode", oauthBeta)
	}
	if r.Header.Get("X-Api-Key") != "" {
		s.note("it sends an API key")
	}
}

// answer plays a model that writes one file and then says its words. Requests
// without tools (the CLI may ask for a title) get the words only.
func (s *stub) answer(w http.ResponseWriter, body []byte) {
	var req struct {
		Model string `json:"model"`
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
		Messages []struct {
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
	}
	if decode(body, &req) != nil {
		s.note("it sends a body that is not JSON")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.turns++
	asked, done := false, false
	for _, t := range req.Tools {
		asked = asked || t.Name == "Write"
	}
	for _, m := range req.Messages {
		blocks, _ := parseContent(m.Content)
		for _, b := range blocks {
			done = done || b.Kind == BlockToolResult && b.ID == "toolu_fake"
		}
	}
	s.answered = s.answered || done
	var block, delta any = map[string]any{"type": "text", "text": ""}, map[string]any{"type": "text_delta", "text": canaryWords}
	reason := "end_turn"
	if asked && !done && s.turns < 10 {
		input := string(mustMarshal(map[string]string{"file_path": s.file, "content": canaryWords}))
		block = map[string]any{"type": "tool_use", "id": "toolu_fake", "name": "Write", "input": map[string]any{}}
		delta = map[string]any{"type": "input_json_delta", "partial_json": input}
		reason = "tool_use"
	}
	s.stream(w, req.Model, block, delta, reason)
}

// stream sends one message of one block. The CLI merges messages of the same id.
func (s *stub) stream(w http.ResponseWriter, model string, block, delta any, reason string) {
	w.Header().Set("Content-Type", "text/event-stream")
	usage := map[string]int{"input_tokens": 1, "output_tokens": 1}
	for _, e := range []map[string]any{
		{"type": "message_start", "message": map[string]any{
			"id": fmt.Sprintf("msg_fake_%d", s.turns), "type": "message", "role": "assistant", "model": model,
			"content": []any{}, "stop_reason": nil, "stop_sequence": nil, "usage": usage,
		}},
		{"type": "content_block_start", "index": 0, "content_block": block},
		{"type": "content_block_delta", "index": 0, "delta": delta},
		{"type": "content_block_stop", "index": 0},
		{"type": "message_delta", "delta": map[string]any{"stop_reason": reason, "stop_sequence": nil}, "usage": usage},
		{"type": "message_stop"},
	} {
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", e["type"], mustMarshal(e))
	}
}

package bubblewrap_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
)

const placeholder = "sk-ant-oat01-fake-placeholder-fake-placeholder-fake-placeholder-fake-placeholder-fakeAA"

// claude runs the real CLI in a sandbox with all limits, its way out leading to
// handler.
func claude(t *testing.T, handler http.Handler, args ...string) (sandbox.Exit, string) {
	t.Helper()
	binary, err := filepath.EvalSymlinks(hubtest.Claude(t))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "gateway.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	var out bytes.Buffer
	s, err := newDriver(t, bubblewrap.Config{}).Start(context.Background(), sandbox.Spec{
		Args: append([]string{"/opt/claude"}, args...),
		Env: []string{
			"PATH=" + sandbox.Path, "HOME=" + sandbox.Home, "LANG=C.UTF-8", "CLAUDE_CODE_OAUTH_TOKEN=" + placeholder,
			"ANTHROPIC_BASE_URL=http://127.0.0.1:4017", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
		},
		Dir:     "/work",
		Home:    t.TempDir(),
		Mounts:  []sandbox.Mount{{Source: binary, Target: "/opt/claude"}, {Source: t.TempDir(), Target: "/work", Writable: true}},
		Sockets: []sandbox.Socket{{Host: socket, Port: 4017}},
		Limits: sandbox.Limits{
			Memory: 4 << 30, Processes: 512, Time: 2 * time.Minute, Output: 16 << 20, FileSize: 1 << 30, MinFree: 1 << 20, Temp: 1 << 30,
		},
		Stdout: &out, Stderr: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := s.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return exit, out.String()
}

func TestClaudeTellsItsVersion(t *testing.T) {
	exit, out := claude(t, http.NotFoundHandler(), "--version")
	if exit != (sandbox.Exit{}) || !strings.Contains(out, "Claude Code") {
		t.Errorf("ended with %+v and said %q", exit, out)
	}
}

// TestClaudeRuns has the unmodified CLI make a request through the shim to a
// server on the host's unix socket.
func TestClaudeRuns(t *testing.T) {
	var asked atomic.Int32
	exit, out := claude(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/v1/messages" {
			w.WriteHeader(http.StatusOK)
			return
		}
		if got := r.Header.Get("Authorization"); got != "Bearer "+placeholder {
			t.Errorf("Authorization is %q", got)
		}
		asked.Add(1)
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range []string{
			`{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":1}}}`,
			`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"words through the socket"}}`,
			`{"type":"content_block_stop","index":0}`,
			`{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":5}}`,
			`{"type":"message_stop"}`,
		} {
			var kind struct{ Type string }
			json.Unmarshal([]byte(event), &kind)
			fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind.Type, event)
			w.(http.Flusher).Flush()
		}
	}), "-p", "say something", "--output-format", "json")
	if exit != (sandbox.Exit{}) || !strings.Contains(out, "words through the socket") || asked.Load() == 0 {
		t.Errorf("ended with %+v after %d requests and said %q", exit, asked.Load(), out)
	}
}

package docker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
)

func answer(w http.ResponseWriter, code int, message string) bool {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"message":%q}`, message)
	return true
}

// TestTroubleSaysWhatToDo has an engine fail as engines do.
func TestTroubleSaysWhatToDo(t *testing.T) {
	at := func(path string, code int, message string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, path) && answer(w, code, message)
		}
	}
	for name, c := range map[string]struct {
		change     func(http.ResponseWriter, *http.Request) bool
		said, hint string
	}{
		"too old": {func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/_ping") {
				w.Header().Set("Api-Version", "1.38")
				return true
			}
			return false
		}, "1.38", "Docker 19.03"},
		"no space for a container": {at("/containers/create", 500, "mkdir /var/lib/docker/overlay2/x: no space left on device"), "no space", "docker system prune"},
		"no space at the start":    {at("/start", 500, "OCI runtime create failed: write: no space left on device"), "no space", "docker system prune"},
		"another processor":        {at("/start", 400, "OCI runtime create failed: exec /etc/claude-hub/shim: exec format error"), "exec format", "image build"},
		"an image for another": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/images/") {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"Id":"sha256:1","Os":"linux","Architecture":"mips64le"}`)
			return true
		}, "mips64le", "image build"},
		"an image that goes": {at("/containers/create", 404, "No such image: x:latest"), "No such image", "image build"},
		"says nothing":       {at("/containers/create", 500, ""), "500", ""},
		"is no engine": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusTeapot)
			return true
		}, "418", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBetween(t, docker.KindDocker)
			b.set(c.change)
			var dir string
			d := newDriver(t, docker.KindDocker, via(b), func(cfg *docker.Config) { dir = cfg.Dir })
			err := d.Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.said) || !strings.Contains(hub.HintOf(err), c.hint) {
				t.Errorf("Check: %v, hint %q; want %q and %q", err, hub.HintOf(err), c.said, c.hint)
			}
			b.set(nil)
			nothingLeft(t, d, dir)
		})
	}
}

// nothingLeft fails if a place, a mount or a container of the driver's is left.
func nothingLeft(t *testing.T, d *docker.Driver, dir string) {
	t.Helper()
	if places, _ := filepath.Glob(filepath.Join(dir, "*", "c-*")); len(places) > 0 {
		t.Errorf("places are left: %v", places)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("mounts are left below %s", dir)
	}
	if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("a sweep found %d containers, %v; want none", n, err)
	}
}

func TestNoEngine(t *testing.T) {
	for _, kind := range []string{docker.KindDocker, docker.KindPodman} {
		d := newDriver(t, kind, func(c *docker.Config) { c.Host = "unix://" + filepath.Join(t.TempDir(), "none.sock") })
		if err := d.Check(t.Context()); err == nil || !strings.Contains(hub.HintOf(err), "systemctl") {
			t.Errorf("%s: Check: %v, hint %q", kind, err, hub.HintOf(err))
		}
		d = newDriver(t, kind, func(c *docker.Config) { c.Image = "claude-hub-none:1" })
		err := d.Ready(t.Context())
		if !errors.Is(err, hub.ErrNotFound) || !strings.Contains(hub.HintOf(err), "claude-hub image build") {
			t.Errorf("%s: Ready without the image: %v, hint %q", kind, err, hub.HintOf(err))
		}
	}
}

// TestShimThatCannotRun: a program for another processor, or one that ends.
func TestShimThatCannotRun(t *testing.T) {
	dir := t.TempDir()
	odd, ends := filepath.Join(dir, "odd"), filepath.Join(dir, "ends")
	hubtest.Script(t, odd, "\x7fELF\x02\x01\x01 of no processor")
	hubtest.Script(t, ends, "#!/bin/sh\nexit 3\n")
	for shim, hint := range map[string]string{odd: "", ends: "static"} {
		d := newDriver(t, docker.KindDocker, func(c *docker.Config) { c.Shim, dir = shim, c.Dir })
		err := d.Check(t.Context())
		if err == nil || !strings.Contains(hub.HintOf(err), hint) {
			t.Errorf("%s: %v, hint %q", filepath.Base(shim), err, hub.HintOf(err))
		}
		nothingLeft(t, d, dir)
	}
}

// TestEngineElsewhere has an engine that does not see this machine's files.
func TestEngineElsewhere(t *testing.T) {
	b := newBetween(t, docker.KindDocker)
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "nonce"), []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/containers/create") {
			return false
		}
		body, _ := io.ReadAll(r.Body)
		// The last mount is the one with the nonce.
		i := bytes.LastIndex(body, []byte(`"Source":"`)) + len(`"Source":"`)
		j := i + bytes.IndexByte(body[i:], '"')
		body = append(append(bytes.Clone(body[:i]), other...), body[j:]...)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		return false
	})
	if err := os.Chmod(other, 0o755); err != nil {
		t.Fatal(err)
	}
	err := newDriver(t, docker.KindDocker, via(b)).Check(t.Context())
	if err == nil || !strings.Contains(hub.HintOf(err), "this machine") {
		t.Errorf("Check: %v, hint %q", err, hub.HintOf(err))
	}
}

// TestEngineGoesMidRun: the run goes on, since nothing of it goes through the
// engine, and the container is removed when the engine is there again.
func TestEngineGoesMidRun(t *testing.T) {
	b := newBetween(t, docker.KindDocker)
	var dir string
	d := newDriver(t, docker.KindDocker, via(b), func(c *docker.Config) { dir = c.Dir })
	in, feed := io.Pipe()
	out, says := io.Pipe()
	defer in.Close()
	s, err := d.Start(context.Background(), sandbox.Spec{
		Args: []string{"sh", "-c", "echo up; read line; echo got $line; exit 7"}, Env: []string{"PATH=" + sandbox.Path}, Stdin: in, Stdout: says,
	})
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 3)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "up\n" {
		t.Fatalf("the job said %q, %v", line, err)
	}
	b.stop()
	go func() { io.WriteString(feed, "word\n"); feed.Close() }()
	rest := make([]byte, 9)
	if _, err := io.ReadFull(out, rest); err != nil || string(rest) != "got word\n" {
		t.Errorf("after the engine's end the job said %q, %v", rest, err)
	}
	if exit, err := s.Wait(); err != nil || exit != (sandbox.Exit{Code: 7}) {
		t.Errorf("ended with %+v, %v", exit, err)
	}
	if !d.Left() {
		t.Error("nothing is said to be left")
	}
	b.start()
	if n, err := d.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("a sweep removed %d, %v; want 1", n, err)
	}
	nothingLeft(t, d, dir)
}

// TestContextEndsDuringStart ends it at each request to the engine.
func TestContextEndsDuringStart(t *testing.T) {
	for _, at := range []string{"/_ping", "/create", "/start"} {
		b := newBetween(t, docker.KindDocker)
		ctx, cancel := context.WithCancel(t.Context())
		b.set(func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, at) {
				cancel()
				runtime.Gosched()
			}
			return false
		})
		var dir string
		d := newDriver(t, docker.KindDocker, via(b), func(c *docker.Config) { dir = c.Dir })
		s, err := d.Start(ctx, sandbox.Spec{Args: []string{"/bin/sleep", "300"}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("at %s: Start: %v", at, err)
		}
		if err == nil {
			s.Kill()
			s.Wait()
		}
		b.set(nil)
		nothingLeft(t, d, dir)
	}
}

// TestBounds: the engine says whether it can bound memory and processes.
func TestBounds(t *testing.T) {
	for info, want := range map[string]bool{
		`{"MemoryLimit":true,"PidsLimit":true}`:  true,
		`{"MemoryLimit":true,"PidsLimit":false}`: false,
		`{"MemoryLimit":false,"PidsLimit":true}`: false,
	} {
		b := newBetween(t, docker.KindDocker)
		b.set(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/info") {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, info)
			return true
		})
		d := newDriver(t, docker.KindDocker, via(b))
		if d.Bounds() {
			t.Errorf("%s: bounds before the engine was asked", info)
		}
		if err := d.Ready(t.Context()); err != nil || d.Bounds() != want {
			t.Errorf("%s: Ready: %v, Bounds: %v; want %v", info, err, d.Bounds(), want)
		}
	}
}

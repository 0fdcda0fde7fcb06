package run_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
)

// fakePlatform is a login that rotates when it is told to.
type fakePlatform struct {
	snapshot []byte // nil: nothing was captured

	mu         sync.Mutex
	generation hub.Generation
	dead       bool
	rotated    chan struct{} // closed and replaced at each rotation
	open       int
}

func newPlatform() *fakePlatform { return &fakePlatform{generation: 1, rotated: make(chan struct{})} }

func (p *fakePlatform) rotate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	close(p.rotated)
	p.rotated = make(chan struct{})
}

func (p *fakePlatform) Credential(context.Context, hub.ProfileID) ([]byte, hub.Generation, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return nil, 0, hub.ErrLoginRequired
	}
	name := map[hub.Generation]string{1: "first", 2: "second"}[p.generation]
	// The refresh token should not be here; the runner takes it out all the same.
	return fmt.Appendf(nil, `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-fake-%s","refreshToken":"sk-ant-ort01-fake-refresh",
		"expiresAt":1900000000000,"scopes":["user:inference"],"subscriptionType":"max","mystery":"fake-mystery"}}`, name), p.generation, nil
}

func (p *fakePlatform) Changed(ctx context.Context, _ hub.ProfileID, after hub.Generation) error {
	p.mu.Lock()
	rotated, newer := p.rotated, p.generation > after
	p.mu.Unlock()
	if newer {
		return nil
	}
	select {
	case <-rotated:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *fakePlatform) Snapshot(context.Context, hub.ProfileID) (io.ReadCloser, error) {
	if p.snapshot == nil {
		return nil, hub.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(p.snapshot)), nil
}

func (p *fakePlatform) Egress(_ context.Context, socket string) (io.Closer, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open++
	return &egress{l, p}, nil
}

type egress struct {
	net.Listener
	p *fakePlatform
}

func (e *egress) Close() error {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	e.p.open--
	return e.Listener.Close()
}

func capture(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "projects", "x"), 0o700)
	os.WriteFile(filepath.Join(dir, "settings.json"), []byte(`{"captured":true}`), 0o400)
	os.WriteFile(filepath.Join(dir, "projects", "x", "old.jsonl"), []byte("{}"), 0o600)
	os.WriteFile(filepath.Join(dir, ".credentials.json"), []byte("an old one, "+fakeToken), 0o600)
	var b bytes.Buffer
	if _, err := archive.Pack(&b, dir, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func copyFixture(t *testing.T, p *fakePlatform) (*fixture, run.Request) {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(ca, []byte("fake"), 0o600)
	f := newFixture(t, func(c *run.Config) {
		c.Platform = p
		c.Environ = []string{"HTTPS_PROXY=http://company:1", "NODE_EXTRA_CA_CERTS=" + ca, "SSL_CERT_FILE=/nonexistent/ca.pem", "SSL_CERT_DIR=/host/certs"}
	})
	req := f.request("show")
	req.Delivery = hub.DeliveryCopy
	return f, req
}

func TestCopyDeliversTheCapturedStateAndTheAccessTokenAlone(t *testing.T) {
	p := newPlatform()
	p.snapshot = capture(t)
	f, req := copyFixture(t, p)
	s := f.show(t, req)
	if !strings.Contains(s.Credentials, "fake-first") || strings.Contains(s.Credentials, "refresh") || strings.Contains(s.Credentials, "mystery") || strings.Contains(s.Credentials, "canary") {
		t.Errorf("the login inside is %s", s.Credentials)
	}
	if s.Settings != `{"captured":true}` {
		t.Errorf("the working copy's settings are %q", s.Settings)
	}
	env := strings.Join(s.Env, "\n") + "\n"
	if strings.Contains(env, "company") || strings.Contains(env, "ANTHROPIC_BASE_URL") || strings.Contains(env, "/host/") || strings.Contains(env, "SSL_CERT_FILE") ||
		!strings.Contains(env, "HTTPS_PROXY=http://127.0.0.1:") || !strings.Contains(env, "NODE_EXTRA_CA_CERTS=/opt/claude-hub/ca/") {
		t.Errorf("the environment is\n%s", env)
	}
	var readOnly []string
	for _, m := range f.driver.boxes[0].spec.Mounts {
		if !m.Writable {
			readOnly = append(readOnly, m.Target)
		}
	}
	want := []string{"/opt/claude-hub/agent/claude", "/opt/claude-hub/captured", "/opt/claude-hub/ca/NODE_EXTRA_CA_CERTS.pem"}
	if diff := cmp.Diff(want, readOnly); diff != "" {
		t.Errorf("read-only mounts (-want +got):\n%s", diff)
	}
	if p.open != 0 {
		t.Error("the egress is left open")
	}
}

func TestCopyFollowsARotation(t *testing.T) {
	p := newPlatform()
	f, req := copyFixture(t, p)
	req.Prompt = "rotate"
	r, err := f.Run(t.Context(), req, func(line []byte) {
		if bytes.Contains(line, []byte(`"init"`)) {
			p.rotate()
		}
	})
	if err != nil || r.Verdict != hub.VerdictDone {
		t.Fatalf("%s (%q), %v", r.Verdict, r.Reason, err)
	}
	f.checkAfter(t, r)
}

func TestCopyReportsWhatTheCLIUsed(t *testing.T) {
	f, req := copyFixture(t, newPlatform())
	req.Prompt = "succeed"
	r, _ := f.run(t, req)
	want := hub.Usage{InputTokens: 7, OutputTokens: 3, Cost: 250_000, Models: []string{"m"}}
	if diff := cmp.Diff(want, r.Usage); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func TestCopyWithADeadLogin(t *testing.T) {
	p := newPlatform()
	f, req := copyFixture(t, p)
	req.Prompt = "dead"
	if r, _ := f.run(t, req); r.Verdict != hub.VerdictFailed {
		t.Errorf("a 401 with a living login: %s (%q); want failed", r.Verdict, r.Reason)
	}
	p.dead = true
	if r, _ := f.run(t, req); r.Verdict != hub.VerdictLoginRequired {
		t.Errorf("a dead login: %s (%q); want login-required", r.Verdict, r.Reason)
	}
}

func TestCopyCannotKeepLimits(t *testing.T) {
	f, req := copyFixture(t, newPlatform())
	req.Limits.Requests = 3
	if _, err := f.Run(t.Context(), req, nil); err == nil || hub.HintOf(err) == "" {
		t.Errorf("limits with a copy: %v; want a refusal with a hint", err)
	}
}

func TestADamagedSnapshotIsAVerdict(t *testing.T) {
	p := newPlatform()
	p.snapshot = []byte("garbage")
	f, req := copyFixture(t, p)
	if r, _ := f.run(t, req); r.Verdict != hub.VerdictFailed || !strings.Contains(r.Reason, "unpacking the captured state") {
		t.Errorf("%s (%q)", r.Verdict, r.Reason)
	}
}

package login_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/secret"
)

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func TestTerminalUIReadsLinesOfAPipe(t *testing.T) {
	r, w := pipe(t)
	var out bytes.Buffer
	ui := &login.TerminalUI{In: r, Out: &out}
	ui.ShowURL(link)
	if !strings.Contains(out.String(), "\n"+link+"\n") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("what a pipe gets is %q; want the plain link", out.String())
	}
	if _, err := w.WriteString("one\r\ntwo\nthree"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	for _, want := range []string{"one", "two", "three"} {
		if got, err := ui.Code(t.Context()); err != nil || got.Reveal() != want {
			t.Errorf("Code = %q, %v; want %q", got.Reveal(), err, want)
		}
	}
	if _, err := ui.Code(t.Context()); !errors.Is(err, hub.ErrCancelled) || !strings.Contains(hub.HintOf(err), "--code-file") {
		t.Errorf("error = %v with hint %q at the end of the input", err, hub.HintOf(err))
	}
	if !strings.HasSuffix(out.String(), "press Enter: \n") {
		t.Errorf("what comes next lands on the prompt's line: %q", out.String())
	}
}

// A read that is given up does not swallow what comes later.
func TestTerminalUIGivesUpWithItsContext(t *testing.T) {
	r, w := pipe(t)
	ui := &login.TerminalUI{In: r, Out: io.Discard}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := ui.Code(ctx)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v; want the context's", err)
	}
	w.WriteString("late\n")
	if got, err := ui.Code(t.Context()); err != nil || got.Reveal() != "late" {
		t.Errorf("Code = %q, %v; want the line that came later", got.Reveal(), err)
	}
}

func TestTerminalUIBoundsALine(t *testing.T) {
	r, w := pipe(t)
	var writer sync.WaitGroup
	writer.Go(func() {
		w.Write(bytes.Repeat([]byte("x"), 1<<20))
		w.Close()
	})
	ui := &login.TerminalUI{In: r, Out: io.Discard}
	if _, err := ui.Code(t.Context()); !errors.Is(err, hub.ErrTooLarge) {
		t.Errorf("error = %v; want ErrTooLarge", err)
	}
	r.Close()
	writer.Wait()
}

// syncBuffer is a bytes.Buffer for two goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestFileUIWaitsForTheFileAndForAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "code")
	var out syncBuffer
	ui := &login.FileUI{Path: path, Out: &out}
	ui.ShowURL(link)
	if !strings.Contains(out.String(), link) || !strings.Contains(out.String(), path) {
		t.Errorf("shown: %q", out.String())
	}
	got := make(chan string)
	ask := func() {
		code, err := ui.Code(t.Context())
		if err != nil {
			t.Error(err)
		}
		got <- code.Reveal()
	}
	go ask()
	write(t, path, "", 0o600) // made before it is filled
	write(t, path, fakeCode+"\n", 0o600)
	if s := <-got; s != fakeCode {
		t.Errorf("Code = %q", s)
	}
	if strings.Contains(out.String(), "0600") {
		t.Errorf("a private file is warned of: %q", out.String())
	}
	ui.Trouble("that code was not accepted")
	go ask()
	write(t, path, "another#fakestate\n", 0o644)
	if s := <-got; s != "another#fakestate" {
		t.Errorf("Code = %q; want the new content", s)
	}
	if !strings.Contains(out.String(), "that code was not accepted") || !strings.Contains(out.String(), "mode 0600") {
		t.Errorf("said: %q", out.String())
	}
}

func TestFileUIRefuses(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	write(t, big, strings.Repeat("x", 1<<20), 0o600)
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]error{big: hub.ErrTooLarge, fifo: hub.ErrInvalid, dir: hub.ErrInvalid} {
		ui := &login.FileUI{Path: path, Out: io.Discard}
		if _, err := ui.Code(t.Context()); !errors.Is(err, kind) {
			t.Errorf("%s: error = %v; want %v", path, err, kind)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ui := &login.FileUI{Path: filepath.Join(dir, "none"), Out: io.Discard}
	if _, err := ui.Code(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v; want the context's", err)
	}
}

func TestSignInWithACodeFile(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, `link; ask; [ "$CODE" = '`+fakeCode+`' ] && save`) })
	path := filepath.Join(t.TempDir(), "code")
	write(t, path, "stale#otherstate\n", 0o600) // of an earlier sign-in
	var out syncBuffer
	done := make(chan error)
	go func() {
		_, err := d.SignIn(t.Context(), d.profile, &login.FileUI{Path: path, Out: &out})
		done <- err
	}()
	eventually(t, "the refusal of the stale code", func() bool { return strings.Contains(out.String(), "another sign-in") })
	write(t, path, fakeCode, 0o600)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	d.login()
}

func TestSignInWithAPipe(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, `link; ask; [ "$CODE" = '`+fakeCode+`' ] && save`) })
	r, w := pipe(t)
	w.WriteString(fakeCode + "\n")
	if _, err := d.SignIn(t.Context(), d.profile, &login.TerminalUI{In: r, Out: io.Discard}); err != nil {
		t.Fatal(err)
	}
	d.login()
}

func TestSignInWithNoInputAtAll(t *testing.T) {
	d := newDesk(t, func(cfg *login.Config) { cfg.Agent = script(t, `link; ask; save`) })
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, in := range []*os.File{null, nil} {
		_, err = d.SignIn(t.Context(), d.profile, &login.TerminalUI{In: in, Out: io.Discard})
		if !errors.Is(err, hub.ErrCancelled) || !strings.Contains(hub.HintOf(err), "--code-file") {
			t.Errorf("error = %v with hint %q", err, hub.HintOf(err))
		}
		d.wantNothing()
	}
}

func TestSetupTokenWithoutATerminal(t *testing.T) {
	d := newDesk(t, nil)
	r, w := pipe(t)
	if _, err := d.SetupToken(t.Context(), d.profile, r, w); !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" {
		t.Errorf("error = %v with hint %q", err, hub.HintOf(err))
	}
	w.WriteString(fakeSetup + "\n")
	token, err := (&login.TerminalUI{In: r, Out: io.Discard}).Code(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	result, err := d.AdoptSetupToken(t.Context(), d.profile, token)
	if err != nil || result.Generation != 1 || result.Kind != hub.KindSetupToken || result.LoginExpires.IsZero() {
		t.Fatalf("result = %+v, %v", result, err)
	}
	// As a spare beside a login, and renewed.
	if _, err := d.Import(t.Context(), d.profile, signedIn(t)); err != nil {
		t.Fatal(err)
	}
	if result, err := d.AdoptSetupToken(t.Context(), d.profile, token); err != nil || result.Generation != 2 {
		t.Fatalf("result = %+v, %v", result, err)
	}
	record, err := d.vault.Latest(t.Context(), d.profile.ID, hub.KindSetupToken)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := agent.ParseSetupToken(record.Payload); err != nil || got.Token.Reveal() != fakeSetup {
		t.Errorf("kept %v, %v", got, err)
	}
	d.login()
	if _, err := d.AdoptSetupToken(t.Context(), d.profile, secret.New("sk-ant-api03-fake-0123456789")); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("an API key is taken for a setup token: %v", err)
	}
}

package simulator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// cli is a home of the real CLI.
type cli struct {
	t    *testing.T
	home string
	env  []string
}

func newCLI(t *testing.T, s *simulator.Simulator, extra ...string) *cli {
	home := t.TempDir()
	c := &cli{t: t, home: home}
	c.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "LANG=C.UTF-8",
		"HOME=" + home, "CLAUDE_CONFIG_DIR=" + c.config(),
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
	}, s.Environ()...)
	c.env = append(c.env, extra...)
	if err := os.MkdirAll(c.config(), 0o700); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cli) config() string   { return filepath.Join(c.home, "config") }
func (c *cli) credFile() string { return filepath.Join(c.config(), ".credentials.json") }

func (c *cli) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	c.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, hubtest.Claude(c.t), args...)
	cmd.Env, cmd.Dir = c.env, c.home
	return cmd
}

func (c *cli) run(stdin string, args ...string) ([]byte, error) {
	cmd := c.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if errOut.Len() > 0 {
		c.t.Logf("stderr: %s", errOut.Bytes())
	}
	return out.Bytes(), err
}

func (c *cli) write(cred []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.credFile(), cred, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

type credFile struct {
	OAuth struct {
		AccessToken, RefreshToken string
		ExpiresAt                 int64
		RefreshTokenExpiresAt     int64
		Scopes                    []string
		SubscriptionType          string
		RateLimitTier             string
	} `json:"claudeAiOauth"`
}

func (c *cli) read() credFile {
	c.t.Helper()
	b, err := os.ReadFile(c.credFile())
	if err != nil {
		c.t.Fatal(err)
	}
	var f credFile
	if err := json.Unmarshal(b, &f); err != nil {
		c.t.Fatalf("%v in %s", err, b)
	}
	return f
}

// requests logs what the platform is asked.
type requests struct {
	mu   sync.Mutex
	list []string
}

func (q *requests) observe(e simulator.Endpoint, r *http.Request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, fmt.Sprintf("%s %s %s%s", e, r.Method, r.Host, r.URL.RequestURI()))
}

func start(t *testing.T, cfg simulator.Config) (*simulator.Simulator, *requests) {
	t.Helper()
	q := &requests{}
	if cfg.Observe == nil {
		cfg.Observe = q.observe
	}
	s, err := simulator.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if t.Failed() {
			t.Logf("counters: %+v", s.Counters())
			for _, r := range q.list {
				t.Log(r)
			}
		}
	})
	return s, q
}

func TestCLIRefreshesByAuthLogin(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	old := s.SignIn(simulator.SignIn{})
	c := newCLI(t, s, "CLAUDE_CODE_OAUTH_REFRESH_TOKEN="+old.RefreshToken, "CLAUDE_CODE_OAUTH_SCOPES="+strings.Join(old.Scopes, " "))
	out, err := c.run("", "auth", "login")
	if err != nil {
		t.Fatalf("auth login: %v: %s", err, out)
	}
	got := c.read()
	if got.OAuth.RefreshToken == old.RefreshToken || !s.Live(got.OAuth.AccessToken) || s.Live(old.AccessToken) {
		t.Error("the file does not hold the rotated pair")
	}
	if n := s.Counters(); n.TokenRequests != 1 || n.Rotations != 1 || n.SpentReplays != 0 {
		t.Errorf("counters %+v; want one rotation", n)
	}
}

func TestCLIRunsOnAnExpiredLogin(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := newCLI(t, s)
	c.write(s.SignIn(simulator.SignIn{AccessTTL: -time.Minute}).Credentials)
	out, err := c.run("", "-p", "hi", "--output-format", "json")
	if err != nil || !bytes.Contains(out, []byte("Hello from the simulator.")) {
		t.Fatalf("claude -p: %v: %s", err, out)
	}
	if n := s.Counters(); n.Rotations != 1 || n.Answered == 0 || n.RefusedConnects != 0 {
		t.Errorf("counters %+v; want one rotation, an answer and no other host", n)
	}
}

func TestCLISignsInOnATerminal(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := newCLI(t, s, "CLAUDE_CODE_FULL_SIGN_IN_LINK=1")
	out := c.terminal(s, "Login successful", "auth", "login", "--claudeai")
	got := c.read().OAuth
	if !s.Live(got.AccessToken) || got.RefreshToken == "" || got.SubscriptionType != "max" || got.RateLimitTier == "" {
		t.Errorf("credentials after sign-in: %+v", got)
	}
	if n := s.Counters(); n.CodeExchanges != 1 {
		t.Errorf("counters %+v\n%s", n, out)
	}
}

func TestCLIMakesASetupToken(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := newCLI(t, s, "CLAUDE_CODE_FULL_SIGN_IN_LINK=1")
	out := c.terminal(s, "sk-ant-oat01-fake", "setup-token")
	m := regexp.MustCompile(`sk-ant-oat01-fake-[A-Za-z0-9_-]+`).FindString(out)
	if !s.Live(m) {
		t.Errorf("no live token on the screen: %q", out)
	}
}

var (
	urlPattern  = regexp.MustCompile(`https://(?:claude\.ai|claude\.com|platform\.claude\.com)[^\s\x07\x1b"]*oauth/authorize\?[^\s\x07\x1b"]+`)
	pastePrompt = regexp.MustCompile(`Paste ?code`) // the full-screen one moves the cursor for a space
	escapes     = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)`)
)

// terminal runs the CLI on a PTY, approves the URL that it shows, pastes the code
// and waits for the words and the exit.
func (c *cli) terminal(s *simulator.Simulator, until string, args ...string) string {
	c.t.Helper()
	cmd := c.command(args...)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 1000})
	if err != nil {
		c.t.Fatal(err)
	}
	defer tty.Close()
	chunks := readChunks(tty)
	// The full-screen program takes an Enter that comes soon after a paste for a
	// part of it, so Enter is pressed until the program is done.
	enter := time.NewTicker(300 * time.Millisecond)
	defer enter.Stop()
	var screen string
	for pasted, open := false, true; open; {
		select {
		case chunk, more := <-chunks:
			screen, open = screen+chunk, more
		case <-enter.C:
			if pasted {
				fmt.Fprint(tty, "\r")
			}
			continue
		}
		plain := escapes.ReplaceAllString(screen, "")
		if url := urlPattern.FindString(plain); !pasted && url != "" && pastePrompt.MatchString(plain) {
			pasted = true
			code, err := s.Approve(c.t.Context(), url)
			if err != nil {
				c.t.Errorf("Approve: %v", err)
			}
			fmt.Fprint(tty, code)
		}
	}
	err = cmd.Wait()
	out := escapes.ReplaceAllString(screen, "")
	if err != nil || !strings.Contains(out, until) {
		c.t.Fatalf("claude %v: %v: %q", args, err, out)
	}
	return out
}

// readChunks reads r in a goroutine until it ends.
func readChunks(r io.Reader) <-chan string {
	chunks := make(chan string)
	go func() {
		defer close(chunks)
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				chunks <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	return chunks
}

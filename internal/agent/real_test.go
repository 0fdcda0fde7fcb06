package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// What this package says about the CLI, checked with the CLI.

func platform(t *testing.T) *simulator.Simulator {
	t.Helper()
	s, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// room is a home and a workspace of the real CLI. It runs without a sandbox, so
// prompts only do what is harmless in a temporary directory.
type room struct {
	t          *testing.T
	home, work string
	baseURL    string
}

func newRoom(t *testing.T, s *simulator.Simulator) *room {
	t.Helper()
	r := &room{t: t, home: t.TempDir(), work: t.TempDir(), baseURL: s.Direct().String()}
	login := s.SignIn(simulator.SignIn{})
	like, err := agent.ParseCredentials(login.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	file, err := agent.Placeholder(secret.New(login.AccessToken), like, login.ExpiresAt).Encode()
	if err != nil {
		t.Fatal(err)
	}
	script(t, agent.CredentialPath(r.home), "") // makes the directory
	if err := os.WriteFile(agent.CredentialPath(r.home), file, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// run returns the events of a run, and its exit status.
func (r *room) run(i agent.Invocation) ([]agent.Event, int) {
	r.t.Helper()
	if err := i.Check(); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, hubtest.Claude(r.t), i.Args()...)
	cmd.Env = agent.RunEnviron(os.Environ(), r.home, os.Getenv("PATH"), r.baseURL, map[string]string{"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}) // nothing gets out
	cmd.Dir, cmd.Stdin = r.work, i.Stdin()
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	var events []agent.Event
	lines := agent.NewLines(&out, 0)
	for {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		e, parseErr := agent.ParseEvent(line)
		if err != nil || parseErr != nil {
			r.t.Errorf("an event of the real CLI: %v, %v in %s", err, parseErr, line)
		}
		events = append(events, e)
	}
	if len(events) == 0 || events[len(events)-1].Result == nil {
		r.t.Fatalf("no result; stderr: %s", words.Bytes())
	}
	return events, cmd.ProcessState.ExitCode()
}

func result(events []agent.Event) *agent.Result { return events[len(events)-1].Result }

// toolResults returns what the tools gave back, with "!" before errors.
func toolResults(events []agent.Event) (list []string) {
	for _, e := range events {
		for _, b := range e.Blocks {
			if b.Kind == agent.BlockToolResult && b.Error {
				list = append(list, "!"+b.Text)
			} else if b.Kind == agent.BlockToolResult {
				list = append(list, b.Text)
			}
		}
	}
	return list
}

func TestRealCLIWorksWithoutAsking(t *testing.T) {
	r := newRoom(t, platform(t))
	file := filepath.Join(r.work, "a.txt")
	events, exit := r.run(agent.Invocation{Model: "sonnet", Prompt: fmt.Sprintf("simulate: write %s \"hello\"\nsimulate: bash \"touch b.txt && echo worked\"\nsimulate: say \"all done\"", file)})
	got := result(events)
	if exit != 0 || got.IsError || got.Text != "all done" || got.Turns != 3 || got.Reason != "completed" {
		t.Errorf("exit %d, result %+v", exit, got)
	}
	if got.Cost <= 0 || got.Usage.OutputTokens <= 0 || len(got.Models) != 1 || got.Duration <= 0 {
		t.Errorf("cost %v, usage %+v, models %v", got.Cost, got.Usage, got.Models)
	}
	if b, _ := os.ReadFile(file); string(b) != "hello" {
		t.Errorf("the file holds %q", b)
	}
	if results := toolResults(events); len(results) != 2 || !strings.Contains(results[1], "worked") {
		t.Errorf("tool results = %q", results)
	}
	if init := initOf(events); init.Version != agent.TestedVersion || init.APIKeySource != "none" || !strings.Contains(init.Model, "sonnet") || init.PermissionMode != "bypassPermissions" {
		t.Errorf("init = %+v", init)
	}
	var uses []string
	for _, e := range events {
		for _, b := range e.Blocks {
			if b.Kind == agent.BlockToolUse {
				uses = append(uses, b.Tool)
			}
		}
	}
	if !slices.Equal(uses, []string{"Write", "Bash"}) {
		t.Errorf("tool uses = %q", uses)
	}
}

func TestRealCLIUsesAllowedToolsOnly(t *testing.T) {
	r := newRoom(t, platform(t))
	events, exit := r.run(agent.Invocation{
		Prompt:       "simulate: bash \"touch b.txt\"\nsimulate: bash \"git --version\"\nsimulate: say \"end\"",
		AllowedTools: []string{"Bash(git *)", "Read"},
	})
	got := toolResults(events)
	if exit != 0 || len(got) != 2 || !strings.HasPrefix(got[0], "!") || !strings.Contains(got[1], "git version") {
		t.Errorf("exit %d, tool results %q; want the first denied", exit, got)
	}
	if left, _ := os.ReadDir(r.work); len(left) != 0 {
		t.Errorf("the workspace holds %v", left)
	}
	if tools := initOf(events).Tools; !slices.Equal(tools, []string{"Bash", "Read"}) {
		t.Errorf("the model is offered %q", tools)
	}
	if !slices.ContainsFunc(events, func(e agent.Event) bool { return e.Denied != nil && e.Denied.Tool == "Bash" }) {
		t.Error("no event tells of the denied command")
	}
	if d := result(events).Denials; len(d) != 1 || d[0].Tool != "Bash" || !strings.Contains(string(d[0].Input), "touch b.txt") {
		t.Errorf("denials = %+v", d)
	}
}

func initOf(events []agent.Event) *agent.Init {
	return events[slices.IndexFunc(events, func(e agent.Event) bool { return e.Init != nil })].Init
}

func TestRealCLIResumesASession(t *testing.T) {
	r := newRoom(t, platform(t))
	first, _ := r.run(agent.Invocation{Prompt: "hello"})
	second, exit := r.run(agent.Invocation{Prompt: "again", Resume: first[0].Session})
	if exit != 0 || second[0].Session != first[0].Session || result(second).IsError {
		t.Errorf("exit %d, session %s after %s", exit, second[0].Session, first[0].Session)
	}
	lost, exit := r.run(agent.Invocation{Prompt: "again", Resume: session})
	if got := result(lost); exit != 1 || !got.IsError || !strings.Contains(strings.Join(got.Errors, ""), "No conversation found") {
		t.Errorf("exit %d, result %+v of a session that is not there", exit, got)
	}
}

func TestRealCLIStopsAfterMaxTurns(t *testing.T) {
	r := newRoom(t, platform(t))
	events, exit := r.run(agent.Invocation{MaxTurns: 1, Prompt: "simulate: bash \"echo one\"\nsimulate: bash \"echo two\"\nsimulate: say \"end\""})
	if got := result(events); exit != 1 || !got.IsError || got.Reason != "max_turns" || events[len(events)-1].Subtype != "error_max_turns" {
		t.Errorf("exit %d, result %+v", exit, got)
	}
}

func TestRealCLITakesAPromptOf2MB(t *testing.T) {
	s := platform(t)
	r := newRoom(t, s)
	events, exit := r.run(agent.Invocation{Prompt: strings.Repeat("lorem ipsum ", 2<<20/12) + "\nsimulate: say \"read it all\""})
	if got := result(events); exit != 0 || got.Text != "read it all" {
		t.Errorf("exit %d, result %+v", exit, got)
	}
}

func TestRealCLIAppendsInstructions(t *testing.T) {
	seen := new(atomic.Bool)
	s := platform(t)
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		if bytes.Contains(b, []byte("--speak-in-rhymes")) {
			seen.Store(true)
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer spy.Close()
	r := newRoom(t, s)
	r.baseURL = spy.URL
	r.run(agent.Invocation{Prompt: "hello", Instructions: "--speak-in-rhymes"})
	if !seen.Load() {
		t.Error("the instructions did not reach the model")
	}
}

// refuser is a proxy that admits the token endpoint of the simulator alone.
func refuser(t *testing.T, s *simulator.Simulator, open bool) (proxyURL string, connected *atomic.Bool) {
	t.Helper()
	connected = new(atomic.Bool)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !open || r.Method != http.MethodConnect || r.Host != "platform.claude.com:443" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		up, err := net.Dial("tcp", strings.TrimPrefix(s.ProxyURL(), "http://"))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer up.Close()
		connected.Store(true)
		down, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer down.Close()
		fmt.Fprintf(up, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", r.Host) // its 200 is ours
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.Copy(up, buf)
			up.Close()
		}()
		io.Copy(down, up)
		down.Close()
		<-done
	}))
	t.Cleanup(srv.Close)
	return srv.URL, connected
}

// refresh runs the refresh command as the hub does, and returns the verdict and
// what was written.
func refresh(t *testing.T, s *simulator.Simulator, open bool, env map[string]string) (agent.RefreshAnswer, agent.Credentials, simulator.Login) {
	t.Helper()
	login := s.SignIn(simulator.SignIn{})
	old, err := agent.ParseCredentials(login.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd, err := agent.RefreshCommand(hubtest.Claude(t), home, old)
	if err != nil {
		t.Fatal(err)
	}
	door, connected := refuser(t, s, open)
	more := map[string]string{"HTTPS_PROXY": door, "NODE_EXTRA_CA_CERTS": s.CAFile()}
	for k, v := range env {
		more[k] = v
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := exec.CommandContext(ctx, cmd.Args[0], cmd.Args[1:]...)
	p.Env, p.Dir = cmd.Environ(os.Environ(), more), home
	out, err := p.CombinedOutput()
	if p.ProcessState == nil {
		t.Fatal(err)
	}
	t.Logf("%q", out)
	run := agent.RefreshRun{Exit: p.ProcessState.ExitCode(), Output: out, Connected: connected.Load()}
	var fresh agent.Credentials
	if b, err := agent.ReadCredentialFile(agent.CredentialPath(home)); err == nil {
		fresh, err = agent.ParseCredentials(b)
		run.Wrote = err == nil && !fresh.AccessToken.Equal(old.AccessToken)
		fresh = fresh.Adopt(old)
	}
	return agent.ParseRefreshWords(run), fresh, login
}

func TestRealCLIRefreshes(t *testing.T) {
	s := platform(t)
	got, fresh, login := refresh(t, s, true, nil)
	if got.Kind != agent.RefreshRotated {
		t.Fatalf("answer = %+v", got)
	}
	if !s.Live(fresh.AccessToken.Reveal()) || s.Live(login.AccessToken) || fresh.RefreshToken.Reveal() == login.RefreshToken {
		t.Error("the pair was not rotated")
	}
	old, _ := agent.ParseCredentials(login.Credentials)
	if fresh.Subscription != old.Subscription || fresh.RateLimitTier != old.RateLimitTier || fresh.Subscription == "" {
		t.Errorf("plan %q %q; want the old one's", fresh.Subscription, fresh.RateLimitTier)
	}
	if c := s.Counters(); c.TokenRequests != 1 {
		t.Errorf("%d token requests; want 1", c.TokenRequests)
	}
}

func TestRealCLIsRefreshWords(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault simulator.Fault
		open  bool
		env   map[string]string
		want  agent.RefreshKind
	}{
		{"refused", simulator.Fault{Kind: simulator.FaultInvalidGrant}, true, nil, agent.RefreshRefused},
		{"429", simulator.Fault{Kind: simulator.FaultRateLimit}, true, nil, agent.RefreshTrouble},
		{"500", simulator.Fault{Kind: simulator.FaultServerError}, true, nil, agent.RefreshTrouble},
		{"500 after the commit", simulator.Fault{Kind: simulator.FaultErrorAfterCommit}, true, nil, agent.RefreshTrouble},
		{"502 with HTML", simulator.Fault{Kind: simulator.FaultBadGateway}, true, nil, agent.RefreshTrouble},
		{"lost answer", simulator.Fault{Kind: simulator.FaultLostReply}, true, nil, agent.RefreshUnknown},
		{"half an answer", simulator.Fault{Kind: simulator.FaultHalfReply}, true, nil, agent.RefreshUnknown},
		{"broken JSON", simulator.Fault{Kind: simulator.FaultBrokenJSON}, true, nil, agent.RefreshUnknown},
		{"no refresh token in the answer", simulator.Fault{Kind: simulator.FaultOmitRefreshToken}, true, nil, agent.RefreshRotated},
		{"door closed", simulator.Fault{}, false, nil, agent.RefreshNotSent},
		{"no door", simulator.Fault{}, true, map[string]string{"HTTPS_PROXY": "http://127.0.0.1:9"}, agent.RefreshNotSent},
		{"certificate not trusted", simulator.Fault{}, true, map[string]string{"NODE_EXTRA_CA_CERTS": "", "SSL_CERT_FILE": ""}, agent.RefreshNotSent},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := platform(t)
			if c.fault.Kind != "" {
				c.fault.Endpoint = simulator.EndpointToken
				s.Inject(c.fault)
			}
			got, fresh, login := refresh(t, s, c.open, c.env)
			if got.Kind != c.want {
				t.Errorf("answer = %+v; want %s", got, c.want)
			}
			if got.Kind != agent.RefreshRotated && got.Reason == "" {
				t.Error("no reason")
			}
			rotated := s.Counters().Rotations > 0
			if rotated && got.Kind != agent.RefreshRotated && !got.MayHaveRotated() {
				t.Error("the pair was rotated and lost, and the answer says that it can't have been")
			}
			if got.Kind == agent.RefreshRotated && !rotated && fresh.RefreshToken.Reveal() != login.RefreshToken {
				t.Error("the refresh token was not kept")
			}
			if n := s.Counters().TokenRequests; n > 1 {
				t.Errorf("%d token requests; want at most 1", n)
			}
		})
	}
}

// signIn drives the CLI's sign-in on a terminal; answer gives the code for a link.
func signIn(t *testing.T, s *simulator.Simulator, answer func(link string) string) (*agent.SignIn, string) {
	t.Helper()
	home := t.TempDir()
	cmd := agent.LoginCommand(hubtest.Claude(t), home)
	more := map[string]string{"TERM": "xterm-256color"}
	for _, kv := range s.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		more[name] = value
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := exec.CommandContext(ctx, cmd.Args[0], cmd.Args[1:]...)
	p.Env, p.Dir = cmd.Environ(os.Environ(), more), home
	tty, err := pty.StartWithSize(p, &pty.Winsize{Rows: 24, Cols: 40}) // narrow on purpose
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	screen, answered, buf := new(agent.SignIn), 0, make([]byte, 4096)
	for {
		n, err := tty.Read(buf)
		screen.Write(buf[:n])
		if link, ok := screen.Link(); ok && screen.Prompts() > answered {
			answered++
			fmt.Fprintf(tty, "%s\r", answer(link))
		}
		if err != nil {
			break // the terminal is gone: the CLI has ended
		}
	}
	p.Wait()
	return screen, home
}

func TestRealCLISignsIn(t *testing.T) {
	s := platform(t)
	tries := 0
	screen, home := signIn(t, s, func(link string) string {
		if tries++; tries == 1 {
			return "rubbish" // it asks again
		}
		code, err := s.Approve(t.Context(), link)
		if err != nil {
			t.Error(err)
		}
		return code
	})
	b, err := agent.ReadCredentialFile(agent.CredentialPath(home))
	if err != nil {
		t.Fatalf("%v; done %v, failure %q", err, screen.Done(), screen.Failure())
	}
	c, err := agent.ParseCredentials(b)
	if err != nil || !screen.Done() || screen.Failure() != "" || tries != 2 {
		t.Fatalf("%v; done %v, failure %q, %d tries", err, screen.Done(), screen.Failure(), tries)
	}
	if !s.Live(c.AccessToken.Reveal()) || c.RefreshToken.IsZero() || c.Subscription == "" || c.LoginExpiresAt.IsZero() {
		t.Errorf("login = %+v", c)
	}
	back, err := c.Encode()
	if again, _ := agent.ParseCredentials(back); err != nil || !again.AccessToken.Equal(c.AccessToken) || len(again.Scopes) != len(c.Scopes) {
		t.Errorf("the real file does not survive a round trip: %v", err)
	}
}

func TestRealCLIRefusesAWrongCode(t *testing.T) {
	s := platform(t)
	screen, home := signIn(t, s, func(string) string { return "fakecode#fakestate" })
	if screen.Done() || screen.Failure() == "" {
		t.Errorf("done %v, failure %q", screen.Done(), screen.Failure())
	}
	if _, err := os.Stat(agent.CredentialPath(home)); err == nil {
		t.Error("a credential file was written")
	}
}

// The lease in a command's environment outranks a login in its config directory.
func TestRealCLIUsesTheLeaseOfExec(t *testing.T) {
	s := platform(t)
	r := newRoom(t, s)
	other := s.SignIn(simulator.SignIn{})
	cmd := exec.Command(hubtest.Claude(t), "-p", "hello")
	cmd.Dir = r.work
	parent := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.home, "ANTHROPIC_API_KEY=sk-ant-api03-fake", "HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9"}
	cmd.Env = agent.ExecEnviron(parent, s.Direct().String(), secret.New(other.AccessToken))
	s.RevokeAccess(r.placeholder())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if c := s.Counters(); c.Messages == 0 || c.Unauthorized != 0 {
		t.Errorf("counters = %+v", c)
	}
}

func (r *room) placeholder() string {
	b, err := os.ReadFile(agent.CredentialPath(r.home))
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := agent.ParseCredentials(b)
	if err != nil {
		r.t.Fatal(err)
	}
	return c.AccessToken.Reveal()
}

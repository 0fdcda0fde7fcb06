package run_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/store"
)

func TestADoneRun(t *testing.T) {
	f := newFixture(t)
	req := f.request("succeed please " + fakeToken)
	req.Model = "sonnet"
	r, lines := f.run(t, req)
	want := hub.Run{
		ID: r.ID, Profile: "default", ProfileID: "p-1", Dir: f.workspace, Prompt: "succeed please [secret]", Model: "sonnet", Delivery: hub.DeliveryGateway,
		Started: r.Started, Ended: r.Ended, Verdict: hub.VerdictDone, Result: "all done",
		Usage:        hub.Usage{Requests: 2, InputTokens: 10, Cost: 42},
		AgentSession: "0f0e0d0c-0000-4000-8000-000000000001", Attempts: 1,
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("the record (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(lines, f.log(t, r.ID)); diff != "" {
		t.Errorf("the sink and the log differ (-sink +log):\n%s", diff)
	}
	first, last := note(t, lines[0]), note(t, lines[len(lines)-1])
	if first.Subtype != run.NoteStarted || last.Subtype != run.NoteVerdict || last.Verdict != hub.VerdictDone || first.Run != r.ID {
		t.Errorf("the log starts with %+v and ends with %+v", first, last)
	}
	if l := f.gateway.last; l.Run != r.ID || l.Profile != "p-1" || l.Limits.Lifetime < run.DefaultTimeout {
		t.Errorf("the gateway was asked for %+v", l)
	}
}

func note(t *testing.T, line string) run.Note {
	t.Helper()
	var n run.Note
	if err := json.Unmarshal([]byte(line), &n); err != nil || n.Type != run.NoteType {
		t.Fatalf("not a note of the hub: %s", line)
	}
	return n
}

func TestVerdicts(t *testing.T) {
	until := time.Date(2026, 12, 1, 15, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, prompt string
		change       func(*fixture, *run.Request)
		want         hub.Verdict
		reason       string // is in it
		code         int
		until        time.Time
	}{
		{name: "the CLI's own error", prompt: "fail", want: hub.VerdictFailed, reason: "API Error: 400 bad", code: 1},
		{name: "no result", prompt: "silent", want: hub.VerdictFailed, reason: "ended without a result"},
		{name: "exit code and stderr", prompt: "stderr", want: hub.VerdictFailed, reason: "exited with 3: it broke: [31mreally[0m [secret]", code: 3},
		{name: "an unknown word", prompt: "what", want: hub.VerdictFailed, reason: "exited with 99 and no reason", code: 99},
		{
			name: "refused by a limit", prompt: "fail", want: hub.VerdictRefused, reason: "2 requests are all", code: 1,
			change: func(f *fixture, _ *run.Request) {
				f.gateway.refusal = &run.Refusal{Verdict: hub.VerdictRefused, Reason: "2 requests are\nall"}
			},
		},
		{
			name: "parked", prompt: "fail", want: hub.VerdictParked, reason: "5-hour", code: 1, until: until,
			change: func(f *fixture, _ *run.Request) {
				f.gateway.refusal = &run.Refusal{Verdict: hub.VerdictParked, Reason: "the 5-hour window", Until: until}
			},
		},
		{
			name: "login required", prompt: "fail", want: hub.VerdictLoginRequired, reason: "sign in", code: 1,
			change: func(f *fixture, _ *run.Request) {
				f.gateway.refusal = &run.Refusal{Verdict: hub.VerdictLoginRequired, Reason: "sign in again"}
			},
		},
		{
			name: "refused once, but done", prompt: "succeed", want: hub.VerdictDone,
			change: func(f *fixture, _ *run.Request) {
				f.gateway.refusal = &run.Refusal{Verdict: hub.VerdictRefused, Reason: "too many at once"}
			},
		},
		{name: "the platform's limit, told by the CLI", prompt: "limited", want: hub.VerdictParked, reason: "5-hour limit", code: 1, until: time.Unix(1800000000, 0).UTC()},
		{
			name: "no login when it starts", prompt: "succeed", want: hub.VerdictLoginRequired, reason: "login required", code: -1,
			change: func(f *fixture, _ *run.Request) {
				f.gateway.refuse = fmt.Errorf("asking: %w", hub.ErrLoginRequired)
			},
		},
		{
			name: "parked when it starts", prompt: "succeed", want: hub.VerdictParked, reason: "used up", code: -1, until: until,
			change: func(f *fixture, _ *run.Request) {
				f.gateway.refuse = fmt.Errorf("asking: %w", &run.RefusedError{Refusal: run.Refusal{Verdict: hub.VerdictParked, Reason: "used up", Until: until}})
			},
		},
		{
			name: "the gateway does not open", prompt: "succeed", want: hub.VerdictFailed, reason: "opening the gateway: no", code: -1,
			change: func(f *fixture, _ *run.Request) { f.gateway.refuse = errors.New("no") },
		},
		{
			name: "the sandbox does not start", prompt: "succeed", want: hub.VerdictFailed, reason: "starting the sandbox: no user namespaces: do this", code: -1,
			change: func(f *fixture, _ *run.Request) {
				f.driver.refuse = hub.Hint(errors.New("no user namespaces"), "do this")
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			req := f.request(c.prompt)
			if c.change != nil {
				c.change(f, &req)
			}
			r, lines := f.run(t, req)
			if r.Verdict != c.want || !strings.Contains(r.Reason, c.reason) || r.ExitCode != c.code || !r.Until.Equal(c.until) {
				t.Errorf("verdict %s (%q), exit %d, until %v; want %s (%q), %d, %v", r.Verdict, r.Reason, r.ExitCode, r.Until, c.want, c.reason, c.code, c.until)
			}
			if n := note(t, lines[len(lines)-1]); n.Verdict != c.want {
				t.Errorf("the log ends with %+v", n)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	for _, prompt := range []string{"hang", "linger"} { // the latter is deaf
		f := newFixture(t, impatient)
		req := f.request(prompt)
		req.Timeout = 300 * time.Millisecond
		if r, _ := f.run(t, req); r.Verdict != hub.VerdictTimedOut || !strings.Contains(r.Reason, "longer than") {
			t.Errorf("%s: %s (%q); want timed-out", prompt, r.Verdict, r.Reason)
		}
	}
}

// limitDriver ends each sandbox by a limit.
type limitDriver struct {
	*processDriver
	reason sandbox.Reason
}

func (d limitDriver) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	box, err := d.processDriver.Start(ctx, spec)
	if err == nil {
		box = limitBox{box, d.reason}
	}
	return box, err
}

type limitBox struct {
	sandbox.Sandbox
	reason sandbox.Reason
}

func (b limitBox) Wait() (sandbox.Exit, error) {
	b.Kill()
	b.Sandbox.Wait()
	return sandbox.Exit{Code: -1, Signal: "SIGKILL", Reason: b.reason}, nil
}

func TestLimitsOfTheSandboxAreNamed(t *testing.T) {
	for reason, want := range map[sandbox.Reason]string{
		sandbox.ReasonMemory: "memory", sandbox.ReasonOutput: "printed more", sandbox.ReasonDisk: "disk",
		sandbox.ReasonProcesses: "processes", sandbox.ReasonKilled: "killed", sandbox.ReasonTime: "longer",
	} {
		f := newFixture(t)
		r, err := run.New(run.Config{
			Dir: f.dir, Agent: os.Args[0], Store: f.store, Gateway: f.gateway, Home: t.TempDir(),
			Driver: limitDriver{f.driver, reason},
		})
		if err != nil {
			t.Fatal(err)
		}
		f.Runner = r
		got, _ := f.run(t, f.request("hang"))
		verdict := hub.VerdictFailed
		if reason == sandbox.ReasonTime {
			verdict = hub.VerdictTimedOut
		}
		if got.Verdict != verdict || !strings.Contains(got.Reason, want) {
			t.Errorf("%s: verdict %s (%q); want %s (%q)", reason, got.Verdict, got.Reason, verdict, want)
		}
	}
}

func TestTheEndOfTheContextCancels(t *testing.T) {
	for _, c := range []struct {
		prompt string
		change func(*run.Config)
		want   hub.Verdict
		code   int
	}{
		{"hang", func(*run.Config) {}, hub.VerdictCancelled, 143},
		{"linger", impatient, hub.VerdictCancelled, -1},
		{"late", func(*run.Config) {}, hub.VerdictDone, 0}, // what was done in the last moment is done
	} {
		f := newFixture(t, c.change)
		ctx, cancel := context.WithCancel(t.Context())
		var lines []string
		r, err := f.Run(ctx, f.request(c.prompt), func(line []byte) {
			lines = append(lines, string(line))
			if strings.Contains(string(line), "hanging") {
				cancel()
			}
		})
		if err != nil || r.Verdict != c.want || r.ExitCode != c.code {
			t.Errorf("%s: %s (%q), exit %d, %v; want %s with %d", c.prompt, r.Verdict, r.Reason, r.ExitCode, err, c.want, c.code)
		}
		f.checkAfter(t, r)
		if all := strings.Join(lines, "\n"); c.prompt == "hang" && !strings.Contains(all, "interrupted") {
			t.Errorf("the CLI was not asked to end before it was killed:\n%s", all)
		}
		if _, err := f.Run(ctx, f.request("succeed"), nil); !errors.Is(err, hub.ErrCancelled) {
			t.Errorf("a run on a dead context: %v; want ErrCancelled", err)
		}
	}
}

func TestAPanickingSinkLeavesNothing(t *testing.T) {
	f := newFixture(t)
	func() {
		defer func() {
			if v := recover(); v != "ouch" {
				t.Errorf("Run panicked with %v; want the sink's ouch", v)
			}
		}()
		f.Run(t.Context(), f.request("hang"), func([]byte) { panic("ouch") })
	}()
	runs, err := f.store.Runs(t.Context(), store.Filter{})
	if err != nil || len(runs) != 1 || runs[0].Verdict != hub.VerdictFailed || !strings.Contains(runs[0].Reason, "panicked") {
		t.Fatalf("runs: %+v, %v", runs, err)
	}
	f.checkAfter(t, runs[0])
}

func TestAStuckSinkDoesNotHoldUpTheEnd(t *testing.T) {
	f := newFixture(t, impatient)
	release := make(chan struct{})
	var calls atomic.Int32
	req := f.request("flood")
	req.Timeout = 500 * time.Millisecond
	r, err := f.Run(t.Context(), req, func([]byte) { calls.Add(1); <-release })
	if err != nil || r.Verdict != hub.VerdictTimedOut {
		t.Errorf("%s (%q), %v; want timed-out", r.Verdict, r.Reason, err)
	}
	f.checkAfter(t, r)
	close(release)
	if n := calls.Load(); n != 1 {
		t.Errorf("the sink was called %d times; want once, and never after the end", n)
	}
}

func TestGarbageIsAnEntryNotAnError(t *testing.T) {
	f := newFixture(t)
	r, lines := f.run(t, f.request("garbage"))
	if r.Verdict != hub.VerdictDone || r.Result != "survived" {
		t.Errorf("verdict %s (%q), result %q; want done and survived", r.Verdict, r.Reason, r.Result)
	}
	count := map[string]int{}
	for _, l := range f.log(t, r.ID) {
		var n run.Note
		json.Unmarshal([]byte(l), &n)
		count[n.Type+" "+n.Subtype]++
	}
	if count["hub garbage"] != 4 || count["hub dropped"] != 1 || count["tail "] != 1 {
		t.Errorf("the log has %v; want 4 garbage, 1 dropped, 1 tail", count)
	}
	for _, l := range lines {
		if strings.ContainsAny(l, "\x00\x1b\x07") || len(l) > 1<<20 {
			t.Errorf("given to the sink: %.100q", l)
		}
	}
}

func TestNoTokenIsKept(t *testing.T) {
	f := newFixture(t)
	r, lines := f.run(t, f.request("leak "+strings.Repeat(" ", 1900)+fakeToken))
	b, _ := json.Marshal(r)
	for where, text := range map[string]string{"record": string(b), "sink": strings.Join(lines, "\n"), "log": strings.Join(f.log(t, r.ID), "\n")} {
		if strings.Contains(text, "canary") {
			t.Errorf("the token is in the %s: %s", where, text)
		}
	}
	if !strings.Contains(r.Reason, "the token is [secret]") {
		t.Errorf("the reason is %q", r.Reason)
	}
}

func TestTheLogIsBounded(t *testing.T) {
	const bound = 1 << 20
	f := newFixture(t, func(c *run.Config) { c.MaxLog = bound })
	got := 0
	r, err := f.Run(t.Context(), f.request("flood"), func([]byte) { got++ })
	if err != nil || r.Verdict != hub.VerdictDone || r.Result != "flooded" {
		t.Fatalf("%s (%q), %v", r.Verdict, r.Reason, err)
	}
	info, err := os.Stat(filepath.Join(f.dir, "runs", string(r.ID), "events.jsonl"))
	if err != nil || info.Size() > bound || info.Size() < bound/2 {
		t.Errorf("the log has %d bytes, %v; want a bit less than %d", info.Size(), err, bound)
	}
	if got < 200 {
		t.Errorf("the sink got %d lines; want all", got)
	}
	lines := f.log(t, r.ID)
	if n := note(t, lines[len(lines)-1]); n.Verdict != hub.VerdictDone {
		t.Errorf("a full log ends with %+v", n)
	}
	if n := note(t, lines[len(lines)-2]); n.Subtype != run.NoteCut {
		t.Errorf("a full log does not say so: %+v", n)
	}
}

// shown is what the fake CLI tells of itself.
type shown struct {
	Credentials, Error, Settings, Dir, Sum string
	Args, Env                              []string
}

func (f *fixture) show(t *testing.T, req run.Request) (s shown) {
	t.Helper()
	r, _ := f.run(t, req)
	if r.Verdict != hub.VerdictDone {
		t.Fatalf("%s (%q)", r.Verdict, r.Reason)
	}
	if err := json.Unmarshal([]byte(r.Result), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhatTheCLIIsGiven(t *testing.T) {
	f := newFixture(t, func(c *run.Config) {
		c.Environ = []string{"LANG=de_DE.UTF-8", "TZ=Europe/Berlin", "HTTPS_PROXY=http://proxy:1", "ANTHROPIC_API_KEY=fake", "SECRET=fake", "PATH=/odd"}
	})
	req := f.request("show")
	req.Model, req.Plan = "opus", run.Plan{Subscription: "max"}
	s := f.show(t, req)
	if want := strings.ReplaceAll(leaseToken, "sk-ant-", "sk+ant+"); !strings.Contains(s.Credentials, want) || strings.Contains(s.Credentials, "refresh") || !strings.Contains(s.Credentials, `"max"`) {
		t.Errorf("the login inside is %s (%s)", s.Credentials, s.Error)
	}
	env := strings.Join(s.Env, "\n") + "\n"
	for _, want := range []string{"ANTHROPIC_BASE_URL=http://127.0.0.1:", "HOME=/home/agent\n", "CLAUDE_CONFIG_DIR=/home/agent/.claude\n", "LANG=de_DE.UTF-8\n", "TZ=Europe/Berlin\n", "DISABLE_AUTOUPDATER=1\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("the environment has no %q:\n%s", want, env)
		}
	}
	for _, bad := range []string{"proxy", "API_KEY", "SECRET", "odd"} {
		if strings.Contains(env, bad) {
			t.Errorf("the environment has %q:\n%s", bad, env)
		}
	}
	if s.Dir != f.workspace {
		t.Errorf("it runs in %s; want %s", s.Dir, f.workspace)
	}
	if args := strings.Join(s.Args, " "); !strings.Contains(args, "--model=opus") || strings.Contains(args, "show") {
		t.Errorf("its arguments are %s", args)
	}
}

func TestAPromptOfTwoMegabytes(t *testing.T) {
	f := newFixture(t)
	prompt := "show " + strings.Repeat("é", run.MaxPrompt/2-4)
	prompt += strings.Repeat("!", run.MaxPrompt-len(prompt))
	s := f.show(t, f.request(prompt))
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(prompt))); s.Sum != want {
		t.Error("the prompt changed on its way")
	}
	runs, _ := f.store.Runs(t.Context(), store.Filter{})
	if p := runs[0].Prompt; len(p) > 2000 || !strings.HasPrefix(prompt, p) || len(p) < 1900 {
		t.Errorf("the record keeps %d bytes of the prompt", len(p))
	}
}

func TestALongHubDirectory(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100))
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(c *run.Config) { c.Dir = deep })
	f.dir = deep
	if r, _ := f.run(t, f.request("succeed")); r.Verdict != hub.VerdictDone {
		t.Errorf("%s (%q)", r.Verdict, r.Reason)
	}
}

func TestAMessyHomeIsRemoved(t *testing.T) {
	f := newFixture(t)
	f.run(t, f.request("mess"))
	if b, err := os.ReadFile(filepath.Join(f.workspace, "made")); err != nil || string(b) != "by the job" {
		t.Errorf("the workspace has %q, %v", b, err)
	}
}

func TestManyRunsAtOnce(t *testing.T) {
	f := newFixture(t)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if r, err := f.Run(t.Context(), f.request("succeed"), nil); err != nil || r.Verdict != hub.VerdictDone {
				t.Errorf("%s (%q), %v", r.Verdict, r.Reason, err)
			}
		})
	}
	group.Wait()
	if n, err := f.Reconcile(t.Context()); n != 0 || err != nil {
		t.Errorf("Reconcile closed %d, %v", n, err)
	}
}

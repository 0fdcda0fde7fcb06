package run_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"context"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// cliHome is the home that the fake driver gives to the fake CLI; its presence
// makes this binary that CLI.
const cliHome = "RUN_TEST_CLI_HOME"

// fakeToken looks like what must be found nowhere.
const fakeToken = "sk-ant-oat01-fake-canary-0123456789abcdef"

// fakeCLI behaves as its prompt says.
func fakeCLI() int {
	input, _ := io.ReadAll(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	say := func(format string, args ...any) {
		fmt.Fprintf(out, format+"\n", args...)
		out.Flush()
	}
	result := func(text string, isError bool, more string) {
		b, _ := json.Marshal(text)
		say(`{"type":"result","subtype":"success","is_error":%v,"session_id":"0f0e0d0c-0000-4000-8000-000000000001","result":%s%s}`, isError, b, more)
	}
	say(`{"type":"system","subtype":"init","session_id":"0f0e0d0c-0000-4000-8000-000000000001","model":"m","cwd":"/w"}`)
	word, rest, _ := strings.Cut(string(input), " ")
	switch word {
	case "succeed":
		result("all done", false, `,"total_cost_usd":0.25,"usage":{"input_tokens":7,"output_tokens":3},"modelUsage":{"m":{}}`)
	case "fail":
		result("API Error: 400 bad", true, `,"api_error_status":400`)
		return 1
	case "dead":
		result("Failed to authenticate", true, `,"api_error_status":401`)
		return 1
	case "limited":
		say(`{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","rateLimitType":"five_hour","resetsAt":1800000000}}`)
		result("You've hit your 5-hour limit", true, `,"api_error_status":429`)
		return 1
	case "stderr":
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 1<<20)+"\nit broke: \x1b[31mreally\x1b[0m "+fakeToken)
		return 3
	case "silent":
	case "garbage":
		os.Stdout.Write([]byte("\x00\xff\x1b]0;owned\x07 not json\n\n{\"type\":5}\n[1]\n{\n"))
		out.Write(append(bytes.Repeat([]byte("A"), 17<<20), '\n'))
		result("survived", false, "")
		out.Flush()
		os.Stdout.Write([]byte(`{"type":"tail","without":"newline"}`))
	case "leak":
		say(`{"type":"assistant","message":{"content":[{"type":"text","text":"it is %s"}]}}`, fakeToken)
		say("a plain line with %s", fakeToken)
		fmt.Fprintln(os.Stderr, "and "+fakeToken)
		result("the token is "+fakeToken, true, "")
		return 1
	case "flood":
		line := `{"type":"assistant","message":{"content":[{"type":"text","text":"` + strings.Repeat("f", 16<<10) + `"}]}}`
		for range 200 {
			say("%s", line)
		}
		result("flooded", false, "")
	case "hang", "linger", "late":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		say(`{"type":"assistant","message":{"content":[{"type":"text","text":"hanging"}]}}`)
		<-stop
		if word == "late" {
			result("just made it", false, "")
			return 0
		}
		say(`{"type":"assistant","message":{"content":[{"type":"text","text":"interrupted"}]}}`)
		if word == "linger" {
			select {}
		}
		return 143
	case "show": // what the CLI finds
		creds, err := os.ReadFile(filepath.Join(os.Getenv(cliHome), ".claude", ".credentials.json"))
		settings, _ := os.ReadFile(filepath.Join(os.Getenv(cliHome), ".claude", "settings.json"))
		dir, _ := os.Getwd()
		b, _ := json.Marshal(map[string]any{
			"credentials": strings.ReplaceAll(string(creds), "sk-ant-", "sk+ant+"), "error": fmt.Sprint(err), "settings": string(settings),
			"args": os.Args[1:], "env": os.Environ(), "dir": dir, "sum": fmt.Sprintf("%x", sha256.Sum256(input)),
		})
		result(string(b), false, "")
	case "rotate": // waits until the access token is the newer one
		path := filepath.Join(os.Getenv(cliHome), ".claude", ".credentials.json")
		for {
			b, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(b), "fake-second") {
				result("got it", false, "")
				return 0
			}
		}
	case "mess": // what a job can leave behind
		home := os.Getenv(cliHome)
		os.MkdirAll(filepath.Join(home, "a/b"), 0o755)
		os.WriteFile(filepath.Join(home, "a/b/f"), []byte("x"), 0o400)
		os.Chmod(filepath.Join(home, "a/b"), 0)
		os.Chmod(filepath.Join(home, "a"), 0)
		os.WriteFile("made", []byte("by the job"), 0o644)
		result("messy", false, "")
	case "trap": // what lies in wait for whoever reads and removes the home
		if err := setTrap(os.Getenv(cliHome), rest); err != nil {
			result(err.Error(), true, "")
			return 1
		}
		result("set", false, "")
	case "print": // what the prompt says, as it stands
		say("%s", rest)
	default:
		return 99
	}
	return 0
}

// processDriver is the smallest driver: a process on the host, in no sandbox.
type processDriver struct {
	refuse error
	mu     sync.Mutex
	boxes  []*processBox // all that it has started
}

func (d *processDriver) Name() string                { return "process" }
func (d *processDriver) Check(context.Context) error { return nil }

func (d *processDriver) Start(_ context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	outside := func(path string) string {
		for _, m := range spec.Mounts {
			if path == m.Target {
				return m.Source
			}
		}
		return path
	}
	for _, s := range spec.Sockets {
		if info, err := os.Stat(s.Host); err != nil || info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("no socket at %s: %w", s.Host, err)
		}
	}
	cmd := exec.Command(outside(spec.Args[0]), spec.Args[1:]...)
	cmd.Env = append(spec.Env, cliHome+"="+spec.Home, "GORACE=atexit_sleep_ms=0")
	cmd.Dir = outside(spec.Dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = spec.Stdin, spec.Stdout, spec.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	box := &processBox{cmd: cmd, spec: spec, done: make(chan struct{})}
	d.mu.Lock()
	d.boxes = append(d.boxes, box)
	d.mu.Unlock()
	go func() {
		defer close(box.done)
		box.exit = sandbox.Exit{Code: 0}
		cmd.Wait()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			box.exit = sandbox.Exit{Code: -1, Signal: "SIG" + status.Signal().String()}
		} else {
			box.exit.Code = cmd.ProcessState.ExitCode()
		}
	}()
	return box, nil
}

// running reports whether a sandbox is left.
func (d *processDriver) running() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.boxes {
		select {
		case <-b.done:
		default:
			return true
		}
	}
	return false
}

func (d *processDriver) killAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.boxes {
		b.Kill()
	}
}

type processBox struct {
	cmd  *exec.Cmd
	spec sandbox.Spec
	done chan struct{}
	exit sandbox.Exit
}

func (b *processBox) Wait() (sandbox.Exit, error) {
	<-b.done
	return b.exit, nil
}
func (b *processBox) Interrupt() error { b.cmd.Process.Signal(syscall.SIGTERM); return nil }
func (b *processBox) Kill() error      { b.cmd.Process.Kill(); return nil }

func (*processBox) Resize(uint16, uint16) error { return hub.ErrInvalid } // there is no terminal

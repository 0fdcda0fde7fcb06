package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

func TestMain(m *testing.M) {
	if shim.Wanted(os.Args) { // inside a sandbox
		os.Exit(shim.Main(os.Args))
	}
	if len(os.Args) > 1 && os.Args[1] == refreshHelper { // started by its path in /proc
		main()
	}
	testscript.Main(m, map[string]func(){"claude-hub": main})
}

// TestScripts runs the command lines in testdata against the real claude CLI, a
// real sandbox, and a platform of each script's own.
func TestScripts(t *testing.T) { testscript.Run(t, scriptParams(t, "testdata")) }

// scriptParams gives the scripts in dir the surroundings of all scripts.
func scriptParams(t *testing.T, dir string) testscript.Params {
	claude := filepath.Dir(hubtest.Claude(t))
	return testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			sim, err := simulator.Start(simulator.Config{})
			if err != nil {
				return err
			}
			env.Defer(func() { sim.Close() })
			env.Values["sim"] = sim
			env.Values["visitors"] = new(atomic.Int64)
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("CLAUDE_HUB_DIR", filepath.Join(env.WorkDir, "hub"))
			env.Setenv("CLAUDE_HUB_LISTEN", "127.0.0.1:0") // several daemons at once
			env.Setenv("BARE_PATH", env.Getenv("PATH"))    // without the claude CLI
			env.Setenv("PATH", env.Getenv("PATH")+":"+claude)
			for _, kv := range sim.Environ() {
				name, value, _ := strings.Cut(kv, "=")
				env.Setenv(name, value)
			}
			return errors.Join(os.Mkdir(home, 0o700), os.MkdirAll(filepath.Join(env.WorkDir, "work"), 0o700))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      cmdExits,
			"signin":     cmdSignIn,
			"browser":    cmdBrowser,
			"captured":   cmdCaptured,
			"webhook":    cmdWebhook,
			"told":       cmdTold,
			"twice":      cmdTwice,
			"platform":   cmdPlatform,
			"counts":     cmdCounts,
			"await":      cmdAwait,
			"large":      cmdLarge,
			"agekey":     cmdAgeKey,
			"recipient":  cmdRecipient,
			"lastrun":    cmdLastRun,
			"canary":     cmdCanary,
			"planted":    cmdPlanted,
			"listening":  cmdListening,
			"unit":       cmdUnit,
			"replaced":   cmdReplaced,
			"engine":     cmdEngine,
			"settle":     cmdSettle,
			"hide":       cmdHide,
			"containers": cmdContainers,
			"unmounted":  cmdUnmounted,
			"hung":       cmdHung,
			"limited":    cmdLimited,
			"hubkeys":    cmdHubKeys,
			"trusts":     cmdTrusts,
			"rotates":    cmdRotates,
			"websignin":  cmdWebSignIn,
			"taken":      cmdTaken,
		},
	}
}

func platformOf(ts *testscript.TestScript) *simulator.Simulator {
	return ts.Value("sim").(*simulator.Simulator)
}

// exits CODE ARG... runs claude-hub and demands that exit code.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("claude-hub", args[1:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("claude-hub %s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// signin [PROFILE [FLAG...]] signs in through the CLI's own sign-in; the test is the
// owner at the browser. Without flags it is here, which is the fastest. What the
// command prints goes into the files signin.out and signin.err.
func cmdSignIn(ts *testscript.TestScript, _ bool, args []string) {
	sim := platformOf(ts)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	words := []string{"login", "--profile", append(args, "default")[0], "--in", "here"}
	if len(args) > 1 {
		words = append(words[:3], args[1:]...)
	}
	cmd := exec.CommandContext(ctx, "claude-hub", words...)
	cmd.Env = environOf(ts)
	stdin, err := cmd.StdinPipe()
	ts.Check(err)
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	var said, out bytes.Buffer
	cmd.Stdout = &out
	ts.Check(cmd.Start())
	lines := bufio.NewScanner(io.TeeReader(stderr, &said))
	for lines.Scan() {
		if link := linkPattern.FindString(lines.Text()); link != "" {
			code, err := sim.Approve(ctx, link)
			ts.Check(err)
			fmt.Fprintln(stdin, code)
			stdin.Close()
		}
	}
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("signing in: %v\n%s", err, said.String())
	}
	ts.Check(os.WriteFile(ts.MkAbs("signin.out"), out.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("signin.err"), said.Bytes(), 0o600))
}

func environOf(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"HOME", "CLAUDE_HUB_DIR", "CLAUDE_HUB_LISTEN", "PATH", "HTTPS_PROXY", "https_proxy", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "DOCKER_HOST", "CONTAINER_HOST"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// captured DIR [expired] writes a login as copying ~/.claude leaves it, or leaves it
// until its access token has expired.
func cmdCaptured(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	var asked simulator.SignIn
	if len(args) > 1 {
		asked.AccessTTL = -time.Hour
	}
	login := platformOf(ts).SignIn(asked)
	ts.Check(os.WriteFile(filepath.Join(dir, agent.CredentialFile), login.Credentials, 0o600))
}

// platform WHAT changes the platform's mind.
func cmdPlatform(ts *testscript.TestScript, _ bool, args []string) {
	sim := platformOf(ts)
	switch args[0] {
	case "expires-access":
		sim.ExpireAccess()
	case "revokes-logins":
		sim.RevokeLogins()
	case "clock-ahead":
		sim.SetClockSkew(10 * time.Minute)
	case "is-used-up":
		d, err := time.ParseDuration(append(args, "1h")[1])
		ts.Check(err)
		sim.SetWindows(simulator.Windows{FiveHour: simulator.Window{Utilization: 1, Reset: time.Now().Add(d)}})
	case "setup-token":
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(sim.SetupToken()+"\n"), 0o600))
	default:
		ts.Fatalf("the platform can't do %q", args[0])
	}
}

// counts NAME N demands what the platform has counted.
func cmdCounts(ts *testscript.TestScript, _ bool, args []string) {
	c := platformOf(ts).Counters()
	got, ok := map[string]int{"rotations": c.Rotations, "token-requests": c.TokenRequests, "spent-replays": c.SpentReplays, "messages": c.Messages}[args[0]]
	if want, err := strconv.Atoi(args[1]); !ok || err != nil || got != want {
		ts.Fatalf("the platform counted %d %s, want %s", got, args[0], args[1])
	}
}

// await PATTERN waits until there is such a file.
func cmdAwait(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found, _ := filepath.Glob(path); len(found) > 0 {
			return
		}
	}
	ts.Fatalf("%s did not appear", args[0])
}

// large FILE BYTES writes a text of that size.
func cmdLarge(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Repeat([]byte("word "), n/5), 0o600))
}

// lastrun waits until there is a run, and sets RUN to the newest one's ID.
func cmdLastRun(ts *testscript.TestScript, _ bool, _ []string) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ts.Check(ts.Exec("claude-hub", "runs", "--json", "-n", "1"))
		var runs []hub.Run
		ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &runs))
		if len(runs) > 0 {
			ts.Setenv("RUN", string(runs[0].ID))
			return
		}
	}
	ts.Fatalf("no run appeared")
}

// agekey SECRET PUBLIC makes a recovery key, as age-keygen does.
func cmdAgeKey(ts *testscript.TestScript, _ bool, args []string) {
	key, err := age.GenerateX25519Identity()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(key.String()+"\n"), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(key.Recipient().String()), 0o600))
}

// recipient CONFIG PUBLIC names the recovery recipient in the settings.
func cmdRecipient(ts *testscript.TestScript, _ bool, args []string) {
	settings := fmt.Sprintf("recovery_recipients: [%s]\n", ts.ReadFile(args[1]))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(settings), 0o600))
}

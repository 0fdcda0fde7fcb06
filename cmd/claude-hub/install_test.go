package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v4"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// ordinary is a place and a program of an ordinary user's who may use the engine,
// also where the test is root's.
type ordinary struct {
	t      *testing.T
	dir    string
	engine string
	sim    *simulator.Simulator
	env    []string
	cred   *syscall.Credential // nil: who runs the test
}

func newOrdinary(t *testing.T) *ordinary {
	t.Helper()
	dir, err := os.MkdirTemp("", "claude-hub compose-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o := &ordinary{t: t, dir: dir, engine: hubtest.Engine(t, "docker")}
	if o.sim, err = simulator.Start(simulator.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.sim.Close() })
	build := exec.Command("go", "build", "-o", o.path("claude-hub"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	o.env = []string{
		"HOME=" + dir, "CLAUDE_HUB_DIR=" + o.path("hub"), "CLAUDE_HUB_LISTEN=off", "DOCKER_HOST=" + o.engine,
		"PATH=" + filepath.Dir(hubtest.Claude(t)) + ":" + os.Getenv("PATH"),
	}
	for _, kv := range o.sim.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(value, "/") { // the platform's certificate, which must be readable here
			data, err := os.ReadFile(value)
			if err == nil {
				err = os.WriteFile(o.path("ca.pem"), data, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			value = o.path("ca.pem")
		}
		o.env = append(o.env, name+"="+value)
	}
	if err := os.MkdirAll(o.path("old"), 0o700); err != nil {
		t.Fatal(err)
	}
	login := o.sim.SignIn(simulator.SignIn{})
	if err := os.WriteFile(filepath.Join(o.path("old"), agent.CredentialFile), login.Credentials, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(o.path("work"), 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		info, err := os.Stat(strings.TrimPrefix(o.engine, "unix://"))
		if err != nil {
			t.Fatal(err)
		}
		o.cred = &syscall.Credential{Uid: 1000, Gid: 1000, Groups: []uint32{info.Sys().(*syscall.Stat_t).Gid}}
		if out, err := exec.Command("chown", "-R", "1000:1000", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return o
}

func (o *ordinary) path(name string) string { return filepath.Join(o.dir, name) }

// installCLI puts the pinned CLI where `claude-hub agent install` does.
func (o *ordinary) installCLI() {
	o.t.Helper()
	at := filepath.Join(o.path("hub/agent"), agent.TestedVersion, "node_modules", ".bin", "claude")
	script := fmt.Sprintf("mkdir -p %q && cp --reflink=auto -L %q %q && chmod -R go+rX %q && chown -R --reference=%q %q",
		filepath.Dir(at), hubtest.Claude(o.t), at, o.path("hub/agent"), o.path("hub"), o.path("hub/agent"))
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		o.t.Fatalf("%v\n%s", err, out)
	}
}

func (o *ordinary) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(o.t.Context(), o.path("claude-hub"), args...)
	cmd.Env, cmd.Dir = o.env, o.path("work")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: o.cred}
	return cmd
}

// hub runs claude-hub and returns what it prints.
func (o *ordinary) hub(args ...string) string {
	o.t.Helper()
	cmd := o.command(args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		o.t.Fatalf("claude-hub %s: %v\n%s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return string(out)
}

// docker runs the engine's client.
func (o *ordinary) docker(args ...string) string {
	o.t.Helper()
	out, err := exec.CommandContext(o.t.Context(), "docker", append([]string{"-H", o.engine}, args...)...).CombinedOutput()
	if err != nil {
		o.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// composed is the part of a compose file that is used.
type composed struct {
	Services map[string]struct {
		Image       string         `yaml:"image"`
		PullPolicy  string         `yaml:"pull_policy"`
		Command     []string       `yaml:"command"`
		User        string         `yaml:"user"`
		GroupAdd    []string       `yaml:"group_add"`
		ReadOnly    bool           `yaml:"read_only"`
		CapDrop     []string       `yaml:"cap_drop"`
		SecurityOpt []string       `yaml:"security_opt"`
		Tmpfs       []string       `yaml:"tmpfs"`
		NetworkMode string         `yaml:"network_mode"`
		PID         string         `yaml:"pid"`
		Environment map[string]any `yaml:"environment"`
		Secrets     []string       `yaml:"secrets"`
		Restart     string         `yaml:"restart"`
		StopGrace   string         `yaml:"stop_grace_period"`
		Volumes     []struct {
			Type, Source, Target string
			ReadOnly             bool `yaml:"read_only"`
		}
		Healthcheck struct {
			Test                           []string
			Interval, Timeout, StartPeriod string `yaml:"-"`
			Retries                        int
		}
	}
	Secrets map[string]struct{ File string }
}

// TestCompose does with the engine's client what `docker compose up` does with the
// printed file, and then restarts the container in the middle of a refresh.
func TestCompose(t *testing.T) {
	o := newOrdinary(t)
	o.hub("init")
	o.hub("import", o.path("old"))
	o.installCLI()
	o.hub("image", "build", "agent", "--engine", "docker")
	if err := os.Rename(o.path("hub/key"), o.path("the key")); err != nil {
		t.Fatal(err)
	}
	o.env = append(o.env, "CLAUDE_HUB_KEY_FILE="+o.path("the key"))
	text := o.hub("install", "compose", "--workspace", o.path("work"))
	var file composed
	if err := yaml.Load([]byte(text), &file); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	container := o.up(t, file)
	o.await(func() bool { return strings.Contains(o.hub("status", "--json"), `"daemon"`) }, "the daemon", container)

	health := file.Services["hub"].Healthcheck.Test
	o.docker("exec", container, "/bin/sh", "-c", strings.ReplaceAll(health[1], "$$", "$"))
	if out := o.hub("run", "--dir", o.path("work"), `simulate: say "beside the daemon"`); !strings.Contains(out, "beside the daemon") {
		t.Errorf("the run said %q", out)
	}

	// The platform has rotated, its answer takes a while, and the container is stopped.
	o.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultSlow, Delay: 3 * time.Second, Times: 1})
	o.sim.ExpireAccess()
	run := o.command("run", "--dir", o.path("work"), `simulate: say "again"`)
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	o.await(func() bool { return o.sim.Counters().TokenRequests > 0 }, "the refresh", container)
	o.docker("stop", "-t", "60", container)
	run.Wait() // it ends with the daemon, which is not what this is about
	o.docker("start", container)
	o.await(func() bool { return strings.Contains(o.hub("status", "--json"), `"daemon"`) }, "the daemon, again", container)
	if out := o.hub("run", "--dir", o.path("work"), `simulate: say "after the restart"`); !strings.Contains(out, "after the restart") {
		t.Errorf("the run said %q", out)
	}
	if c := o.sim.Counters(); c.TokenRequests != 1 || c.SpentReplays != 0 || c.Rotations != 1 {
		t.Errorf("the platform counted %+v", c)
	}
	var runs []struct{ Verdict string }
	if err := json.Unmarshal([]byte(o.hub("runs", "--json")), &runs); err != nil || len(runs) != 3 || runs[0].Verdict != "done" || runs[2].Verdict != "done" {
		t.Errorf("the runs are %+v (%v)", runs, err)
	}
}

// up starts the file's container and returns its name.
func (o *ordinary) up(t *testing.T, file composed) string {
	t.Helper()
	s := file.Services["hub"]
	name := fmt.Sprintf("claude-hub-compose-test-%d", os.Getpid())
	stop := strings.TrimSuffix(s.StopGrace, "s")
	args := []string{"run", "--detach", "--name", name, "--restart", s.Restart, "--user", s.User, "--network", s.NetworkMode, "--pid", s.PID, "--stop-timeout", stop,
		"--health-cmd", s.Healthcheck.Test[1], "--health-interval", "30s", fmt.Sprintf("--read-only=%t", s.ReadOnly)}
	for flag, values := range map[string][]string{"--group-add": s.GroupAdd, "--cap-drop": s.CapDrop, "--security-opt": s.SecurityOpt, "--tmpfs": s.Tmpfs} {
		if len(values) == 0 {
			t.Errorf("the file has nothing for %s", flag)
		}
		for _, v := range values {
			args = append(args, flag, v)
		}
	}
	mount := func(source, target string, readOnly bool) {
		args = append(args, "--mount", fmt.Sprintf("type=bind,source=%s,target=%s,readonly=%t", unescape(source), unescape(target), readOnly))
	}
	for _, v := range s.Volumes {
		if v.Type != "bind" || v.Source != v.Target {
			t.Errorf("the volume %+v has another path inside", v)
		}
		mount(v.Source, v.Target, v.ReadOnly)
	}
	for _, secret := range s.Secrets {
		mount(file.Secrets[secret].File, "/run/secrets/"+secret, true)
	}
	for name, value := range s.Environment {
		if value != nil { // else compose passes on its own
			args = append(args, "--env", name+"="+unescape(fmt.Sprint(value)))
		}
	}
	for _, kv := range o.env { // the platform, and the test's own
		if name, _, _ := strings.Cut(kv, "="); !slices.Contains([]string{"HOME", "PATH", "DOCKER_HOST", "CLAUDE_HUB_DIR", "CLAUDE_HUB_KEY_FILE"}, name) {
			args = append(args, "--env", kv)
		}
	}
	mount(o.path("ca.pem"), o.path("ca.pem"), true)
	if s.PullPolicy != "never" || s.Restart != "unless-stopped" || strconv.Itoa(atoi(t, stop)) == "0" {
		t.Errorf("the file has %+v", s)
	}
	args = append(args, s.Image)
	for _, word := range s.Command {
		args = append(args, unescape(word))
	}
	t.Cleanup(func() {
		exec.Command("docker", "-H", o.engine, "rm", "--force", "--volumes", name).Run() // it may not have come to be
	})
	o.docker(args...)
	return name
}

func unescape(s string) string { return strings.ReplaceAll(s, "$$", "$") }

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// await waits until ok holds.
func (o *ordinary) await(ok func() bool, what, container string) {
	o.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	o.t.Fatalf("%s did not come:\n%s", what, o.docker("logs", container))
}

// unit --user|--system FILE demands that systemd takes the unit without a word.
func cmdUnit(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command("systemd-analyze", "verify", args[0], "--man=no", ts.MkAbs(args[1]))
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+ts.Getenv("WORK"))
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil || strings.Contains(text, filepath.Base(args[1])) {
		ts.Fatalf("systemd-analyze: %v\n%s", err, text)
	}
}

// TestUnitOfRootSharesItsMounts: nothing in the unit of a daemon that is root gives it
// mounts that a container engine doesn't see; any other's is hardened by them.
func TestUnitOfRootSharesItsMounts(t *testing.T) {
	apart := regexp.MustCompile(`(?m)^(Protect(System|Home|Kernel\w+|ControlGroups|Proc)|Private\w+|(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec)Paths|` +
		`Bind\w*Paths|TemporaryFileSystem|MountFlags|MountAPIVFS|Root\w+|ProcSubset|DynamicUser|LogNamespace)=`)
	for uid, want := range map[int]bool{0: false, 1000: true} {
		var out bytes.Buffer
		a := &app{stdout: &out}
		if err := a.printTemplate(systemdUnit, installation{Program: "/p", Dir: "/d", System: true, User: "u", UID: uid}); err != nil {
			t.Fatal(err)
		}
		if found := apart.FindAllString(out.String(), -1); (found != nil) != want {
			t.Errorf("the unit of user %d has %q", uid, found)
		}
		for _, line := range []string{"\nNoNewPrivileges=yes\n", "\nProtectClock=yes\n", "\nUMask=0077\n"} {
			if !strings.Contains(out.String(), line) {
				t.Errorf("the unit of user %d does not have %q:\n%s", uid, line, &out)
			}
		}
	}
}

// TestQuotedForServices: paths mean themselves in what is printed.
func TestQuotedForServices(t *testing.T) {
	for s, want := range map[string]string{`/a b`: `"/a b"`, `/100%/$HOME/"x"\y`: `"/100%%/$$HOME/\"x\"\\y"`} {
		if got := unitString(s); got != want {
			t.Errorf("in a unit %s is %s, want %s", s, got, want)
		}
	}
	if got, err := composeString(`/a: "$b"`); err != nil || got != `"/a: \"$$b\""` {
		t.Errorf("in a compose file: %s (%v)", got, err)
	}
}

// TestNoContainerOfRoot: a container with the engine's socket does not run as root.
func TestNoContainerOfRoot(t *testing.T) {
	err := (&app{}).addContainer(nil, &installation{UID: 0}, nil, nil)
	if !errors.Is(err, hub.ErrRefused) || hub.HintOf(err) == "" {
		t.Error(err)
	}
}

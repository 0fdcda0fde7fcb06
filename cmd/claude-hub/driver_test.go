package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
)

// scriptTB lets a script use what is made for tests.
type scriptTB struct {
	testing.TB
	ts *testscript.TestScript
}

func (s scriptTB) Helper()                           {}
func (s scriptTB) Context() context.Context          { return context.Background() }
func (s scriptTB) Fatalf(format string, args ...any) { s.ts.Fatalf(format, args...) }

func engineOf(ts *testscript.TestScript, kind string) string {
	return hubtest.Engine(scriptTB{ts: ts}, kind)
}

// hide PROGRAM takes the directories out of PATH that have it.
func cmdHide(ts *testscript.TestScript, _ bool, args []string) {
	var left []string
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, args[0])); err != nil {
			left = append(left, dir)
		}
	}
	ts.Setenv("PATH", strings.Join(left, string(filepath.ListSeparator)))
}

// engine KIND names the real engine of that kind, and the base image, in the
// environment and the settings.
func cmdEngine(ts *testscript.TestScript, _ bool, args []string) {
	variable := map[string]string{"docker": "DOCKER_HOST", "podman": "CONTAINER_HOST"}[args[0]]
	ts.Setenv(variable, engineOf(ts, args[0]))
	writeSettings(ts, "image: "+hubtest.BaseImage+"\n")
}

// hung names, as Docker, an engine that takes connections and never answers, on
// which a killed process of this hub seems to have left a container. There is no
// Podman.
func cmdHung(ts *testscript.TestScript, _ bool, _ []string) {
	socket := ts.MkAbs("hung.sock")
	l, err := net.Listen("unix", socket) // the kernel accepts, and nobody reads
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv("DOCKER_HOST", "unix://"+socket)
	ts.Setenv("CONTAINER_HOST", "unix://"+ts.MkAbs("no.sock"))
	containers := containersPath(ts.Getenv("CLAUDE_HUB_DIR"))
	digest := sha256.Sum256([]byte("unix://" + socket))
	ts.Check(os.MkdirAll(filepath.Join(containers, fmt.Sprintf("docker-%x", digest[:4]), "c-left"), 0o700))
	d, err := docker.New(docker.Config{Kind: docker.KindDocker, Dir: containers, Image: hubtest.BaseImage, Host: "unix://" + socket})
	ts.Check(err)
	defer d.Close()
	if !d.Left() {
		ts.Fatalf("the hub knows of no container that was left")
	}
}

// settle NAME names what confines runs in the settings.
func cmdSettle(ts *testscript.TestScript, _ bool, args []string) {
	writeSettings(ts, "image: "+hubtest.BaseImage+"\ncpus: 1.5\nsandbox: "+args[0]+"\n")
}

func writeSettings(ts *testscript.TestScript, text string) {
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("CLAUDE_HUB_DIR"), "config.yaml"), []byte(text), 0o600))
}

// containers KIND N demands that this hub has N containers on the engine, in
// whatever state. It waits a while for those that are just ending.
func cmdContainers(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	ids, err := filepath.Glob(filepath.Join(ts.Getenv("CLAUDE_HUB_DIR"), "containers", args[0]+"-*", "id"))
	ts.Check(err)
	if len(ids) != 1 {
		ts.Fatalf("the hub has %d names for its containers of %s", len(ids), args[0])
	}
	id, _, _ := strings.Cut(strings.TrimSpace(ts.ReadFile(ids[0])), " ") // and which directory it is of
	var out []byte
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		// Docker's client speaks to both.
		cmd := exec.Command("docker", "-H", engineOf(ts, args[0]), "ps", "-aq", "--filter", "label=io.claude-hub.hub="+id)
		out, err = cmd.CombinedOutput()
		if err != nil {
			ts.Fatalf("docker ps: %v\n%s", err, out)
		}
		if len(bytes.Fields(out)) == want {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%d containers, want %d", len(bytes.Fields(out)), want)
		}
	}
}

// limited KIND demands that the engine bounds the hub's one container as the settings
// and the defaults say.
func cmdLimited(ts *testscript.TestScript, _ bool, args []string) {
	ids, err := filepath.Glob(filepath.Join(ts.Getenv("CLAUDE_HUB_DIR"), "containers", args[0]+"-*", "id"))
	ts.Check(err)
	host := engineOf(ts, args[0])
	name, _, _ := strings.Cut(strings.TrimSpace(ts.ReadFile(ids[0])), " ")
	id, err := exec.Command("docker", "-H", host, "ps", "-q", "--filter", "label=io.claude-hub.hub="+name).Output()
	ts.Check(err)
	out, err := exec.Command("docker", "-H", host, "inspect", "--format",
		"{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.NetworkMode}} {{.HostConfig.ReadonlyRootfs}}",
		strings.TrimSpace(string(id))).CombinedOutput()
	ts.Check(err)
	if want := "4294967296 4294967296 1500000000 1040 none true\n"; string(out) != want {
		ts.Fatalf("the container's limits are %q, want %q", out, want)
	}
}

// unmounted demands that nothing is mounted below the hub's directory.
func cmdUnmounted(ts *testscript.TestScript, _ bool, _ []string) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	ts.Check(err)
	if bytes.Contains(mounts, []byte(ts.Getenv("CLAUDE_HUB_DIR"))) {
		ts.Fatalf("something is mounted below the hub's directory")
	}
}

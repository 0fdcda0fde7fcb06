// Package sandboxtest is the suite that every sandbox driver passes: what
// package sandbox promises, tried from the inside by a job that means harm.
//
// A driver's TestMain calls [Main] first, because the test binary is also the
// program that runs inside.
package sandboxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// Where the suite's own mounts are inside.
const (
	insideProbe = "/probe/probe"
	insideWork  = "/work"
)

// Run runs the suite. The driver's grace should be short, since some tests wait
// for it, and long enough for a busy machine: 3 s.
func Run(t *testing.T, d sandbox.Driver) {
	runParts(t, d, []part{
		{"Check", testCheck},
		{"Commands", testCommands},
		{"StartErrors", testStartErrors},
		{"Workspace", testWorkspace},
		{"WritesOutsideAreRefused", testWrites},
		{"NothingOfTheHostIsVisible", testSearch},
		{"NoOtherProcess", testProcesses},
		{"NoPrivilege", testPrivilege},
		{"UserOutside", testUserOutside},
		{"SystemCallsAreRefused", testSystemCalls},
		{"NoSetIDFiles", testSetID},
		{"NoNetwork", testNetwork},
		{"SocketCarriesBothWays", testSocket},
		{"Terminal", testTerminal},
		{"KeysAndWindow", testKeys},
		{"WriterFails", testWriterFails},
		{"OutputLivesOnElsewhere", testHandOver},
		{"TreeIsGone", testTree},
		{"Interrupt", testInterrupt},
		{"Kill", testKill},
		{"ContextEnds", testContext},
		{"ManyAtOnce", testMany},
	})
	RunLimits(t, d)
}

// RunLimits runs the part of the suite that depends on how a driver bounds
// memory and the like, for one that has two ways.
func RunLimits(t *testing.T, d sandbox.Driver) {
	runParts(t, d, []part{
		{"Memory", testMemory},
		{"CPUs", testCPUs},
		{"TemporaryFiles", testTemp},
		{"Processes", testForks},
		{"Time", testTime},
		{"Output", testOutput},
		{"FileSize", testFileSize},
		{"FreeSpace", testFreeSpace},
	})
}

type part struct {
	name string
	test func(*testing.T, sandbox.Driver)
}

func runParts(t *testing.T, d sandbox.Driver, parts []part) {
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) { p.test(t, d) })
	}
}

// patience bounds what should take no time on a machine that is busy.
const patience = 60 * time.Second

// place is the host's side of one sandbox.
type place struct{ home, work string }

func newPlace(t *testing.T) place {
	t.Helper()
	return place{home: newDir(t), work: newDir(t)}
}

// newDir returns a directory that an engine may mount: the test's name, in which
// there may be a comma, is not in its path.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandbox")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// spec returns a sandbox that runs args, with the probe and a workspace.
func (p place) spec(t *testing.T, args ...string) sandbox.Spec {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return sandbox.Spec{
		Args: args,
		Env:  []string{"PATH=" + sandbox.Path, "HOME=" + sandbox.Home, "LEASE=sk-ant-oat01-fake-lease"},
		Dir:  insideWork,
		Home: p.home,
		Mounts: []sandbox.Mount{
			{Source: self, Target: insideProbe},
			{Source: p.work, Target: insideWork, Writable: true},
		},
		Limits: sandbox.Limits{Time: patience, Temp: 64 << 20},
	}
}

// result is how a command ended and what it said.
type result struct {
	sandbox.Exit
	out, err string
}

// run runs spec to its end.
func run(t *testing.T, d sandbox.Driver, spec sandbox.Spec) result {
	t.Helper()
	var out, errs bytes.Buffer
	if spec.Stdout == nil {
		spec.Stdout = &out
	}
	if spec.Stderr == nil {
		spec.Stderr = &errs
	}
	exit, err := start(t, d, spec).Wait()
	if err != nil {
		t.Fatalf("Wait: %v (stderr %q)", err, errs.String())
	}
	return result{exit, out.String(), errs.String()}
}

func start(t *testing.T, d sandbox.Driver, spec sandbox.Spec) sandbox.Sandbox {
	t.Helper()
	s, err := d.Start(context.Background(), spec)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() { s.Kill(); s.Wait() })
	return s
}

// shell runs a script that must succeed and returns what it printed.
func shell(t *testing.T, d sandbox.Driver, script string) string {
	t.Helper()
	r := run(t, d, newPlace(t).spec(t, "sh", "-c", script))
	if r.Exit != (sandbox.Exit{}) {
		t.Fatalf("script ended with %+v: %s", r.Exit, r.err)
	}
	return r.out
}

// ask runs one of the probes with question on its input and returns its answer.
func ask[A any](t *testing.T, d sandbox.Driver, spec sandbox.Spec, question any) A {
	t.Helper()
	in, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	spec.Stdin = bytes.NewReader(in)
	r := run(t, d, spec)
	var answer A
	if r.Exit != (sandbox.Exit{}) {
		t.Fatalf("probe %q ended with %+v: %s", spec.Args, r.Exit, r.err)
	}
	if err := json.Unmarshal([]byte(r.out), &answer); err != nil {
		t.Fatalf("probe %q said %q: %v", spec.Args, r.out, err)
	}
	return answer
}

// hostProcesses returns the host's processes that have marker in their command
// line.
func hostProcesses(marker string) []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, err := os.ReadFile(path)
		if err == nil && bytes.Contains(line, []byte(marker)) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// lines gives the lines that are written to it.
type lines struct {
	io.Writer
	next chan string
}

// newLines returns a writer; it never blocks as long as fewer than 1,000 lines
// are waiting.
func newLines() *lines {
	r, w := io.Pipe()
	l := &lines{Writer: w, next: make(chan string, 1000)}
	go func() {
		defer close(l.next)
		buf := []byte{}
		chunk := make([]byte, 4096)
		for {
			n, err := r.Read(chunk)
			buf = append(buf, chunk[:n]...)
			for {
				i := bytes.IndexByte(buf, '\n')
				if i < 0 {
					break
				}
				l.next <- string(buf[:i])
				buf = buf[i+1:]
			}
			if err != nil {
				return
			}
		}
	}()
	return l
}

func (l *lines) Close() { l.Writer.(*io.PipeWriter).Close() }

// await returns when the line has come.
func (l *lines) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line, ok := <-l.next:
			if !ok {
				t.Fatalf("the output ended before %q", want)
			}
			if line == want {
				return
			}
		case <-deadline:
			t.Fatalf("%q has not come", want)
		}
	}
}

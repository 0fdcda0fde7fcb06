package bubblewrap_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
)

// hubArg, as the first argument, makes the test binary a hub with one sandbox,
// whose job has the second argument in its command line.
const hubArg = "sandbox-hub"

func hubMain(args []string) int {
	d, err := bubblewrap.New(bubblewrap.Config{})
	if err == nil {
		_, err = d.Start(context.Background(), sandbox.Spec{
			Args:   []string{"sh", "-c", jobScript, args[2]},
			Env:    []string{"PATH=" + sandbox.Path},
			Stdout: os.Stdout,
			Limits: sandbox.Limits{Memory: 1 << 30, Processes: 100},
		})
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	select {}
}

// jobScript leaves a daemon that ignores signals, says "up" and stays.
const jobScript = `trap '' TERM HUP INT; setsid sh -c 'trap "" TERM HUP; while :; do sleep 0.05; done' "$0" & echo up; while :; do sleep 0.05; done`

// marked returns the host's processes that have marker in their command line:
// numbers to command lines.
func marked(marker string) map[int]string {
	found := map[int]string{}
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		line, _ := os.ReadFile(path)
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		if bytes.Contains(line, []byte(marker)) && pid != os.Getpid() {
			found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}

// eventually polls, because the deaths of strangers can't be waited for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestSandboxDiesWithItsHub(t *testing.T) {
	for _, user := range []string{"this user", "an ordinary user"} {
		marker := fmt.Sprintf("marker-%d-%d", os.Getpid(), time.Now().UnixNano())
		cmd := exec.Command("/proc/self/exe", hubArg, marker)
		if user != "this user" {
			if os.Getuid() != 0 {
				continue
			}
			cmd = asNobody(t, hubArg, marker)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(out).ReadString('\n')
		if line != "up\n" || len(marked(marker)) < 3 { // the hub, the job, the daemon
			t.Errorf("as %s: the hub's job said %q; processes %v", user, line, marked(marker))
		}
		cmd.Process.Kill()
		cmd.Wait()
		eventually(t, "the end of a sandbox whose hub was killed, as "+user, func() bool { return len(marked(marker)) == 0 })
	}
}

func TestBubblewrapKilledByStranger(t *testing.T) {
	d := newDriver(t, bubblewrap.Config{})
	marker := fmt.Sprintf("marker-%d-%d", os.Getpid(), time.Now().UnixNano())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	home := t.TempDir()
	s, err := d.Start(context.Background(), sandbox.Spec{
		Args: []string{"sh", "-c", jobScript, marker}, Env: []string{"PATH=" + sandbox.Path}, Home: home, Stdout: w,
	})
	if err != nil {
		t.Fatal(err)
	}
	if line, _ := bufio.NewReader(r).ReadString('\n'); line != "up\n" {
		t.Fatalf("the job said %q", line)
	}
	for pid := range marked(home) { // only bubblewrap has the home's path in its arguments
		if p, err := os.FindProcess(pid); err == nil {
			p.Kill()
		}
	}
	if exit, err := s.Wait(); err == nil {
		t.Errorf("Wait says %+v and no error, though somebody killed the sandbox", exit)
	}
	if left := marked(marker); len(left) > 0 {
		t.Errorf("after Wait, processes are left: %v", left)
	}
}

// The kernel sends the parent-death signal at the end of the thread that started
// bubblewrap, not of the process.
func TestSandboxOutlivesTheThreadThatStartedIt(t *testing.T) {
	d := newDriver(t, bubblewrap.Config{})
	started := make(chan sandbox.Sandbox)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		s, err := d.Start(context.Background(), sandbox.Spec{Args: []string{"sh", "-c", "sleep 0.3; exit 6"}, Env: []string{"PATH=" + sandbox.Path}})
		if err != nil {
			t.Error(err)
		}
		started <- s
	}()
	s := <-started
	if s == nil {
		t.FailNow()
	}
	if exit, err := s.Wait(); err != nil || exit.Code != 6 {
		t.Errorf("ended with %+v, %v", exit, err)
	}
}

func TestHostSeesNoSecretInArguments(t *testing.T) {
	d := newDriver(t, bubblewrap.Config{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	secret := fmt.Sprintf("sk-ant-oat01-fake-%d", time.Now().UnixNano())
	s, err := d.Start(context.Background(), sandbox.Spec{
		Args: []string{"sh", "-c", "echo up; exec sleep 300"}, Env: []string{"PATH=" + sandbox.Path, "TOKEN=" + secret}, Stdout: w,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Wait()
	defer s.Kill()
	if line, _ := bufio.NewReader(r).ReadString('\n'); line != "up\n" {
		t.Fatalf("the job said %q", line)
	}
	if seen := marked(secret); len(seen) > 0 {
		t.Errorf("the job's environment is in these processes' arguments: %v", seen)
	}
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestNobodyReadsTheMemory lets a process of the same user, without privileges,
// open what the kernel shows of a running claude-hub.
func TestNobodyReadsTheMemory(t *testing.T) {
	hub := exec.Command("/proc/self/exe", "run", "-") // waits for its prompt
	hub.Args[0] = "claude-hub"
	hub.Env = []string{"PATH=/usr/bin:/bin"}
	hub.SysProcAttr = unprivileged()
	prompt, err := hub.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.Start(); err != nil {
		t.Fatal(err)
	}
	defer hub.Wait()
	defer prompt.Close()
	path := fmt.Sprintf("/proc/%d/environ", hub.Process.Pid)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		cat := exec.Command("cat", path)
		cat.SysProcAttr = unprivileged()
		out, err := cat.CombinedOutput()
		if err != nil {
			t.Logf("refused: %s", out)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a process of the same user reads %s", path)
		}
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		t.Fatal("the process has ended")
	}
}

// unprivileged makes a process an ordinary user's: as root, nothing is refused.
func unprivileged() *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

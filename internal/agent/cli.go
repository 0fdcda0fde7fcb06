package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// TestedVersion is the version of the CLI that the hub is tested with, the one
// that cli/package.json pins.
const TestedVersion = "2.1.330"

// installed is the tested version's place under the hub's directory.
func installed(dir string) string {
	return filepath.Join(dir, "agent", TestedVersion, "node_modules", ".bin", "claude")
}

// Find returns the absolute path of the CLI: the tested version that [Install]
// put under the hub's directory dir, else what PATH has. The error is a
// hub.ErrNotFound with a hint.
func Find(dir string) (string, error) {
	if path, err := filepath.Abs(installed(dir)); err == nil && isProgram(path) {
		return path, nil
	}
	path, err := exec.LookPath("claude")
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil { // also a claude in the current directory, exec.ErrDot
		return "", hub.Hint(fmt.Errorf("%w: there is no claude CLI", hub.ErrNotFound), "fetch the tested version with `claude-hub agent install`")
	}
	return path, nil
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

var versionPattern = regexp.MustCompile(`^([0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5}[0-9A-Za-z.+-]{0,40}) \(Claude Code\)\s*$`)

// versionPatience bounds a CLI that hangs. The real one answers in 50 ms.
const versionPatience = 20 * time.Second

// Version asks the CLI at path for its version. The CLI sees a scrubbed
// environment and an empty home, and is killed with all that it started when it
// takes too long.
func Version(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionPatience)
	defer cancel()
	out, err := ask(ctx, path, "--version")
	if err != nil {
		return "", hub.Hint(fmt.Errorf("asking %s for its version: %w", path, err), hintOther)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return "", invalid(hintOther, "%s is not a claude CLI: asked for its version it said %q", path, firstLine(out))
	}
	return string(m[1]), nil
}

const hintOther = "fetch the tested version with `claude-hub agent install`"

// ask runs a question that needs no network and no login.
func ask(ctx context.Context, path string, args ...string) ([]byte, error) {
	home, err := os.MkdirTemp("", "claude-hub-ask-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(home)
	cmd := Command{Args: append([]string{path}, args...), set: command(home).set}
	// Port 9 of loopback: what it could want to tell anybody goes nowhere.
	env := cmd.Environ(os.Environ(), map[string]string{"HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere})
	out, exit, err := run(ctx, process{args: cmd.Args, env: env, dir: home})
	if err == nil && exit != 0 {
		err = fmt.Errorf("it exited with %d: %s", exit, firstLine(out))
	}
	return out, err
}

const nowhere = "http://127.0.0.1:9"

// process is a short-lived program that need not behave.
type process struct {
	args  []string
	env   []string
	dir   string
	stdin io.Reader // nil: empty
	tee   io.Writer // gets all output too; nil: nobody
}

// maxOutput is what is kept of a process's output, its first bytes.
const maxOutput = 1 << 20

// run runs p in a process group of its own, which is killed whole when ctx ends
// and also after p has exited, so that nothing it forked stays behind. It
// returns the output, stdout and stderr as they came, and the exit status. An
// error means that p did not run to its end.
func run(ctx context.Context, p process) (output []byte, exit int, err error) {
	out := &head{left: maxOutput, tee: p.tee}
	cmd := exec.CommandContext(ctx, p.args[0], p.args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin = p.env, p.dir, p.stdin
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = time.Second // for a child that left the group with our pipe
	if err := cmd.Start(); err != nil {
		return nil, -1, startError(err)
	}
	err = cmd.Wait()
	_ = killGroup(cmd.Process.Pid) // BUG: theoretically its number belongs to another group by now
	if ctx.Err() != nil {
		return out.kept.Bytes(), -1, fmt.Errorf("it did not end in time: %w", context.Cause(ctx))
	}
	_, failed := errors.AsType[*exec.ExitError](err)
	if err != nil && !failed && !errors.Is(err, exec.ErrWaitDelay) {
		return out.kept.Bytes(), -1, err
	}
	return out.kept.Bytes(), cmd.ProcessState.ExitCode(), nil
}

func killGroup(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

func startError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", hub.ErrNotFound, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOEXEC):
		return fmt.Errorf("%w: %w", hub.ErrInvalid, err)
	}
	return err
}

// head is a writer that keeps the first bytes and forgets the rest, so that a
// program that prints without end costs no memory.
type head struct {
	kept bytes.Buffer // not embedded: its ReadFrom would take everything
	left int
	tee  io.Writer
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.left)
	h.kept.Write(p[:n])
	h.left -= n
	if h.tee != nil {
		_, _ = h.tee.Write(p) // a viewer that is gone must not stop the work
	}
	return len(p), nil
}

package bubblewrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/cgroup"
	"github.com/claude-hub/claude-hub/internal/sandbox/supervise"
)

// startTimeout bounds a start on a machine that is very busy.
const startTimeout = 30 * time.Second

// Start starts bubblewrap, puts it into its control group, and only then tells
// the shim what to run.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if spec.Home != "" {
		if info, err := os.Stat(spec.Home); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("%w: the sandbox's home %s is not a directory", hub.ErrInvalid, spec.Home)
		}
	}
	l, err := d.launch(spec)
	if err != nil {
		return nil, fmt.Errorf("starting bubblewrap: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { l.End(sandbox.ReasonKilled) })
	err = l.handshake()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		l.Abandon()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	l.Supervise(ctx)
	return l.Process, nil
}

// launched is a bubblewrap that was started.
type launched struct {
	*supervise.Process
	driver  *Driver
	spec    sandbox.Spec
	pipes   *supervise.Pipes
	info    *os.File // what bubblewrap says
	sockets []string // paths that Spec.Sockets have inside
	group   *cgroup.Group
}

// launch starts bubblewrap from a thread that stays until bubblewrap has ended:
// the kernel takes the end of the thread for the death of the parent.
func (d *Driver) launch(spec sandbox.Spec) (*launched, error) {
	pipes, info, in, err := d.open(spec)
	if err != nil {
		return nil, err
	}
	defer in.close()
	args, err := d.argv(spec, in)
	if err != nil {
		pipes.Close()
		info.Close()
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: d.program, Args: append([]string{"bwrap"}, args...), Env: []string{}, Dir: "/",
		Stdin: in.Stdin, Stdout: in.Stdout, Stderr: in.Stderr, ExtraFiles: in.extra,
	}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how bubblewrap exits says nothing that the shim has not said
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		pipes.Close()
		info.Close()
		return nil, err
	}
	l := &launched{driver: d, spec: spec, pipes: pipes, info: info, sockets: in.sockets}
	l.Process = supervise.New(supervise.Config{
		Spec: spec, Pipes: pipes, Grace: d.grace, Interval: d.interval, Log: d.log,
		// Bubblewrap has a PID 1 that dies with it.
		Abort: func() { cmd.Process.Kill() }, Aborted: ended,
		Release: func() {
			info.Close()
			l.group.Remove()
		},
	})
	return l, nil
}

// handshake brings the sandbox from bubblewrap's start to the command's.
func (l *launched) handshake() error {
	deadline := time.Now().Add(startTimeout)
	l.info.SetReadDeadline(deadline)
	var info struct {
		PID int `json:"child-pid"`
	}
	if err := json.NewDecoder(io.LimitReader(l.info, 1<<16)).Decode(&info); err != nil || info.PID <= 0 {
		return l.setupError(err)
	}
	if err := l.adopt(info.PID); errors.Is(err, unix.ESRCH) { // it has ended already
		return l.setupError(err)
	} else if err != nil {
		return err
	}
	order := supervise.Order(l.spec)
	for i := range order.Forwards {
		order.Forwards[i].Socket = l.sockets[i]
	}
	if l.group == nil && l.spec.Limits.Processes > 0 {
		order.Processes = l.spec.Limits.Processes + supervise.Slack
	}
	if said, err := l.Command(order, deadline); err != nil {
		if !said {
			return l.setupError(err)
		}
		return err
	}
	if l.group != nil {
		if err := l.group.Release(info.PID); err != nil && !errors.Is(err, unix.ESRCH) {
			l.driver.log.Warn("a sandbox's shim stays in its control group", "error", err)
		}
	}
	return nil
}

// adopt takes hold of the sandbox's PID 1 by its number on the host, and bounds
// it.
func (l *launched) adopt(pid int) error {
	if err := l.Adopt(pid); err != nil {
		return err
	}
	// Let the kernel take the job before the hub when the machine is out of memory,
	// if it lets us say so.
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("500"), 0)
	limits := l.spec.Limits
	if limits.Memory == 0 && limits.Processes == 0 && limits.CPUs == 0 {
		return nil
	}
	if groups := l.driver.cgroups(); groups != nil {
		group, err := groups.Create(limits)
		if err == nil {
			err = group.Add(pid)
		}
		if err == nil {
			l.group = group
			l.Bound(group.OutOfMemory)
			return nil
		}
		l.driver.log.Warn("no control group for this sandbox; counting instead", "error", err)
		group.Remove()
	}
	if limits.Memory == 0 && limits.Processes == 0 {
		return nil
	}
	procs, err := os.Open("/proc/" + strconv.Itoa(pid))
	l.Count(procs)
	return err
}

// setupError is why the shim never got to say anything: what bubblewrap wrote.
func (l *launched) setupError(err error) error {
	l.End(sandbox.ReasonKilled)
	l.pipes.Stderr.SetReadDeadline(time.Now().Add(time.Second))
	said, _ := io.ReadAll(io.LimitReader(l.pipes.Stderr, 4096))
	if text := strings.TrimSpace(string(said)); text != "" {
		return explain(fmt.Errorf("setting up the sandbox: %s", text))
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("bubblewrap ended early")
	}
	return fmt.Errorf("setting up the sandbox: %w", err)
}

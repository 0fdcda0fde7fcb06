package bubblewrap

import (
	"bufio"
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
	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
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
	p := newProcess(d, spec)
	sockets, err := p.launch()
	if err != nil {
		return nil, fmt.Errorf("starting bubblewrap: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { p.kill(sandbox.ReasonKilled) })
	err = p.handshake(sockets)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		p.kill(sandbox.ReasonKilled)
		p.abandon()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	p.supervise(ctx)
	return p, nil
}

// launch starts bubblewrap from a thread that stays until bubblewrap has ended:
// the kernel takes the end of the thread for the death of the parent. It returns
// the paths that Spec.Sockets have inside.
func (p *process) launch() (sockets []string, err error) {
	pipes, in, err := p.driver.open(p.spec)
	if err != nil {
		return nil, err
	}
	defer in.close()
	args, err := p.driver.argv(p.spec, in)
	if err != nil {
		pipes.close()
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: p.driver.program, Args: append([]string{"bwrap"}, args...), Env: []string{}, Dir: "/",
		Stdin: in.stdin, Stdout: in.stdout, Stderr: in.stderr, ExtraFiles: in.extra,
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how bubblewrap exits says nothing that the shim has not said
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		pipes.close()
		return nil, err
	}
	p.pipes, p.bwrap = pipes, cmd.Process
	return in.sockets, nil
}

// handshake brings the sandbox from bubblewrap's start to the command's.
func (p *process) handshake(sockets []string) error {
	deadline := time.Now().Add(startTimeout)
	p.pipes.info.SetReadDeadline(deadline)
	p.pipes.status.SetReadDeadline(deadline)
	var info struct {
		PID int `json:"child-pid"`
	}
	if err := json.NewDecoder(io.LimitReader(p.pipes.info, 1<<16)).Decode(&info); err != nil || info.PID <= 0 {
		return p.setupError(err)
	}
	if err := p.adopt(info.PID); err != nil {
		return err
	}
	order := boot.Order{Args: p.spec.Args, Env: p.spec.Env, Dir: p.spec.Dir, FileSize: p.spec.Limits.FileSize}
	window := p.spec.Window()
	order.Rows, order.Cols = window.Rows, window.Cols
	if order.Dir == "" {
		order.Dir = sandbox.Home
	}
	for i, s := range p.spec.Sockets {
		order.Forwards = append(order.Forwards, boot.Forward{Port: s.Port, Socket: sockets[i]})
	}
	if p.group == nil && p.spec.Limits.Processes > 0 {
		order.Processes = p.spec.Limits.Processes + processSlack
	}
	p.pipes.control.SetWriteDeadline(deadline)
	if err := shim.WriteOrder(p.pipes.control, order); err != nil {
		return p.setupError(err)
	}
	p.pipes.control.SetWriteDeadline(time.Time{})
	p.status = bufio.NewReaderSize(io.LimitReader(p.pipes.status, 1<<16), 4096)
	status, err := p.nextStatus()
	if err != nil {
		return p.setupError(err)
	}
	p.pipes.status.SetReadDeadline(time.Time{})
	if status.Failed != nil {
		return startError(p.spec, status.Failed)
	}
	if !status.Started {
		return fmt.Errorf("the sandbox's shim began with %q", status)
	}
	if p.group != nil {
		if err := p.group.release(info.PID); err != nil && !errors.Is(err, unix.ESRCH) {
			p.driver.log.Warn("a sandbox's shim stays in its control group", "error", err)
		}
	}
	return nil
}

// adopt takes hold of the sandbox's PID 1 by its number on the host.
func (p *process) adopt(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("taking hold of the sandbox: %w", err)
	}
	p.setInit(fd)
	// Let the kernel take the job before the hub when the machine is out of memory,
	// if it lets us say so.
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("500"), 0)
	limits := p.spec.Limits
	if limits.Memory == 0 && limits.Processes == 0 {
		return nil
	}
	if groups := p.driver.cgroups(); groups != nil {
		p.group, err = groups.create(limits)
		if err == nil {
			err = p.group.add(pid)
		}
		if err == nil {
			return nil
		}
		p.driver.log.Warn("no control group for this sandbox; counting instead", "error", err)
		p.group.remove()
		p.group = nil
	}
	p.procs, err = os.Open("/proc/" + strconv.Itoa(pid))
	return err
}

// setupError is why the shim never got to say anything: what bubblewrap wrote.
func (p *process) setupError(err error) error {
	p.kill(sandbox.ReasonKilled)
	p.pipes.stderr.SetReadDeadline(time.Now().Add(time.Second))
	said, _ := io.ReadAll(io.LimitReader(p.pipes.stderr, 4096))
	if text := strings.TrimSpace(string(said)); text != "" {
		return explain(fmt.Errorf("setting up the sandbox: %s", text))
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("bubblewrap ended early")
	}
	return fmt.Errorf("setting up the sandbox: %w", err)
}

// startError is why the shim could not start the command.
func startError(spec sandbox.Spec, f *boot.Failure) error {
	if f.Errno == unix.ENOENT || f.Errno == unix.ENOTDIR || f.Errno == unix.EACCES {
		return hub.Hint(fmt.Errorf("%w: in the sandbox: %s", hub.ErrNotFound, f.What),
			fmt.Sprintf("the command %q and the directory %q must lie in /usr or in one of the sandbox's mounts", spec.Args[0], spec.Dir))
	}
	return fmt.Errorf("in the sandbox: %s", f.What)
}

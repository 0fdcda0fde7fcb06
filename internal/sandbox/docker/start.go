package docker

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/cgroup"
	"github.com/claude-hub/claude-hub/internal/sandbox/supervise"
)

const (
	// startTimeout bounds a start on a machine that is very busy.
	startTimeout = 90 * time.Second
	// removeTimeout bounds the removal of a container; a sweep comes later.
	removeTimeout = 60 * time.Second
	// lookInterval is the time between two looks at a container that has not
	// connected yet.
	lookInterval = 500 * time.Millisecond
)

// Start makes a container and starts it, hands the shim what it needs, and only
// then tells it what to run.
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
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	e, err := d.engine(starting)
	if err != nil {
		return nil, firstOf(ctx, err)
	}
	sockets, err := d.sockets(spec)
	if err != nil {
		return nil, err
	}
	defer closeAll(sockets)
	pipes, ends, err := supervise.Open(spec.Stdin != nil)
	if err != nil {
		return nil, err
	}
	defer ends.Close()
	if err := give(ends, e); err != nil {
		pipes.Close()
		return nil, err
	}
	c, conn, pid, err := d.launch(starting, spec, e)
	if err != nil {
		pipes.Close()
		return nil, firstOf(ctx, err)
	}
	p, err := c.begin(starting, pipes, pid, func() error { return handOver(conn, ends, sockets) })
	if err != nil {
		return nil, firstOf(ctx, err)
	}
	p.Supervise(ctx)
	return p, nil
}

// firstOf returns why ctx has ended, if it has, and err otherwise.
func firstOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// made is a container that was made.
type made struct {
	driver  *Driver
	spec    sandbox.Spec
	id      string
	bounds  bool // as the engine's
	place   *place
	started chan struct{} // closed when the engine has answered to the start
	refused error         // what it answered
}

// launch makes a container, starts it, and returns when its shim has connected.
// Nothing is left of it when it fails.
func (d *Driver) launch(ctx context.Context, spec sandbox.Spec, e *engine) (_ *made, _ *net.UnixConn, pid int, err error) {
	hubID, err := d.prepare()
	if err != nil {
		return nil, nil, 0, err
	}
	p, err := d.newPlace()
	if err != nil {
		return nil, nil, 0, err
	}
	c := &made{driver: d, spec: spec, bounds: e.bounds, place: p, started: make(chan struct{})}
	defer func() {
		if err != nil {
			c.remove()
		}
	}()
	door, err := p.listen()
	if err != nil {
		close(c.started) // there will be no start
		return nil, nil, 0, err
	}
	if err := c.create(ctx, e, hubID); err != nil {
		door.close()
		close(c.started)
		return nil, nil, 0, err
	}
	go func() {
		defer close(c.started)
		_, c.refused = d.client.ContainerStart(ctx, c.id, client.ContainerStartOptions{})
	}()
	conn, pid, err := c.await(ctx, door)
	if err != nil {
		return nil, nil, 0, err
	}
	return c, conn, pid, nil
}

// prepare makes the driver's directory and returns the hub's name.
func (d *Driver) prepare() (string, error) {
	if err := d.prepareDir(); err != nil {
		return "", err
	}
	return d.hubID()
}

func (c *made) create(ctx context.Context, e *engine, hubID string) error {
	d := c.driver
	binds, err := d.binds(c.spec, c.place, e)
	if err != nil {
		return err
	}
	mounts, err := d.mounts(binds, c.place, e)
	if err != nil {
		return err
	}
	options := d.options(c.spec, e, hubID, c.place, mounts)
	// Not cut short by ctx: what the engine makes after we have gone would be nobody's.
	answer, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	created, err := d.client.ContainerCreate(answer, options)
	if err != nil {
		if errdefs.IsNotFound(err) {
			d.forget() // the image has been removed since it was seen
		}
		c.id = options.Name // in case that it was made, and the answer lost
		return d.explain("making a container", err)
	}
	c.id = created.ID
	return nil
}

// await returns the shim's connection, or why there will be none. The engine may
// answer to the start only after that.
func (c *made) await(ctx context.Context, door *door) (*net.UnixConn, int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-c.started:
		case <-ctx.Done():
			return
		}
		if c.refused != nil {
			cancel(c.driver.explain("starting a container", c.refused))
			return
		}
		look := time.NewTicker(lookInterval)
		defer look.Stop()
		for {
			select {
			case <-look.C:
			case <-ctx.Done():
				return
			}
			if i, err := c.driver.client.ContainerInspect(ctx, c.id, client.ContainerInspectOptions{}); err != nil {
				cancel(c.driver.explain("looking at a container", err))
			} else if i.Container.State != nil && !i.Container.State.Running {
				cancel(hub.Hint(fmt.Errorf("the container ended with code %d before it was told what to run", i.Container.State.ExitCode),
					"claude-hub must be a static binary for this machine's processor, as `make build` makes it"))
			}
		}
	}()
	conn, pid, err := door.accept(ctx)
	if err != nil {
		return nil, 0, err
	}
	if err := c.place.unmount(); err != nil {
		c.driver.log.Warn("a container's mounts stay on the host until a sweep", "error", err)
	}
	return conn, pid, nil
}

// begin gives the shim what it needs and its order. The pipes are owned by what it
// returns; nothing is left when it fails.
func (c *made) begin(ctx context.Context, pipes *supervise.Pipes, pid int, handOver func() error) (*supervise.Process, error) {
	d := c.driver
	gone := make(chan struct{})
	p := supervise.New(supervise.Config{
		Spec: c.spec, Pipes: pipes, Grace: d.cfg.Grace, Interval: d.cfg.Interval, Log: d.log,
		Abort: func() {}, Aborted: gone, Autopsy: c.autopsy, Release: c.remove,
	})
	stop := context.AfterFunc(ctx, func() { p.End(sandbox.ReasonKilled) })
	defer stop()
	err := p.Adopt(pid)
	if err != nil {
		close(gone) // its removal ends it
	} else {
		err = c.bound(p, pid)
	}
	if err == nil {
		err = handOver()
	}
	if err == nil {
		order := supervise.Order(c.spec)
		order.Filter = d.filter
		if !c.bounds && c.spec.Limits.Processes > 0 {
			order.Processes = c.spec.Limits.Processes + supervise.Slack
		}
		_, err = p.Command(order, time.Now().Add(startTimeout))
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		p.Abandon()
		return nil, err
	}
	return p, nil
}

// bound has memory watched, and processes where the engine can't bound them.
func (c *made) bound(p *supervise.Process, pid int) error {
	limits := c.spec.Limits
	switch {
	case limits.Memory == 0 && (limits.Processes == 0 || c.bounds):
		return nil
	case c.bounds:
		if events := cgroup.Events(pid); events != "" {
			p.Bound(func() bool { return cgroup.Killed(events) })
		}
		return nil
	}
	procs, err := os.Open("/proc/" + strconv.Itoa(pid))
	if err != nil {
		return err
	}
	p.Count(procs)
	// Some kinds of storage (FUSE) can be looked at from inside only.
	if _, err := os.Stat(procs.Name() + "/root/proc/self"); err != nil {
		return hub.Hint(fmt.Errorf("memory and processes can be neither bounded nor counted on this engine: %w", err), boundsHint)
	}
	return nil
}

// autopsy asks the engine whether memory was what ended the container.
func (c *made) autopsy() bool {
	if c.spec.Limits.Memory == 0 || !c.bounds {
		return false
	}
	<-c.started
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	if c.driver.awaitEnd(ctx, c.id) != nil {
		return false
	}
	i, err := c.driver.client.ContainerInspect(ctx, c.id, client.ContainerInspectOptions{})
	return err == nil && i.Container.State != nil && i.Container.State.OOMKilled
}

// remove takes away the container and its place. What can't be removed is left to
// a sweep.
func (c *made) remove() {
	<-c.started
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	err := error(nil)
	if c.id != "" {
		err = c.driver.removeContainer(ctx, c.id)
	}
	if err != nil {
		c.driver.log.Warn("a container could not be removed; the next sweep tries again", "container", c.id, "error", err)
		c.place.abandon()
		return
	}
	if err := c.place.remove(); err != nil {
		c.driver.log.Warn("a container's directory could not be removed; the next sweep tries again", "error", err)
	}
}

// removeTries bounds the tries at a container that is just ending by itself, which
// an engine may take amiss.
const removeTries = 4

// removeContainer removes a container with its volumes, however it is. One that is
// not there, or that somebody else is removing, is no error.
func (d *Driver) removeContainer(ctx context.Context, id string) error {
	for try := 1; ; try++ {
		_, err := d.client.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		if try == removeTries || client.IsErrConnectionFailed(err) || ctx.Err() != nil {
			return err
		}
		if err := d.awaitEnd(ctx, id); err != nil {
			return err
		}
	}
}

// awaitEnd returns when the engine knows that a container does not run.
func (d *Driver) awaitEnd(ctx context.Context, id string) error {
	wait := d.client.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case <-wait.Result:
		return nil
	case err := <-wait.Error:
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
}

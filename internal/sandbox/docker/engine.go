package docker

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox/cgroup"
)

// engine is what has to be known of an engine before a container is made.
type engine struct {
	podman      bool
	userns      string // the mode that keeps the user inside the one outside
	user        string // of the container, "uid:gid"
	uid, gid    int
	healthcheck bool // whether the image has one, which would run beside the job
	bounds      bool // whether it can bound memory and processes
}

// engine asks the engine once, and again only if it did not answer well.
func (d *Driver) engine(ctx context.Context) (*engine, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready != nil {
		return d.ready, nil
	}
	e, err := d.ask(ctx)
	if err != nil {
		return nil, err
	}
	d.ready = e
	return e, nil
}

// forget has the engine asked again.
func (d *Driver) forget() {
	d.mu.Lock()
	d.ready = nil
	d.mu.Unlock()
}

// Bounds reports whether the engine bounds memory and processes, as far as it was
// asked (see Ready). Where it does not, they are watched.
func (d *Driver) Bounds() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ready != nil && d.ready.bounds
}

func (d *Driver) ask(ctx context.Context) (*engine, error) {
	if d.userns != nil && mountsApart() {
		return nil, hub.Hint(fmt.Errorf("%w: this process has mounts of its own, and those that map the owners of files for a container would not be seen by the %s engine",
			hub.ErrInvalid, d.cfg.Kind), apartHint)
	}
	what := fmt.Sprintf("the %s engine at %s", d.cfg.Kind, d.address.host)
	if _, err := d.client.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil, d.explain(what, err)
	}
	e := &engine{podman: d.podman.Load()}
	var info system.Info
	all, ctx := errgroup.WithContext(ctx)
	if !e.podman { // which takes a second for it, and says of this nothing that is true
		all.Go(func() error {
			r, err := d.client.Info(ctx, client.InfoOptions{})
			info = r.Info
			return err
		})
	}
	all.Go(func() error {
		i, err := d.client.ImageInspect(ctx, d.cfg.Image)
		if err == nil && i.Architecture != runtime.GOARCH {
			return hub.Hint(fmt.Errorf("%w: the image %s is for %s, this machine is %s", hub.ErrInvalid, d.cfg.Image, i.Architecture, runtime.GOARCH), archHint)
		}
		e.healthcheck = err == nil && i.Config != nil && i.Config.Healthcheck != nil
		return err
	})
	if err := all.Wait(); err != nil {
		return nil, d.explain(what, err)
	}
	return e, d.chooseUser(e, info)
}

// chooseUser decides who the job is inside: never root on an engine that is root.
func (d *Driver) chooseUser(e *engine, info system.Info) error {
	has := func(name string) bool {
		return slices.ContainsFunc(info.SecurityOptions, func(o string) bool { return o == "name="+name || strings.HasPrefix(o, "name="+name+",") })
	}
	rootless := has("rootless") || d.address.ofAnother()
	switch {
	case rootless: // the user's own, which are handed down with version 2 only
		e.bounds = cgroup.Delegated(os.Getuid(), "memory", "pids")
	case !e.podman:
		e.bounds = info.MemoryLimit && info.PidsLimit
	default:
		e.bounds = true
	}
	e.uid, e.gid = os.Getuid(), os.Getgid()
	switch {
	case rootless && e.uid == 0:
		return hub.Hint(fmt.Errorf("%w: the %s engine at %s belongs to another user than claude-hub, which is root", hub.ErrInvalid, d.cfg.Kind, d.address.host), ownerHint)
	case rootless && e.podman:
		e.userns = "keep-id"
	case rootless: // root inside is the user outside
		e.uid, e.gid = 0, 0
	case e.uid == 0:
		e.uid, e.gid = agentUser, agentUser
		fallthrough
	default:
		if has("userns") {
			e.userns = "host"
		}
	}
	e.user = strconv.Itoa(e.uid) + ":" + strconv.Itoa(e.gid)
	return nil
}

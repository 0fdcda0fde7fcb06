package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker/image"
)

// What confines runs: the values of `sandbox:` and of CLAUDE_HUB_SANDBOX.
const (
	driverAuto       = "auto"
	driverBubblewrap = "bubblewrap"
)

var driverNames = []string{driverAuto, driverBubblewrap, docker.KindDocker, docker.KindPodman}

// How long an engine may take to answer, which one that hangs never does.
const (
	enginePatience = 15 * time.Second
	statusPatience = 5 * time.Second  // while a person waits for no more than a word about it
	sweepPatience  = 10 * time.Minute // for all that a daemon finds to remove, while nobody waits
)

// choice is the driver that runs are confined with.
type choice struct {
	driver sandbox.Driver // nil where none works, and automatic
	name   string
	why    string   // who chose it: "automatic", or what says so
	missed []string // what was tried before it, and why it wasn't taken
	err    error    // why it doesn't work; nil if it does, as far as was looked
}

// wantedDriver returns the driver that is asked for, and what asks for it.
func (a *app) wantedDriver(h *home) (name, by string, err error) {
	name, by = h.config.Sandbox, configPath(h.dir)
	if set := a.getenv("CLAUDE_HUB_SANDBOX"); set != "" {
		name, by = set, "CLAUDE_HUB_SANDBOX"
	}
	name = cmp.Or(name, driverAuto)
	if !slices.Contains(driverNames, name) {
		return "", "", hub.Hint(fmt.Errorf("%w: there is no sandbox %q (%s)", hub.ErrInvalid, name, by),
			"use auto, bubblewrap, docker or podman")
	}
	return name, by, nil
}

// chooseDriver returns what is to confine runs. What is taken automatically, or is
// to be tried, was tried by starting as little as tells whether it works: /bin/true
// in bubblewrap, nothing in an engine.
func (a *app) chooseDriver(ctx context.Context, h *home, version string, try bool, log *slog.Logger) (choice, error) {
	name, by, err := a.wantedDriver(h)
	if err != nil {
		return choice{}, err
	}
	patience := enginePatience
	if try {
		patience = statusPatience
	}
	if name != driverAuto {
		d, err := a.newDriver(h, name, version, log)
		if err != nil {
			return choice{name: name, why: by, err: err}, nil
		}
		c := choice{driver: d, name: name, why: by}
		if try {
			c.err = ready(ctx, d, patience)
		}
		return c, nil
	}
	auto := choice{why: "automatic"}
	var errs []error
	for _, name := range driverNames[1:] {
		d, err := a.newDriver(h, name, version, log)
		if err == nil {
			if err = ready(ctx, d, patience); err == nil {
				auto.driver, auto.name = d, name
				return auto, nil
			}
		}
		errs = append(errs, err)
		auto.missed = append(auto.missed, name+": "+whyNot(err))
	}
	auto.err = hub.Hint(fmt.Errorf("nothing here can confine a run: %w", errors.Join(errs...)), hub.HintOf(errs[0]))
	return auto, nil
}

// newDriver returns the driver of that name.
func (a *app) newDriver(h *home, name, version string, log *slog.Logger) (sandbox.Driver, error) {
	if name == driverBubblewrap {
		return bubblewrap.New(bubblewrap.Config{Log: log})
	}
	return a.newEngineDriver(h, name, version, log)
}

func (a *app) newEngineDriver(h *home, kind, version string, log *slog.Logger) (*docker.Driver, error) {
	return docker.New(docker.Config{
		Kind: kind, Dir: containersPath(h.dir), Image: cmp.Or(h.config.Image, image.Name(image.Agent, version)), Environ: a.environ, Log: log,
	})
}

// ready reports whether a driver works, as far as that is told at once, or within
// patience by an engine.
func ready(ctx context.Context, d sandbox.Driver, patience time.Duration) error {
	if engine, ok := d.(*docker.Driver); ok {
		return within(ctx, engine, patience, engine.Ready)
	}
	return d.Check(ctx)
}

// within asks an engine something, and says so if there is no answer in time.
func within(ctx context.Context, d *docker.Driver, patience time.Duration, ask func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := ask(bounded)
	if err == nil || bounded.Err() == nil || ctx.Err() != nil {
		return err
	}
	return hub.Hint(fmt.Errorf("the %s engine at %s has not answered within %v: %w", d.Name(), d.Address(), patience, context.DeadlineExceeded),
		"restart it (`sudo systemctl restart "+d.Name()+"`)")
}

// sweepLeft removes the containers of processes of this hub that were killed. It
// asks an engine only where some are known of, and waits for none that hangs.
func (a *app) sweepLeft(ctx context.Context, h *home, log *slog.Logger) {
	for _, kind := range []string{docker.KindDocker, docker.KindPodman} {
		a.sweep(ctx, h, kind, log, enginePatience, (*docker.Driver).Left)
	}
}

// sweepAll asks every engine on which this hub ever had a container, beside what
// the caller does, until stop is called.
func (a *app) sweepAll(ctx context.Context, h *home, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, kind := range []string{docker.KindDocker, docker.KindPodman} {
		all.Go(func() {
			a.sweep(ctx, h, kind, log, sweepPatience, func(*docker.Driver) bool { return true })
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// sweep sweeps one engine where wanted says so.
func (a *app) sweep(ctx context.Context, h *home, kind string, log *slog.Logger, patience time.Duration, wanted func(*docker.Driver) bool) {
	d, err := a.newEngineDriver(h, kind, "", log)
	if err != nil {
		return // an address that makes no sense: nothing was started there
	}
	defer d.Close()
	if !wanted(d) {
		return
	}
	err = within(ctx, d, patience, func(ctx context.Context) error {
		_, err := d.Sweep(ctx)
		return err
	})
	if err != nil && ctx.Err() == nil {
		log.Warn("what a killed process has left could not be removed", "err", whyNot(err))
	}
}

// sandboxState is what runs here are confined with.
type sandboxState struct {
	Driver  string   `json:"driver,omitempty"`
	Choice  string   `json:"choice"` // "automatic", or what says so: a file or a variable
	Works   bool     `json:"works"`
	Cgroup  bool     `json:"cgroup"`           // whether the kernel bounds memory and processes, rather than a watcher
	Engine  string   `json:"engine,omitempty"` // the address of Docker or Podman
	Missed  []string `json:"missed,omitempty"` // what was tried before, and why it was not taken
	Warning string   `json:"warning,omitempty"`
	Fix     string   `json:"fix,omitempty"`
}

func (a *app) sandboxOf(ctx context.Context, h *home, version string) sandboxState {
	c, err := a.chooseDriver(ctx, h, version, true, a.log())
	if err != nil {
		return sandboxState{Warning: err.Error(), Fix: hub.HintOf(err)}
	}
	s := sandboxState{Driver: c.name, Choice: c.why, Works: c.err == nil, Missed: c.missed}
	if c.err != nil {
		s.Warning, s.Fix = c.err.Error(), hub.HintOf(c.err)
	}
	switch d := c.driver.(type) {
	case *bubblewrap.Driver:
		s.Cgroup = d.Cgroup()
	case *docker.Driver:
		s.Cgroup, s.Engine = d.Bounds(), d.Address()
		d.Close()
	}
	return s
}

func (s sandboxState) text() string {
	what := s.Driver + " (" + s.Choice + ")"
	if s.Driver == "" {
		what = "none"
	}
	if s.Engine != "" {
		what += " at " + printable(s.Engine, 100)
	}
	switch {
	case !s.Works:
		text := what + ": " + printable(s.Warning, 400)
		if s.Fix != "" {
			text += ": " + s.Fix
		}
		return text
	case s.Cgroup:
		return what + ", memory and processes bounded by the kernel"
	default:
		return what + ", memory and processes watched (there is no control group for them here)"
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/door"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker/image"
)

// Where a sign-in can run the CLI; see --in.
const (
	inAuto      = "auto" // the first of the others that works
	inContainer = "container"
	inSandbox   = "sandbox"
	inHere      = "here"
)

var places = []string{inAuto, inContainer, inSandbox, inHere}

// newSignIn returns what carries out a sign-in in the place that in names, ""
// being inAuto. say gets a line for the owner about the choice. release gives back
// what the place holds.
func (a *app) newSignIn(ctx context.Context, h *home, in string, timeout time.Duration, say func(string)) (l *login.Login, release func(), err error) {
	path, err := h.agentPath()
	if err != nil {
		return nil, nil, err
	}
	client, err := refresh.PlatformClient()
	if err != nil {
		return nil, nil, err
	}
	place, leave, err := a.signInPlace(ctx, h, in, path, say)
	if err != nil {
		return nil, nil, err
	}
	cfg := a.loginConfig(h, path, timeout)
	cfg.Place, cfg.Accepted = place, refresh.NewProbe(client)
	if l, err = login.New(cfg); err != nil {
		leave()
		return nil, nil, err
	}
	return l, func() { leave(); client.CloseIdleConnections() }, nil
}

// signInPlace returns the place that in names.
func (a *app) signInPlace(ctx context.Context, h *home, in, agentPath string, say func(string)) (login.Place, func(), error) {
	answers := func(ctx context.Context, d *docker.Driver) error { return ready(ctx, d, enginePatience) }
	here := &login.Here{Agent: agentPath, Environ: a.environ}
	switch in {
	case inHere:
		return here, func() {}, nil
	case inSandbox:
		return a.sandboxPlace(ctx, agentPath)
	case inContainer:
		return a.containerPlace(ctx, h, agentPath, answers) // its start says what else is wrong
	case inAuto, "":
	default:
		return nil, nil, hub.Hint(fmt.Errorf("%w: a sign-in can't be in %q", hub.ErrInvalid, in), "use one of "+strings.Join(places, ", "))
	}
	// An engine may be elsewhere, and share no files: better to know that while
	// there is another place.
	box, release, noContainer := a.containerPlace(ctx, h, agentPath, func(ctx context.Context, d *docker.Driver) error { return d.Check(ctx) })
	if noContainer == nil {
		say("the sign-in is " + box.Name())
		return box, release, nil
	}
	if ctx.Err() != nil {
		return nil, nil, cancelledBefore(ctx)
	}
	box, release, err := a.sandboxPlace(ctx, agentPath)
	if err == nil {
		say(fmt.Sprintf("the sign-in is %s, not in a container: %s", box.Name(), whyNot(noContainer)))
		return box, release, nil
	}
	if ctx.Err() != nil {
		return nil, nil, cancelledBefore(ctx)
	}
	say(fmt.Sprintf("the sign-in is on this machine itself: no container (%s), and no sandbox (%s)", whyNot(noContainer), whyNot(err)))
	return here, func() {}, nil
}

func cancelledBefore(ctx context.Context) error {
	return fmt.Errorf("%w before the sign-in began (%w)", hub.ErrCancelled, context.Cause(ctx))
}

// whyNot is an error as a part of a sentence, with what can be done.
func whyNot(err error) string {
	text := printable(err.Error(), 300)
	if hint := hub.HintOf(err); hint != "" {
		text += "; " + hint
	}
	return text
}

func (a *app) sandboxPlace(ctx context.Context, agentPath string) (login.Place, func(), error) {
	d, err := bubblewrap.New(bubblewrap.Config{Log: a.log()})
	if err == nil {
		err = d.Check(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	return a.box(d, "in a sandbox (bubblewrap)", agentPath), func() {}, nil
}

// containerPlace returns a container of the setup image, on the first engine of
// which try says that it has one.
func (a *app) containerPlace(ctx context.Context, h *home, agentPath string, try func(context.Context, *docker.Driver) error) (login.Place, func(), error) {
	version := h.agentState(ctx).Version
	var errs []error
	for _, kind := range []string{docker.KindDocker, docker.KindPodman} {
		d, err := docker.New(docker.Config{
			Kind: kind, Dir: containersPath(h.dir), Image: image.Name(image.Setup, version), Environ: a.environ, Log: a.log(),
		})
		if err == nil {
			if err = try(ctx, d); err == nil {
				a.sweepLeft(ctx, h, a.log())
				return a.box(d, "in a container ("+kind+")", agentPath), d.Close, nil
			}
			d.Close()
		}
		errs = append(errs, err)
	}
	return nil, nil, bestOf(errs)
}

// bestOf returns the error that helps most: of an engine that answers but has no
// image, if there is one.
func bestOf(errs []error) error {
	for _, err := range errs {
		if errors.Is(err, hub.ErrNotFound) && strings.Contains(err.Error(), "image") {
			return err
		}
	}
	return errs[0]
}

func (a *app) box(d sandbox.Driver, called, agentPath string) *login.Box {
	egress := func(socket string) (io.Closer, error) { return openEgress(socket, agent.PlatformAddresses...) }
	return &login.Box{Driver: d, Called: called, Agent: agentPath, Environ: a.environ, Egress: egress, Log: a.log()}
}

func containersPath(dir string) string { return filepath.Join(dir, "containers") }

// openEgress serves, on a unix socket that it makes, a door to these addresses
// alone, which goes through the company's proxy if there is one.
func openEgress(socket string, addresses ...string) (io.Closer, error) {
	upstream, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: addresses[0]}})
	if err != nil {
		return nil, fmt.Errorf("%w: HTTPS_PROXY is not the address of a proxy", hub.ErrInvalid) // err quotes it, password and all
	}
	d, err := door.New(door.Config{Allow: addresses, Upstream: upstream})
	if err != nil {
		return nil, err
	}
	return d, d.StartUnix(socket)
}

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Options says what to build, and from what.
type Options struct {
	CLI        string // path of the claude CLI's native program, links allowed
	Version    string // the CLI's
	HubVersion string // for the label
	Base       string // the image to build on; "" is DefaultBase. It needs apt-get and glibc
	Fresh      bool   // build every layer anew, so that the base's newest packages get in
	// Progress is told of each step and each line of output, in order, by one
	// goroutine. It may be nil.
	Progress func(Progress)
}

// Progress is one thing that a build has said.
type Progress struct {
	Kind     Kind
	Step, Of int    // 0 until the first step
	Text     string // one line, foreign
}

// Build builds one image and gives it its [Name]. An image that has the name already stays
// what it is until the new one is complete, and is removed when a later build finds
// it unused. Of a build that failed nothing is kept
// but the engine's cache.
func Build(ctx context.Context, engine *client.Client, k Kind, o Options) error {
	if Dockerfile(k) == "" {
		return fmt.Errorf("%w: there is no image %q", hub.ErrInvalid, k)
	}
	if o.Base == "" {
		o.Base = DefaultBase
	}
	if !validBase.MatchString(o.Base) {
		return hub.Hint(fmt.Errorf("%w: %q is not the name of an image", hub.ErrInvalid, o.Base), "name it like "+DefaultBase)
	}
	for _, version := range []string{o.Version, o.HubVersion} {
		if !validVersion.MatchString(version) {
			return fmt.Errorf("%w: %q is no version", hub.ErrInvalid, version)
		}
	}
	p, err := openProgram(o.CLI)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := checkArchitecture(ctx, engine, p.arch, o.Base); err != nil {
		return err
	}
	if err := build(ctx, engine, k, o, p); err != nil {
		return fmt.Errorf("building the image %s: %w", k, err)
	}
	removeReplaced(ctx, engine, k, replacedAge)
	return nil
}

// replacedAge is how old an image without a name must be to be removed: a younger
// one may be a step of a build that is under way.
const replacedAge = time.Hour

// removeReplaced removes the images of that kind that had the name before, as far
// as no container uses them. What can't be removed stays for the next build.
func removeReplaced(ctx context.Context, engine *client.Client, k Kind, age time.Duration) {
	list, err := engine.ImageList(ctx, client.ImageListOptions{
		Filters: client.Filters{}.Add("label", LabelKind+"="+string(k)).Add("dangling", "true"),
	})
	if err != nil {
		return
	}
	for _, i := range list.Items {
		if time.Since(time.Unix(i.Created, 0)) > age {
			engine.ImageRemove(ctx, i.ID, client.ImageRemoveOptions{PruneChildren: true})
		}
	}
}

// validBase keeps what reaches a Dockerfile's FROM to the characters of an image's name.
var validBase = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_.:/@-]{0,254}$`)

// validVersion keeps what reaches a Dockerfile's commands to what needs no quotes there.
var validVersion = regexp.MustCompile(`^[0-9A-Za-z_.+-]{1,100}$`)

// checkArchitecture compares before hundreds of megabytes are sent what would fail
// after that. A base that is not there yet is the engine's to fetch.
func checkArchitecture(ctx context.Context, engine *client.Client, arch, base string) error {
	v, err := engine.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return fmt.Errorf("asking the engine for its version: %w", err)
	}
	if v.Arch != arch {
		return hub.Hint(fmt.Errorf("%w: the claude CLI is for %s, the engine for %s", hub.ErrInvalid, arch, v.Arch),
			"build on the machine that the image is for")
	}
	there, err := engine.ImageInspect(ctx, base)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("looking at the base image %s: %w", base, err)
	case there.Architecture != arch:
		return hub.Hint(fmt.Errorf("%w: the base image %s is for %s, the engine for %s", hub.ErrInvalid, base, there.Architecture, arch),
			"remove it and pull the one for this machine, or name another with --base")
	}
	return nil
}

func build(ctx context.Context, engine *client.Client, k Kind, o Options, p program) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		w.CloseWithError(writeContext(w, k, p))
	}()
	defer func() { // the engine may answer, or go, before it has read everything
		r.Close()
		<-sent
	}()
	result, err := engine.ImageBuild(ctx, r, client.ImageBuildOptions{
		Tags:        []string{Name(k, o.Version)},
		Dockerfile:  contextDockerfile,
		BuildArgs:   map[string]*string{"BASE": &o.Base, "CLAUDE_VERSION": &o.Version, "HUB_VERSION": &o.HubVersion},
		NoCache:     o.Fresh,
		Remove:      true,
		ForceRemove: true,
	})
	if err != nil {
		return explain(err, o.Base, Progress{}, nil)
	}
	defer result.Body.Close()
	return follow(result.Body, o.Base, func(p Progress) {
		p.Kind = k
		if o.Progress != nil {
			o.Progress(p)
		}
	})
}

// errBuild is a failure that the engine told of.
var errBuild = errors.New("the engine says")

// explain adds what can be done about a failed build. at is how far it got, said
// the last lines of its output.
func explain(err error, base string, at Progress, said []string) error {
	text := strings.ToLower(err.Error() + "\n" + strings.Join(said, "\n"))
	has := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	hint := "`claude-hub image build --verbose` shows all that the engine says"
	switch {
	case has("no space left on device"):
		hint = "make room where the engine keeps its images (`docker system prune`), and build again"
	case has("exec format error", "wrong architecture", "does not match the specified platform"):
		hint = "the base image is for another kind of processor: pull the one for this machine, or name another with --base"
	case at.Step <= 2 && has("no such image", "not found", "pull access denied", "manifest unknown", "dial tcp", "lookup ", "no such host",
		"did not resolve", "connection refused", "access to the resource is denied", "unable to pull", "initializing source", "timeout", "registry"):
		return hub.Hint(fmt.Errorf("%w: there is no base image %s, and the engine can't fetch it: %w", hub.ErrNotFound, base, err),
			fmt.Sprintf("have the engine get it (`docker pull %s`), or name one that is there with --base", base))
	case has("apt-get: not found", "apt-get: command not found", "apt-get\": executable file not found", "useradd: not found"):
		hint = "the base image has no apt-get: name one with --base that is made from Debian or Ubuntu"
	case has("could not resolve", "temporary failure resolving", "unable to fetch", "unable to connect", "failed to fetch"):
		hint = "containers of this engine don't reach the package archive: look at its network and proxy settings"
	}
	for _, line := range said {
		err = fmt.Errorf("%w\n    %s", err, line)
	}
	return hub.Hint(err, hint)
}

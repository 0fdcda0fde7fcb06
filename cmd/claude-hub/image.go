package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker/image"
	"github.com/claude-hub/claude-hub/internal/secret"
)

func (a *app) imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Build and inspect the container images of sign-ins and jobs", Args: args(cobra.NoArgs)}
	c.AddCommand(a.imageBuildCommand(), a.imageInspectCommand())
	return c
}

// engineFlag adds --engine to c and returns where its value goes.
func engineFlag(c *cobra.Command) *string {
	engine := c.Flags().String("engine", "", "docker or podman; without it, the first of the two that answers")
	c.RegisterFlagCompletionFunc("engine", cobra.FixedCompletions([]string{docker.KindDocker, docker.KindPodman}, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // it fails only for a flag that isn't there
	return engine
}

// dialEngine returns a client of the engine of that kind, or of the first one
// that answers where kind is "".
func (a *app) dialEngine(ctx context.Context, kind string) (*client.Client, error) {
	switch kind {
	case docker.KindDocker, docker.KindPodman:
		return docker.Dial(ctx, kind, "", a.environ)
	case "":
	default:
		return nil, hub.Hint(usageError{fmt.Errorf("--engine %q is neither docker nor podman", kind)}, "see `claude-hub image build --help`")
	}
	c, err := docker.Dial(ctx, docker.KindDocker, "", a.environ)
	if err == nil {
		return c, nil
	}
	if c, podmanErr := docker.Dial(ctx, docker.KindPodman, "", a.environ); podmanErr == nil {
		return c, nil
	}
	return nil, err
}

func (a *app) imageBuildCommand() *cobra.Command {
	var base string
	var fresh, verbose bool
	c := &cobra.Command{
		Use:   "build [setup|agent]...",
		Short: "Build the images, or one of them, with the hub's own claude CLI in it",
		Long: `Builds the image for sign-ins (setup) and the image for jobs (agent) on the
machine's container engine. Both are made of debian:bookworm-slim or the image
that --base names, Debian's packages, and the claude CLI that the hub has
installed. No login gets into them.`,
		ValidArgs: []string{string(image.Setup), string(image.Agent)},
		Args:      args(cobra.OnlyValidArgs),
	}
	engine := engineFlag(c)
	c.Flags().StringVar(&base, "base", image.DefaultBase, "the image to build on: any that is made from Debian or Ubuntu")
	c.Flags().BoolVar(&fresh, "fresh", false, "use nothing of earlier builds, so that the newest packages get in")
	c.Flags().BoolVar(&verbose, "verbose", false, "print all that the engine says")
	c.RunE = func(c *cobra.Command, kinds []string) error {
		h, err := a.openHome()
		if err != nil {
			return err
		}
		options := image.Options{HubVersion: version(), Base: base, Fresh: fresh}
		if options.CLI, options.Version, err = h.agentIdentity(c.Context()); err != nil {
			return err
		}
		engine, err := a.dialEngine(c.Context(), *engine)
		if err != nil {
			return err
		}
		defer engine.Close()
		return a.buildImages(c.Context(), engine, kinds, options, verbose)
	}
	return c
}

// agentIdentity returns the path of the installed CLI and its version.
func (h *home) agentIdentity(ctx context.Context) (path, version string, err error) {
	if path, err = h.agentPath(); err != nil {
		return "", "", err
	}
	known, err := identify(ctx, h.dir, path)
	return path, known.Version, err
}

// builtImage is what --json says of a build.
type builtImage struct {
	Kind    image.Kind `json:"kind"`
	Name    string     `json:"name"`
	Seconds float64    `json:"seconds"`
}

func (a *app) buildImages(ctx context.Context, engine *client.Client, kinds []string, o image.Options, verbose bool) error {
	built := []builtImage{}
	for _, k := range image.Kinds() {
		if len(kinds) > 0 && !slices.Contains(kinds, string(k)) {
			continue
		}
		bar := &buildProgress{a: a, verbose: verbose}
		o.Progress = bar.show
		start := time.Now()
		err := image.Build(ctx, engine, k, o)
		bar.clear()
		if err != nil {
			return err
		}
		b := builtImage{Kind: k, Name: image.Name(k, o.Version), Seconds: time.Since(start).Round(100 * time.Millisecond).Seconds()}
		built = append(built, b)
		if !a.json {
			fmt.Fprintf(a.stdout, "%s is built, in %.1f s.\n", b.Name, b.Seconds)
		}
	}
	if a.json {
		return a.printJSON(built)
	}
	return nil
}

// buildProgress shows a build on standard error: on a terminal one line that
// changes, elsewhere a line for each step, and with --verbose everything.
type buildProgress struct {
	a       *app
	verbose bool
	step    int
	shown   bool
}

func (b *buildProgress) show(p image.Progress) {
	text := fmt.Sprintf("%s %d/%d  %s", p.Kind, p.Step, p.Of, p.Text)
	out := secret.NewWriter(b.a.stderr)
	switch {
	case b.verbose:
		fmt.Fprintf(out, "%s\n", printable(text, 1000))
	case isTerminal(b.a.stderr):
		fmt.Fprintf(b.a.stderr, "\r\x1b[K%s", printable(string(secret.Scrub([]byte(text))), b.a.width()-2))
		b.shown = true
	case p.Step > b.step && !b.a.json:
		b.step = p.Step
		fmt.Fprintf(out, "%s\n", printable(text, 100))
	}
}

func (b *buildProgress) clear() {
	if b.shown {
		fmt.Fprint(b.a.stderr, "\r\x1b[K")
	}
}

// width is that of the terminal at standard error, 80 where it is none.
func (a *app) width() int {
	if f, ok := a.stderr.(interface{ Fd() uintptr }); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			return w
		}
	}
	return 80
}

func (a *app) imageInspectCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect",
		Short: "Show the hub's images on the engine: size, claude version, packages, and whether they are stale",
		Args:  args(cobra.NoArgs),
	}
	engine := engineFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		h, err := a.openHome()
		if err != nil {
			return err
		}
		_, version, err := h.agentIdentity(c.Context())
		if err != nil {
			return err
		}
		engine, err := a.dialEngine(c.Context(), *engine)
		if err != nil {
			return err
		}
		defer engine.Close()
		images, err := image.Inspect(c.Context(), engine, version)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(images)
		}
		return a.showImages(images)
	}
	return c
}

func (a *app) showImages(images []image.Info) error {
	if len(images) == 0 {
		fmt.Fprintln(a.stdout, "The engine has no image of claude-hub's.")
		a.printHint("build them with `claude-hub image build`")
		return nil
	}
	for _, i := range images {
		state, packages := a.style(a.stdout, green, "current"), strconv.Itoa(i.Packages)+" (`claude-hub image inspect --json` lists them)"
		if i.Stale != "" {
			state = a.style(a.stdout, yellow, "stale") + ": " + printable(i.Stale, 300)
		}
		if i.Problem != "" {
			packages = "unknown: " + printable(i.Problem, 300)
		}
		name := printable(strings.Join(i.Names, ", "), 300)
		if name == "" {
			name = printable(i.ID, 100)
		}
		_, err := fmt.Fprintf(a.stdout, "%s\n  %s\n  %d MB, built %s on %s by claude-hub %s\n  claude %s\n  packages: %s\n", a.style(a.stdout, bold, name), state,
			i.Size/1e6, ago(now(), i.Created), printable(i.Base, 100), printable(i.HubVersion, 60), printable(i.AgentVersion, 60), packages)
		if err != nil {
			return err
		}
	}
	return nil
}

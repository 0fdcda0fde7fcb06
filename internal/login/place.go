package login

import (
	"context"
	"io"
	"os/exec"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// Place is where the CLI runs while it signs in: [Here] or a [Box]. It gets a
// scratch home there, and what it writes into it is read on this side, however
// the place came to its end.
type Place interface {
	// Name tells the owner where that is, such as "in a container".
	Name() string
	// start runs what build returns for the paths that the CLI and its home have
	// there, on a terminal of the given size, and copies what that shows to screen.
	// It returns when it runs; the caller must end it, also when ctx has ended.
	start(ctx context.Context, home *scratch, w work) (program, error)
}

// work is what a place is to run.
type work struct {
	build  func(bin, home string) agent.Command
	more   map[string]string // what its environment needs beyond that
	size   sandbox.Size
	screen io.Writer
}

// Here is this machine, without walls: the CLI runs as the hub's user.
type Here struct {
	// Agent is the path of the claude CLI.
	Agent string
	// Environ is the environment of which the CLI gets the harmless part.
	Environ []string
}

// Name is "here".
func (h *Here) Name() string { return "here" }

func (h *Here) start(_ context.Context, home *scratch, w work) (program, error) {
	c := w.build(h.Agent, home.home())
	cmd := exec.Command(c.Args[0], c.Args[1:]...) // ended by program.end, in order
	cmd.Dir = home.home()
	cmd.Env = c.Environ(h.Environ, w.more)
	p, err := startProgram(cmd, w.size, w.screen)
	if err != nil {
		return nil, err // not p, which would be an interface that holds nil
	}
	return p, nil
}

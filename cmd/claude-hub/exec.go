package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
)

func (a *app) execCommand() *cobra.Command {
	var limits limitOptions
	var lifetime time.Duration
	c := &cobra.Command{
		Use:   "exec [flags] -- CMD [ARG ...]",
		Short: "Run any command with a lease instead of a login in its environment",
		Long: `Runs CMD with ANTHROPIC_BASE_URL set to a gateway on loopback and
CLAUDE_CODE_OAUTH_TOKEN set to a lease token, which works there only and dies
with CMD. Other credentials of the provider are taken out of its environment.
There is no sandbox: CMD has your files and your network. Exits with CMD's code.`,
		Example: `  claude-hub exec -- claude -p "summarise README.md"
  claude-hub exec --max-cost 2 -- ./nightly.sh`,
		Args: args(wantAtLeast("CMD")),
	}
	profile := a.profileFlag(c)
	limits.flags(c.Flags())
	c.Flags().DurationVar(&lifetime, "lifetime", 0, "how long the lease lives, at most (default: the profile's timeout, or 24h)")
	c.Flags().SetInterspersed(false)
	c.RunE = func(c *cobra.Command, argv []string) error {
		name, err := hub.ParseProfileName(*profile)
		if err != nil {
			return err
		}
		l, err := limits.limits()
		if err != nil {
			return err
		}
		l.Lifetime = lifetime
		return a.exec(c.Context(), api.LeaseRequest{Profile: name, Limits: l}, argv)
	}
	return c
}

func (a *app) exec(ctx context.Context, req api.LeaseRequest, argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return hub.Hint(fmt.Errorf("finding the command: %w", err), "name a program on PATH, or its path")
	}
	e, err := a.openEngine(ctx)
	if err != nil {
		return err
	}
	defer e.Close()
	lease, err := e.Lease(context.WithoutCancel(ctx), req) // it lives until the command ends, whatever signals come
	if err != nil {
		return err
	}
	defer lease.Close()
	cmd := exec.Command(path, argv[1:]...) //nolint:noctx // it gets the signals itself, and decides
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	cmd.Env = agent.ExecEnviron(a.environ, lease.URL(), lease.Token())
	return runForwarding(cmd)
}

// runForwarding runs cmd, passes the signals that end a program on to it, and
// returns its exit code. The terminal's own Ctrl-C reaches cmd from the kernel;
// this process only has to live on until cmd has ended.
func runForwarding(cmd *exec.Cmd) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the command: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s != os.Interrupt || !isTerminal(cmd.Stdin) {
				cmd.Process.Signal(s) // it may have ended
			}
		case err := <-ended:
			return commandStatus(err)
		}
	}
}

func commandStatus(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exitStatus(128 + int(ws.Signal()))
	}
	return exitStatus(exit.ExitCode())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/server"
)

func (a *app) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Keep every login fresh, and carry out the runs of other processes",
		Long: `Runs until it is told to stop. Refreshes every login before it expires, and
answers on hub.sock in the hub's directory: run, exec and cancel of other
processes go through it while it is there. At listen in config.yaml or in
CLAUDE_HUB_LISTEN (default 127.0.0.1:3002, "off" for nowhere) it serves a page for
sign-ins, whose operator is who opens a link from claude-hub operator.

claude-hub install prints a systemd unit, or a compose file, that runs it.`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return a.serve(c.Context()) },
	}
}

func (a *app) serve(ctx context.Context) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	unlock, err := lockDaemon(h.dir)
	if err != nil {
		return err
	}
	defer unlock()
	// Whoever reads the log may go away, such as a pager or a restarted journal:
	// that is no reason to end every run.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)
	log := slog.New(slog.NewTextHandler(secret.NewWriter(a.stderr), nil))
	defer outliveHelpers(log)
	// Before all else: no container engine or agent that hangs may let a login expire.
	refresher, err := a.newRefresher(h, log)
	if err != nil {
		return err
	}
	defer refresher.Stop()
	if err := refresher.Start(ctx); err != nil {
		return err
	}
	e, err := a.newEngine(ctx, h, refresher, log)
	if err != nil {
		return err
	}
	defer e.Close()
	defer a.sweepAll(ctx, h, log)()
	cfg := server.Config{Socket: socketPath(h.dir), Engine: e, Version: version(), Log: log}
	page, err := a.openPage(h, refresher, log)
	if err != nil {
		return err
	}
	if page != nil {
		cfg.Page = page
		log.Info("serving the operator's page", "url", page.URL(), "listen", page.Addr())
	}
	defer page.Close()
	wake, stopTelling := a.startTelling(h, e, log)
	defer stopTelling()
	e.wake = wake
	stopRuns := e.parkRuns(log)
	defer stopRuns()
	stopPruning, err := e.pruneDaily(log)
	if err != nil {
		return err
	}
	defer stopPruning()
	s, err := server.New(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	log.Info("serving", "socket", socketPath(h.dir), "pid", os.Getpid(), "version", version())
	<-ctx.Done()
	log.Info("stopping")
	stopRuns()
	return errors.Join(page.Close(), s.Close()) // whoever signs in is told that it's the hub that stops
}

// lockDaemon makes this process the directory's only daemon until unlock is
// called or the process ends. The refused one says who holds it.
func lockDaemon(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "serve.lock")
	lock := flock.New(path, flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	if !ok {
		holder, _ := readSmall(path)
		return nil, hub.Hint(fmt.Errorf("%w: a daemon serves %s already (%s)", hub.ErrLocked, dir, strings.TrimSpace(holder)),
			"stop that one first, or set CLAUDE_HUB_DIR to another hub")
	}
	words := fmt.Sprintf("pid %d, since %s\n", os.Getpid(), now().Format("2006-01-02 15:04:05Z"))
	if err := os.WriteFile(path, []byte(words), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("writing %s: %w", path, err), lock.Unlock())
	}
	return func() { lock.Unlock() }, nil // the kernel does it at the latest
}

func readSmall(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, 200))
	return string(data), err
}

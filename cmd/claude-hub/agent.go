package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/agent"
)

func (a *app) agentCommand() *cobra.Command {
	c := &cobra.Command{Use: "agent", Short: "Install and check the claude CLI", Args: args(cobra.NoArgs)}
	c.AddCommand(a.agentInstallCommand(), a.agentCheckCommand())
	return c
}

func (a *app) agentInstallCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Fetch the tested version of the claude CLI with npm, into the hub's directory",
		Args:  args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := a.openHome()
			if err != nil {
				return err
			}
			path, err := agent.Install(c.Context(), h.dir, a.stderr)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(agentState{Path: path, Version: agent.TestedVersion, Tested: agent.TestedVersion})
			}
			_, err = fmt.Fprintf(a.stdout, "claude %s is at %s.\n", agent.TestedVersion, path)
			return err
		},
	}
}

func (a *app) agentCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Prove that the installed claude CLI keeps to what the hub relies on",
		Args:  args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := a.openHome()
			if err != nil {
				return err
			}
			path, err := h.agentPath()
			if err != nil {
				return err
			}
			if err := agent.Canary(c.Context(), path); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%s passes.\n", path)
			return err
		},
	}
}

// agentState is what there is to say of the installed CLI.
type agentState struct {
	Path    string `json:"path,omitempty"`
	Version string `json:"version,omitempty"`
	Tested  string `json:"tested"`
	Warning string `json:"warning,omitempty"`
}

func (h *home) agentState(ctx context.Context) agentState {
	s := agentState{Tested: agent.TestedVersion}
	path, err := h.agentPath()
	if err == nil {
		s.Path = path
		s.Version, err = agent.Version(ctx, path)
	}
	switch {
	case err != nil:
		s.Warning = err.Error()
	case s.Version != s.Tested:
		s.Warning = "this version is not the tested one: it is used as long as it passes `claude-hub agent check`"
	}
	return s
}

// checkAgent passes the tested version of the CLI as it is, and any other if a
// canary shows that it still keeps to what the hub relies on.
func checkAgent(ctx context.Context, dir, path string) error {
	v, err := agent.Version(ctx, path)
	if err != nil {
		return err
	}
	if v == agent.TestedVersion {
		return nil
	}
	return canaryOnce(ctx, dir, path)
}

// passed is the file that remembers which CLI has passed the canary: a binary is
// told from another by path, size and time of its last change.
type passed struct {
	Path    string `json:"path"`
	Size    int64  `json:"size"`
	Changed int64  `json:"changed"` // Unix nanoseconds
}

// canaryOnce runs the canary against a CLI that has not passed it yet.
func canaryOnce(ctx context.Context, dir, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("looking at the claude CLI: %w", err)
	}
	now := passed{path, info.Size(), info.ModTime().UnixNano()}
	memory := filepath.Join(dir, "agent-passed.json")
	if before, err := readPassed(memory); err != nil || before == now {
		return err
	}
	if err := agent.Canary(ctx, path); err != nil {
		return err
	}
	data, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return renameio.WriteFile(memory, data, 0o600)
}

// readPassed returns the zero value where nothing has passed yet, or where the
// file is not what it should be: then the canary is run again.
func readPassed(path string) (passed, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return passed{}, nil
	}
	if err != nil {
		return passed{}, fmt.Errorf("reading which claude CLI has passed: %w", err)
	}
	defer file.Close()
	var p passed
	if json.NewDecoder(io.LimitReader(file, 64<<10)).Decode(&p) != nil {
		return passed{}, nil
	}
	return p, nil
}

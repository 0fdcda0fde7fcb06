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
	"github.com/claude-hub/claude-hub/internal/hub"
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
			if a.json {
				return a.printJSON(h.agentState(c.Context()))
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
		var known knownAgent
		known, err = identify(ctx, h.dir, path)
		s.Version = known.Version
	}
	switch {
	case err != nil:
		s.Warning = err.Error()
		if hint := hub.HintOf(err); hint != "" {
			s.Warning += ": " + hint
		}
	case s.Version != s.Tested:
		s.Warning = "this version is not the tested one: it is used as long as it passes `claude-hub agent check`"
	}
	return s
}

// checkAgent passes the tested version of the CLI as it is, and any other if a
// canary shows that it still keeps to what the hub relies on.
func checkAgent(ctx context.Context, dir, path string) error {
	known, err := identify(ctx, dir, path)
	if err != nil || known.Version == agent.TestedVersion || known.Passed {
		return err
	}
	if err := agent.Canary(ctx, path); err != nil {
		return err
	}
	known.Passed = true
	return known.remember(dir)
}

// knownAgent is what is remembered of a CLI, so that it isn't started to be asked
// again. A changed binary is told by its size and time.
type knownAgent struct {
	Path    string `json:"path"` // without links
	Size    int64  `json:"size"`
	Changed int64  `json:"changed"` // Unix nanoseconds
	Version string `json:"version"`
	Passed  bool   `json:"passed_canary,omitempty"`
}

// identify returns what is known of the CLI at path, asking it if need be.
func identify(ctx context.Context, dir, path string) (knownAgent, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return knownAgent{}, fmt.Errorf("looking at the claude CLI: %w", err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return knownAgent{}, fmt.Errorf("looking at the claude CLI: %w", err)
	}
	k, err := recallAgent(dir)
	if err != nil || k.Path == real && k.Size == info.Size() && k.Changed == info.ModTime().UnixNano() && k.Version != "" {
		return k, err
	}
	k = knownAgent{Path: real, Size: info.Size(), Changed: info.ModTime().UnixNano()}
	if k.Version, err = agent.Version(ctx, path); err != nil {
		return k, err
	}
	return k, k.remember(dir)
}

func knownAgentPath(dir string) string { return filepath.Join(dir, "agent.json") }

func (k knownAgent) remember(dir string) error {
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return renameio.WriteFile(knownAgentPath(dir), data, 0o600)
}

// recallAgent returns the zero value where nothing is known, or where the file is
// not what it should be: then the CLI is asked again.
func recallAgent(dir string) (knownAgent, error) {
	file, err := os.Open(knownAgentPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return knownAgent{}, nil
	}
	if err != nil {
		return knownAgent{}, fmt.Errorf("reading what is known of the claude CLI: %w", err)
	}
	defer file.Close()
	var k knownAgent
	if json.NewDecoder(io.LimitReader(file, 64<<10)).Decode(&k) != nil {
		return knownAgent{}, nil
	}
	return k, nil
}

package main

import (
	"fmt"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/agent"
)

// now is the time in UTC, without the monotonic part that no record keeps.
func now() time.Time { return time.Now().UTC().Round(0) }

// version is the module's version, or the commit of a build from a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of claude-hub and of the claude CLI that it is tested with",
		Args:  args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(map[string]string{"version": version(), "tested_agent": agent.TestedVersion})
			}
			_, err := fmt.Fprintf(a.stdout, "claude-hub %s (tested with claude %s)\n", version(), agent.TestedVersion)
			return err
		},
	}
}

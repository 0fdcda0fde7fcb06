package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

var agentCheck = check{
	name: "claude CLI", group: "claude CLI", limit: 2 * time.Minute, once: true,
	looks: []Entry{
		{ID: "cli-missing", Level: LevelError, Meaning: "there is no claude CLI, or it does not start"},
		{ID: "cli-changed", Level: LevelError, Meaning: "the claude CLI does not keep to what the hub relies on: a flag or a habit of it has changed its meaning"},
		{ID: "cli-untested", Level: LevelWarning, Meaning: "the claude CLI is of another version than the tested one; it keeps to what the hub relies on"},
	},
	run: lookAtAgent,
}

const installAgent = "`claude-hub agent install` fetches the tested version"

// lookAtAgent asks the CLI itself, each time: what the hub remembers of it is of
// another day. The canary takes 1 to 2 s.
func lookAtAgent(ctx context.Context, p *patient) []Finding {
	path, err := agent.Find(p.Dir)
	if err != nil {
		return []Finding{{
			ID: "cli-missing", Level: LevelError,
			Symptom: fmt.Sprintf("there is no claude CLI: %v", err),
			Cause:   "it was not installed into the hub, and PATH has none",
			Fix:     installAgent,
		}}
	}
	version, err := agent.Version(ctx, path)
	if err != nil {
		return []Finding{{
			ID: "cli-missing", Level: LevelError,
			Symptom: fmt.Sprintf("%s does not work: %v", path, err),
			Cause:   "an incomplete installation, another program of that name, or a machine that it is not built for",
			Fix:     installAgent,
		}}
	}
	if err := agent.Canary(ctx, path); err != nil {
		cause := "this version means something else by its flags, or does more than it is asked"
		if !errors.Is(err, hub.ErrRefused) {
			cause = "it could not be tried out"
		}
		return []Finding{{ID: "cli-changed", Level: LevelError, Symptom: err.Error(), Cause: cause, Fix: installAgent}}
	}
	if version == agent.TestedVersion {
		return nil
	}
	return []Finding{{
		ID: "cli-untested", Level: LevelWarning,
		Symptom: fmt.Sprintf("the claude CLI at %s is version %s; the hub is tested with %s", path, version, agent.TestedVersion),
		Cause:   "another version is installed; it has just passed every check of what the hub relies on",
		Fix:     installAgent + ", if you want that one",
	}}
}

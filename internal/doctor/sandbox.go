package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

const groupSandbox = "sandbox and engine"

var sandboxCheck = check{
	name: "sandbox", group: groupSandbox, limit: time.Minute, once: true,
	looks: []Entry{
		{ID: "sandbox", Level: LevelError, Meaning: "nothing on this machine can confine a run"},
		{ID: "engine", Level: LevelError, Meaning: "the container engine that the settings ask for does not answer, or is of no use"},
	},
	run: lookAtSandboxes,
}

// lookAtSandboxes tries the drivers in their order until one works. One that the
// settings do not ask for is no concern as long as another does.
func lookAtSandboxes(ctx context.Context, p *patient) []Finding {
	if p.Sandboxes == nil {
		return nil
	}
	var failures []string
	hint := "sudo apt-get install bubblewrap"
	for _, s := range p.Sandboxes() {
		err := s.Check(ctx)
		switch {
		case err == nil:
			return nil
		case s.Engine && errors.Is(err, hub.ErrNotFound) && s.Wanted:
			return nil // the engine answers; the image check says what is missing
		case s.Wanted && s.Engine:
			return []Finding{{
				ID: "engine", Level: LevelError,
				Symptom: fmt.Sprintf("%s, which the settings ask for, can't be used: %v", s.Name, err),
				Cause:   "the engine is not running, DOCKER_HOST or its context leads elsewhere, or this user may not talk to it",
				Fix:     hintOr(err, fmt.Sprintf("`systemctl status %s`; or choose another in config.yaml (`sandbox: auto`)", s.Name)),
			}}
		}
		if len(failures) == 0 {
			hint = hintOr(err, hint)
		}
		failures = append(failures, fmt.Sprintf("%s: %v", s.Name, err))
		if s.Wanted {
			break
		}
	}
	return []Finding{{
		ID: "sandbox", Level: LevelError,
		Symptom: "no run can be confined here: " + strings.Join(failures, "; "),
		Cause:   "what it takes is not installed, or the kernel does not let this user make namespaces",
		Fix:     hint,
	}}
}

var imageCheck = check{
	name: "images", group: groupSandbox, hub: true, limit: 30 * time.Second,
	looks: []Entry{
		{ID: "image-missing", Level: LevelError, Meaning: "the image that containers are made of is not there"},
		{ID: "image-stale", Level: LevelWarning, Meaning: "the image that containers are made of is of another version of the hub or the CLI"},
	},
	run: lookAtImages,
}

func lookAtImages(ctx context.Context, p *patient) []Finding {
	if p.Images == nil {
		return nil
	}
	var found []Finding
	for _, i := range p.Images(ctx) {
		switch {
		case i.Err != nil:
			found = append(found, Finding{
				ID: "image-missing", Level: LevelError,
				Symptom: fmt.Sprintf("the image %s can't be used: %v", i.Name, i.Err),
				Cause:   "it was not built on this machine, or the engine's images were removed",
				Fix:     hintOr(i.Err, "build it with `claude-hub image build`"),
			})
		case i.Stale != "":
			found = append(found, Finding{
				ID: "image-stale", Level: LevelWarning,
				Symptom: fmt.Sprintf("the image %s is out of date: %s", i.Name, i.Stale),
				Cause:   "the hub or the CLI was updated since it was built",
				Fix:     "build it anew with `claude-hub image build`",
			})
		}
	}
	return found
}

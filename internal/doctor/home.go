package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// path returns the path of something in the hub's directory.
func (p *patient) path(elements ...string) string {
	return filepath.Join(append([]string{p.Dir}, elements...)...)
}

func (p *patient) keyPath() string { return cmp.Or(p.KeyFile, p.path("key")) }

// getenv returns the last value of a variable in the environment looked at.
func (p *patient) getenv(name string) string {
	value := ""
	for _, kv := range p.Environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			value = v
		}
	}
	return value
}

// isHub reports whether there is a directory that is not known to be empty.
func isHub(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	entries, err := os.ReadDir(path)
	return err != nil || len(entries) > 0
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// quote makes a path safe to paste into a shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%", r)
	}
	if s != "" && s[0] != '-' && strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// hintOr returns err's hint, or what else there is to say.
func hintOr(err error, otherwise string) string {
	if hint := hub.HintOf(err); hint != "" {
		return hint
	}
	return otherwise
}

const groupHub = "hub directory"

var homeCheck = check{
	name: "hub", group: groupHub,
	looks: []Entry{{ID: "hub-missing", Level: LevelError, Meaning: "there is no hub where CLAUDE_HUB_DIR leads: never made, another place, or a volume that is not mounted"}},
	run:   lookAtHome,
}

func lookAtHome(_ context.Context, p *patient) []Finding {
	f := Finding{ID: "hub-missing", Level: LevelError, Fix: "`claude-hub init` makes one; if yours is elsewhere, set CLAUDE_HUB_DIR to it"}
	info, err := os.Stat(p.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Symptom = fmt.Sprintf("there is no hub at %s", p.Dir)
		f.Cause = "`claude-hub init` was not run, or CLAUDE_HUB_DIR leads elsewhere"
	case err != nil:
		f.Symptom = fmt.Sprintf("the hub's directory can't be looked at: %v", err)
		f.Cause = "a directory above it is closed to this user, or its disk is in trouble"
		f.Fix = "run as the user whom the hub belongs to"
	case !info.IsDir():
		f.Symptom = fmt.Sprintf("%s is not a directory", p.Dir)
		f.Cause = "CLAUDE_HUB_DIR leads to a file"
		f.Fix = "set CLAUDE_HUB_DIR to the hub's directory"
	default:
		entries, err := os.ReadDir(p.Dir)
		if err != nil || len(entries) > 0 {
			return nil
		}
		f.Symptom = fmt.Sprintf("%s is empty", p.Dir)
		f.Cause = "`claude-hub init` was not run, or this is the mount point of a volume that is not there (an engine makes an empty directory of a path that it can't find)"
		f.Fix = "compare the left side of the mount with the hub's real path; for a new hub, `claude-hub init`"
	}
	return []Finding{f}
}

var configCheck = check{
	name: "settings", group: groupHub, hub: true,
	looks: []Entry{{ID: "config-invalid", Level: LevelError, Meaning: "config.yaml can't be read or says what nobody understands"}},
	run:   lookAtConfig,
}

func lookAtConfig(_ context.Context, p *patient) []Finding {
	_, err := p.settings()
	if err == nil {
		return nil
	}
	return []Finding{{
		ID: "config-invalid", Level: LevelError,
		Symptom: fmt.Sprintf("the settings can't be used: %v", err),
		Cause:   "a key that is unknown, a value of the wrong form, or a file that this user may not read",
		Fix:     hintOr(err, "mend "+p.path("config.yaml")),
	}}
}

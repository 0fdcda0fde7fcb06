package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/hub"
)

var scratchCheck = check{
	name: "leftovers", group: groupLogin, hub: true,
	looks: []Entry{
		{ID: "signin-leftover", Level: LevelWarning, Fixable: true, Meaning: "a sign-in was killed, and its scratch home, which may hold a login in plain, is still there"},
		{ID: "refresh-kept", Level: LevelWarning, Meaning: "an answer of the platform that could not be committed was kept for a person to look at"},
	},
	run: lookAtScratch,
}

const (
	signInPrefix = "signin-"
	keptPrefix   = "kept-"
)

func lookAtScratch(_ context.Context, p *patient) []Finding {
	var found []Finding
	var homes []string
	entries, _ := os.ReadDir(p.path("login")) // none before the first sign-in
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), signInPrefix) && !isLocked(p.path("login", e.Name())) {
			homes = append(homes, e.Name())
		}
	}
	if len(homes) > 0 {
		found = append(found, Finding{
			ID: "signin-leftover", Level: LevelWarning,
			Symptom: fmt.Sprintf("%d sign-ins were killed and left their scratch homes in %s", len(homes), p.path("login")),
			Cause:   "the terminal was closed by force, or the machine died; such a home may hold a login in plain",
			Fix:     "the next `claude-hub login` removes them",
			repair:  func(context.Context) (string, error) { return p.removeHomes(homes) },
		})
	}
	kept, _ := filepath.Glob(filepath.Join(escapeGlob(p.path("refresh")), "*", keptPrefix+"*"))
	if len(kept) > 0 {
		found = append(found, Finding{
			ID: "refresh-kept", Level: LevelWarning,
			Symptom: fmt.Sprintf("%d answers of the platform were kept: %s", len(kept), some(kept)),
			Cause:   "two writers rotated one login, or the vault could not be written; the kept one may hold the tokens that are good",
			Fix:     "sign in again with `claude-hub login`: the next refresh then removes them",
		})
	}
	return found
}

// escapeGlob has a directory's name stand for itself in a pattern.
func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// removeHomes removes scratch homes as a sign-in does: with the lock of their
// parent, which whoever makes one holds, and that of each.
func (p *patient) removeHomes(names []string) (string, error) {
	root, err := p.openHub()
	if err != nil {
		return "", err
	}
	defer root.Close()
	parent, err := lockDir(p.path("login"))
	if err != nil {
		return "", err
	}
	defer parent.Close()
	for i, name := range names {
		home, err := lockDir(p.path("login", name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = root.RemoveAll(filepath.Join("login", name))
			home.Close()
		}
		if err != nil {
			return fmt.Sprintf("removed %d of %d scratch homes", i, len(names)), err
		}
	}
	return fmt.Sprintf("removed %d scratch homes of dead sign-ins", len(names)), nil
}

func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %s is in use: %w", hub.ErrLocked, path, err)
	}
	return f, nil
}

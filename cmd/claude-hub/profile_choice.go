package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// profileVariable names the profile where the command line doesn't.
const profileVariable = "CLAUDE_HUB_PROFILE"

// chooseProfile settles which profile c is about: what --profile says, else what
// CLAUDE_HUB_PROFILE says, else what `profile default` has set, else "default".
// Where --profile only narrows what is shown, the last two don't count.
func (a *app) chooseProfile(c *cobra.Command) error {
	f := c.Flags().Lookup("profile")
	if f == nil {
		return nil
	}
	if !f.Changed && (f.DefValue != "" || a.getenv(profileVariable) != "") {
		name, err := a.unsaidProfile(c.Context())
		if err != nil {
			return err
		}
		if err := f.Value.Set(string(name)); err != nil {
			return err
		}
	}
	a.profile = f.Value.String()
	if a.profile == "" && f.DefValue == "" {
		return nil
	}
	_, err := hub.ParseProfileName(a.profile) // before the command asks for anything else
	return err
}

// unsaidProfile returns the profile for where the command line names none.
func (a *app) unsaidProfile(ctx context.Context) (hub.ProfileName, error) {
	if s := a.getenv(profileVariable); s != "" {
		name, err := hub.ParseProfileName(s)
		if err != nil {
			return "", fmt.Errorf("reading the variable %s: %w", profileVariable, err)
		}
		return name, nil
	}
	dir, err := a.hubDir()
	if err != nil {
		return hub.DefaultProfile, nil //nolint:nilerr // the command itself will say so
	}
	if id, err := readDefault(dir); err != nil || id == "" {
		return hub.DefaultProfile, err
	}
	h, err := a.openHome()
	if err != nil {
		return hub.DefaultProfile, nil //nolint:nilerr // likewise
	}
	p, err := h.defaultProfile(ctx)
	return p.Name, err
}

// defaultProfile returns the profile that `profile default` has set, as it is
// named now. Without one, or when it has been removed, only the name is set, and
// it is hub.DefaultProfile, whether there is such a profile or not.
func (h *home) defaultProfile(ctx context.Context) (hub.Profile, error) {
	none := hub.Profile{Name: hub.DefaultProfile}
	id, err := readDefault(h.dir)
	if err != nil || id == "" {
		return none, err
	}
	p, err := h.vault.ProfileByID(ctx, id)
	if errors.Is(err, hub.ErrNotFound) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("finding the default profile: %w", err)
	}
	return p, nil
}

func defaultPath(dir string) string { return filepath.Join(dir, "default-profile") }

// readDefault returns the ID that is set, "" if none is.
func readDefault(dir string) (hub.ProfileID, error) {
	f, err := os.Open(defaultPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the default profile: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 100))
	if err != nil {
		return "", fmt.Errorf("reading the default profile: %w", err)
	}
	id := strings.TrimSuffix(string(text), "\n")
	rest, ok := strings.CutPrefix(id, "p-")
	if !ok || rest == "" || len(rest) > 40 || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return "", hub.Hint(fmt.Errorf("%w: %s holds no profile's ID", hub.ErrFormat, f.Name()), "set it again with `claude-hub profile default NAME`")
	}
	return hub.ProfileID(id), nil
}

// setDefault makes id the default profile. It is an ID and not a name, so that a
// change of the name changes nothing else.
func (h *home) setDefault(id hub.ProfileID) error {
	err := renameio.WriteFile(defaultPath(h.dir), []byte(id+"\n"), 0o600, renameio.WithStaticPermissions(0o600))
	if err != nil {
		return fmt.Errorf("setting the default profile: %w", err)
	}
	return nil
}

// unsetDefault has "default" be the default profile again, if id is it.
func (h *home) unsetDefault(id hub.ProfileID) error {
	if was, err := readDefault(h.dir); err != nil || was != id {
		return nil //nolint:nilerr // a setting that can't be read is not this one, and whoever uses it is told
	}
	return h.forgetDefault()
}

// forgetDefault removes what setDefault has set.
func (h *home) forgetDefault() error {
	if err := os.Remove(defaultPath(h.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the setting of the default profile: %w", err)
	}
	return nil
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/store"
	"github.com/claude-hub/claude-hub/internal/vault"
)

func (a *app) initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make the hub's directory, its key and its vault",
		Long: `Makes $CLAUDE_HUB_DIR (default ~/.claude-hub) with a new key and an empty vault.
What is there already is kept: init never overwrites a key.

Keep a copy of the key file somewhere safe: without it, nobody can open the vault.`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return a.init(c) },
	}
}

func (a *app) init(c *cobra.Command) error {
	dir, err := a.hubDir()
	if err != nil {
		return err
	}
	if path := a.getenv("CLAUDE_HUB_KEY_FILE"); path != "" {
		return hub.Hint(usageError{fmt.Errorf("CLAUDE_HUB_KEY_FILE names %s, and init makes its key in the hub's directory", path)},
			"unset it for init, then move the file `key` out of the hub's directory to where your secrets are")
	}
	old := login.DetectOld(dir)
	if err := makeHome(c.Context(), dir); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"dir": dir, "key": keyPath(dir), "old_capture": old})
	}
	fmt.Fprintf(a.stdout, "The hub is at %s.\nIts key is %s: keep a copy somewhere safe.\n", dir, keyPath(dir))
	if !old {
		fmt.Fprintf(a.stdout, "\nNext: %s\n", a.style(a.stdout, bold, "claude-hub login"))
		return nil
	}
	fmt.Fprintf(a.stdout, "\nThere is a plain captured login in this directory, as an older claude-hub left it.\n")
	if a.confirm("Import it into the vault now?") {
		return a.importDir(c.Context(), dir, string(hub.DefaultProfile))
	}
	fmt.Fprintf(a.stdout, "Import it with: %s\n", a.style(a.stdout, bold, "claude-hub import "+dir))
	return nil
}

// makeHome makes what is missing, the key last: a directory without a key is one
// whose init was cut short, and the next init goes on.
func makeHome(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the hub's directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("closing the hub's directory to others: %w", err)
	}
	if _, err := os.Lstat(keyPath(dir)); err == nil {
		return hub.Hint(fmt.Errorf("%w: there is a hub at %s", hub.ErrExists, dir), "go on with `claude-hub login` or `claude-hub status`")
	}
	if err := writeConfigTemplate(configPath(dir)); err != nil {
		return err
	}
	if err := vault.Init(vaultPath(dir)); err != nil && !errors.Is(err, hub.ErrExists) {
		return err
	}
	runs, err := store.Create(ctx, storePath(dir))
	if err == nil {
		err = runs.Close()
	}
	if err != nil && !errors.Is(err, hub.ErrExists) {
		return err
	}
	_, err = vault.CreateKey(keyPath(dir))
	return err
}

func writeConfigTemplate(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("writing the settings: %w", err)
	}
	_, err = file.WriteString(configTemplate)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("writing the settings: %w", err)
	}
	return nil
}

// confirm asks a yes-or-no question. Without a terminal the answer is no.
func (a *app) confirm(question string) bool {
	if !isTerminal(a.stdin) {
		return false
	}
	fmt.Fprintf(a.stdout, "%s [y/N] ", question)
	line, _ := bufio.NewReader(a.stdin).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}

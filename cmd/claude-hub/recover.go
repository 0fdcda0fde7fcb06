package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/vault"
)

func (a *app) recoverCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "recover IDENTITY VAULT",
		Short: "Take over a vault whose key is lost, with a recovery key",
		Long: `Reads every record of another hub's vault with the secret half of one of its
recovery_recipients (the file that age-keygen wrote), and keeps it in this hub's
vault, under this hub's key.
Recover only from a directory that you trust, and sign in again afterwards: the
lost key may be in other hands.`,
		Example: `  mv ~/.claude-hub ~/.claude-hub.lost
  claude-hub init
  claude-hub recover recovery-key.txt ~/.claude-hub.lost/vault`,
		Args: args(want("IDENTITY", "VAULT")),
		RunE: func(c *cobra.Command, args []string) error { return a.recover(c.Context(), args[0], args[1]) },
	}
}

func (a *app) recover(ctx context.Context, identity, lost string) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	from, err := vault.Open(lost)
	if err != nil {
		return err
	}
	key, err := os.Open(identity)
	if err != nil {
		return fmt.Errorf("reading the recovery key: %w", err)
	}
	defer key.Close()
	n, err := vault.Recover(ctx, from, key, h.vault)
	if err != nil {
		return fmt.Errorf("%d records recovered: %w", n, err)
	}
	if a.json {
		return a.printJSON(map[string]int{"recovered": n})
	}
	_, err = fmt.Fprintf(a.stdout, "%s %d records recovered. Now sign in again with `claude-hub login`.\n", a.style(a.stdout, green, "✓"), n)
	return err
}

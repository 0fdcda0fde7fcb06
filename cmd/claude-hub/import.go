package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/bundle"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
)

func (a *app) importCommand() *cobra.Command {
	var from []string
	c := &cobra.Command{
		Use:   "import DIR|BUNDLE",
		Short: "Take over a bundle of another hub, or a login captured by copying ~/.claude",
		Long: `Takes over a bundle that ` + "`claude-hub export`" + ` made for this hub ("-" reads it from
standard input). The profile keeps its name, unless --profile gives it another.
The sender must be trusted: named with --from, or in trusted_senders in
config.yaml. A bundle that moves the login makes this hub its only writer; it can
be imported once, and nothing older of that login after it.

Or takes over a captured config directory: a copy of ~/.claude, the home that holds
one, or an older project's ~/.claude-hub. The files there stay as they are. As
long as something else uses the same login, each will sign the other out; a fresh
` + "`claude-hub login`" + ` is better.`,
		Args:              args(want("DIR|BUNDLE")),
		ValidArgsFunction: firstArg(completePaths),
	}
	profile := a.profileFlag(c)
	c.Flags().StringSliceVar(&from, "from", nil, "the sender of the bundle, hubsig1…, as `claude-hub key show` prints it there")
	c.RunE = func(c *cobra.Command, args []string) error {
		sealed, err := a.openBundle(args[0])
		if err != nil {
			return err
		}
		if sealed == nil {
			if len(from) > 0 {
				return fmt.Errorf("%w: --from is for a bundle, and %s is a directory", hub.ErrInvalid, args[0])
			}
			return a.importDir(c.Context(), args[0], *profile)
		}
		defer sealed.Close()
		name := ""
		if c.Flags().Changed("profile") || a.getenv(profileVariable) != "" {
			name = *profile
		}
		return a.importBundle(c.Context(), sealed, name, from)
	}
	return c
}

// completePaths offers files and directories.
func completePaths(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

func (a *app) importDir(ctx context.Context, dir, profile string) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	l, err := a.newLogin(h, "", 0)
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("finding %s: %w", dir, err)
	}
	return a.capture(ctx, h, profile, func(p hub.Profile) (login.Result, error) { return l.Import(ctx, p, abs) })
}

// openBundle opens a file that begins as a bundle does, or standard input; nil for
// anything else, which is no bundle.
func (a *app) openBundle(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(a.stdin), nil
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil // a directory, or its reader says what is wrong
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the bundle: %w", err)
	}
	buffered := bufio.NewReader(f)
	if prefix, _ := buffered.Peek(64); !bundle.IsBundle(prefix) { // an error is the reader's again
		f.Close()
		return nil, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{buffered, f}, nil
}

func (a *app) importBundle(ctx context.Context, sealed io.Reader, name string, from []string) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	for _, sender := range slices.Concat(from, h.config.TrustedSenders) {
		if _, err := bundle.ParseSender(sender); err != nil {
			return err
		}
	}
	if len(from) == 0 {
		from = h.config.TrustedSenders
	}
	c, stop, err := a.newCarrier(h)
	if err != nil {
		return err
	}
	defer stop()
	parcel, err := c.Open(sealed, from)
	if err != nil {
		return err
	}
	if name == "" {
		name = string(parcel.Profile.Name)
	}
	p, isNew, err := h.forBundle(ctx, parcel, name)
	if err != nil {
		return err
	}
	result, err := c.Import(ctx, parcel, p)
	if err != nil {
		if isNew {
			err = errors.Join(err, a.removeEmpty(context.WithoutCancel(ctx), h, p))
		}
		return err
	}
	return a.showImport(p, result)
}

// forBundle returns the profile that a bundle is imported to, and makes it if it
// is new: with the policy that it had at the sender.
func (h *home) forBundle(ctx context.Context, parcel *bundle.Parcel, name string) (p hub.Profile, isNew bool, err error) {
	p, err = h.profile(ctx, name)
	if !errors.Is(err, hub.ErrNotFound) {
		return p, false, err
	}
	p = hub.Profile{ID: hub.NewProfileID(), Name: hub.ProfileName(name), Created: now(), Policy: parcel.Profile.Policy}
	return p, true, h.vault.CreateProfile(ctx, p)
}

func (a *app) showImport(p hub.Profile, r bundle.Imported) error {
	if a.json {
		return a.printJSON(map[string]any{
			"profile": p, "bundle": r.Bundle, "sender": r.Sender, "moved": r.Moves, "generation": r.Generation, "files": r.Files,
			"setup_token": r.SetupToken, "subscription": r.Plan, "access_expires": r.AccessExpires, "login_expires": r.LoginExpires,
		})
	}
	fmt.Fprintf(a.stdout, "%s The login is in the vault, as profile %q.\n", a.style(a.stdout, green, "✓"), p.Name)
	if r.Plan != "" {
		fmt.Fprintf(a.stdout, "  plan   %s\n", printable(r.Plan, 40))
	}
	if r.Moves {
		fmt.Fprintf(a.stdout, "  until  %s\n", loginExpiry(now(), r.LoginExpires))
		fmt.Fprintln(a.stdout, "  This hub is its only writer now.")
	} else {
		fmt.Fprintf(a.stdout, "  until  %s: the access token came alone and is not refreshed here\n", expiry(now(), r.AccessExpires))
	}
	return nil
}

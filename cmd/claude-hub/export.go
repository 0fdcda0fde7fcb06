package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/bundle"
	"github.com/claude-hub/claude-hub/internal/hub"
)

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Show by what other hubs know this one", Args: args(cobra.NoArgs)}
	c.AddCommand(&cobra.Command{
		Use:   "show",
		Short: "Print this hub's recipient (bundles are made for it) and sender (bundles are signed by it)",
		Long: `Prints the two public halves of this hub's key. Neither is a secret.

  recipient  give it to the hub that exports: claude-hub export --to age1…
  sender     give it to the hub that imports: claude-hub import --from hubsig1…

Compare them by a way that nobody can tamper with.`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			h, err := a.openHome()
			if err != nil {
				return err
			}
			sender := bundle.FormatSender(h.key.SigningKey())
			if a.json {
				return a.printJSON(map[string]string{"recipient": h.key.Recipient(), "sender": sender})
			}
			return a.table([][]string{{"recipient", h.key.Recipient()}, {"sender", sender}})
		},
	})
	return c
}

// newCarrier returns what carries logins into and out of this hub. stop ends what
// it needs.
func (a *app) newCarrier(h *home) (c *bundle.Carrier, stop func(), err error) {
	r, err := a.newRefresher(h, a.log())
	if err != nil {
		return nil, nil, err
	}
	c, err = bundle.New(bundle.Config{
		Vault: h.vault, Key: h.key, Dir: h.dir,
		Hold: func(ctx context.Context, id hub.ProfileID) (bundle.Hold, error) { return r.Hold(ctx, id) },
	})
	return c, r.Stop, err
}

type exportOptions struct {
	profile    *string
	to         []string
	move       bool
	accessOnly time.Duration
	out        string
	takeBack   bool
	yes        bool
}

func (a *app) exportCommand() *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export --to RECIPIENT (--move | --access-only TTL)",
		Short: "Hand a login over to another hub, or lend it its access token",
		Long: `Writes a profile's login as a bundle: encrypted to the hubs named with --to (what
` + "`claude-hub key show`" + ` prints there as recipient), signed by this one, to be taken
over there with ` + "`claude-hub import`" + `.

--move hands the writer's role over. The refresh token, the captured config
directory and the setup token, if there is one, go along, to one hub. From then on
this hub neither refreshes nor serves the login, whatever becomes of the bundle;
runs here end with "login required", or use the setup token. The same command again
writes the same bundle again. --take-back cancels a move whose bundle was never
imported anywhere. Destroy that bundle then: were it imported later, there would be
two writers.

--access-only TTL lends the access token alone (and the config directory): until it
expires, at most for the TTL, and until this hub rotates it, which ends it early.

There is no third way. A refresh token is good for one use: of two hubs that hold
one login, the first to refresh it spends the token, the other then shows a spent
one, and the provider ends the login for both.`,
		Example: `  claude-hub export --to age1… --move --out staging.bundle
  claude-hub export --to age1… --access-only 2h | ssh ci claude-hub import --from hubsig1… -`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.takeBack {
				return a.takeBack(c.Context(), o)
			}
			return a.export(c.Context(), o)
		},
	}
	o.profile = a.profileFlag(c)
	c.Flags().StringSliceVar(&o.to, "to", nil, "recipient of a hub that may import the bundle, age1…")
	c.Flags().BoolVar(&o.move, "move", false, "hand over the writer's role: this hub refreshes the login no more")
	c.Flags().DurationVar(&o.accessOnly, "access-only", 0, "lend the access token alone, for so long at most")
	c.Flags().StringVarP(&o.out, "out", "o", "-", "the new file to write the bundle to")
	c.Flags().BoolVar(&o.takeBack, "take-back", false, "cancel a move whose bundle was never imported")
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "with --take-back: do not ask")
	c.MarkFlagsMutuallyExclusive("take-back", "move")
	c.MarkFlagsMutuallyExclusive("take-back", "access-only")
	c.MarkFlagsMutuallyExclusive("take-back", "to")
	return c
}

func (a *app) export(ctx context.Context, o exportOptions) error {
	order := bundle.Order{To: o.to, Move: o.move, AccessOnly: o.accessOnly}
	if err := order.Check(); err != nil {
		return err
	}
	write, err := a.bundleWriter(o.out)
	if err != nil {
		return err
	}
	order.Write = write
	h, err := a.openHome()
	if err != nil {
		return err
	}
	if order.Profile, err = h.signedIn(ctx, *o.profile); err != nil {
		return err
	}
	if err := a.freshen(ctx, h, order.Profile, o.move); err != nil {
		return err
	}
	c, stop, err := a.newCarrier(h)
	if err != nil {
		return err
	}
	defer stop()
	result, err := c.Export(ctx, order)
	if err != nil {
		return err
	}
	return a.showExport(o.out, result)
}

// freshen refreshes a login that is about to leave, if that is due, and finishes
// what was interrupted. One that was moved before is left alone.
func (a *app) freshen(ctx context.Context, h *home, p hub.Profile, again bool) error {
	r, err := a.newRefresher(h, a.log())
	if err != nil {
		return err
	}
	defer r.Stop()
	s, err := r.Status(ctx, p.ID)
	if err != nil || again && s.HandedOver != nil {
		return err
	}
	if s.Generation != 0 && !s.SignedIn && s.HandedOver == nil {
		return nil // an access token that came alone
	}
	_, err = r.Refresh(ctx, p.ID, false)
	return err
}

// bundleWriter returns what writes a bundle, once it is sure that it could: to a
// new file, or to standard output.
func (a *app) bundleWriter(out string) (func([]byte) error, error) {
	if out != "-" {
		path, err := filepath.Abs(out)
		if err != nil {
			return nil, fmt.Errorf("finding %s: %w", out, err)
		}
		return func(b []byte) error { return bundle.WriteFile(path, b) }, bundle.CheckFile(path)
	}
	switch {
	case a.json:
		return nil, hub.Hint(fmt.Errorf("%w: the bundle and JSON can't both go to standard output", hub.ErrInvalid), "name a file with --out")
	case isTerminal(a.stdout):
		return nil, hub.Hint(fmt.Errorf("%w: a bundle is nothing for a terminal", hub.ErrInvalid), "name a file with --out, or redirect standard output")
	}
	return func(b []byte) error {
		if _, err := a.stdout.Write(b); err != nil {
			return fmt.Errorf("writing the bundle: %w", err)
		}
		if f, ok := a.stdout.(*os.File); ok {
			_ = f.Sync() // a pipe can't
		}
		return nil
	}, nil
}

// showExport talks on standard error: the bundle may be on standard output.
func (a *app) showExport(out string, e bundle.Exported) error {
	if a.json {
		return a.printJSON(map[string]any{
			"bundle": e.Bundle, "sender": e.Sender, "recipients": e.Recipients, "profile": e.Profile, "generation": e.Generation,
			"moved": e.Moves, "ends": e.Ends, "file": out, "again": e.Again,
		})
	}
	tick := a.style(a.stderr, green, "✓")
	where := ""
	if out != "-" {
		where = " in " + out
	}
	if e.Moves {
		again := ""
		if e.Again {
			again = ", as before"
		}
		fmt.Fprintf(a.stderr, "%s The login of %q is moved%s: bundle %s%s.\n", tick, e.Profile.Name, again, e.Bundle, where)
		fmt.Fprintf(a.stderr, "  This hub neither refreshes nor serves it any more. The bundle is the login: destroy it once it is imported.\n")
	} else {
		fmt.Fprintf(a.stderr, "%s The access token of %q is lent until %s: bundle %s%s.\n", tick, e.Profile.Name, e.Ends.Local().Format("2006-01-02 15:04"), e.Bundle, where)
		fmt.Fprintf(a.stderr, "  The next refresh here ends it earlier. The platform accepts it until its own end, whatever the bundle says.\n")
	}
	fmt.Fprintf(a.stderr, "\nNext, there: %s\n", a.style(a.stderr, bold, "claude-hub import --from "+e.Sender+" BUNDLE"))
	return nil
}

func (a *app) takeBack(ctx context.Context, o exportOptions) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	p, err := h.profile(ctx, *o.profile)
	if err != nil {
		return err
	}
	const risk = "If its bundle was imported anywhere, or ever will be, there are two writers from now on, and the provider ends the login for both."
	if !o.yes && !a.confirm(fmt.Sprintf("%s\nTake the login of %q back?", risk, p.Name)) {
		return hub.Hint(fmt.Errorf("%w: nothing was taken back. %s", hub.ErrCancelled, risk), "add --yes if the bundle was never imported and is destroyed")
	}
	c, stop, err := a.newCarrier(h)
	if err != nil {
		return err
	}
	defer stop()
	handover, err := c.TakeBack(ctx, p)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"profile": p, "taken_back": handover})
	}
	fmt.Fprintf(a.stderr, "%s %s\n", a.style(a.stderr, yellow, "warning:"), risk+" Destroy the bundle "+handover.Bundle+".")
	_, err = fmt.Fprintf(a.stdout, "%s This hub refreshes and serves the login of %q again, which was moved to %s.\n",
		a.style(a.stdout, green, "✓"), p.Name, strings.Join(handover.To, ", "))
	return err
}

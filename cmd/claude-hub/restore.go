package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/bundle"
	"github.com/claude-hub/claude-hub/internal/hub"
)

type restoreOptions struct {
	profile   *string
	fullLogin bool
	owner     string
	force     bool
}

func (a *app) restoreCommand() *cobra.Command {
	var o restoreOptions
	c := &cobra.Command{
		Use:   "restore DIR",
		Short: "Write the captured config directory with an access token, for other tools",
		Long: `Writes a profile's captured config directory to DIR, which must not exist or be
empty, with a credential file, for tools that are started with
CLAUDE_CONFIG_DIR=DIR. Files have mode 0600 and directories 0700.

The credential file holds the access token alone: it is good until that expires or
this hub rotates it, a few hours. Restore it again then, or give the tool a lease
instead, which is better: ` + "`claude-hub exec`" + `.

--with-refresh-token writes the whole login and so makes a second writer. The first
of the two to refresh it ends the login for the other one, and in time for both. The
hub remembers that it did this, and ` + "`claude-hub status`" + ` says so.

--force replaces DIR if it is a config directory with a credential file: all that is
in it is gone, and whoever looks sees the old one or the new one.`,
		Args:              args(want("DIR")),
		ValidArgsFunction: firstArg(completeDirs),
		RunE:              func(c *cobra.Command, args []string) error { return a.restore(c.Context(), args[0], o) },
	}
	o.profile = a.profileFlag(c)
	c.Flags().BoolVar(&o.fullLogin, "with-refresh-token", false, "write the whole login: a second writer")
	c.Flags().StringVar(&o.owner, "owner", "", "who owns it, USER[:GROUP] (needs root; default: you)")
	c.Flags().BoolVar(&o.force, "force", false, "replace a config directory that is there, all of it")
	return c
}

func (a *app) restore(ctx context.Context, dir string, o restoreOptions) error {
	uid, gid, err := parseOwner(o.owner)
	if err != nil {
		return err
	}
	h, err := a.openHome()
	if err != nil {
		return err
	}
	p, err := h.signedIn(ctx, *o.profile)
	if err != nil {
		return err
	}
	if err := a.freshen(ctx, h, p, false); err != nil {
		return err
	}
	c, stop, err := a.newCarrier(h)
	if err != nil {
		return err
	}
	defer stop()
	r, err := c.Restore(ctx, bundle.Restore{Profile: p, Dir: dir, FullLogin: o.fullLogin, Replace: o.force, UID: uid, GID: gid})
	if err != nil {
		return err
	}
	warning := fmt.Sprintf("%s holds the real access token of %q: whoever reads it is signed in as you, until the token ends.", r.Dir, p.Name)
	if r.FullLogin {
		warning = fmt.Sprintf("%s is a SECOND WRITER of the login of %q. As soon as the CLI refreshes it there, the hub's is dead, and the other way round; "+
			"the provider then ends it for both. Whoever reads it has your login. Don't use both: `claude-hub export --move` hands a login over.", r.Dir, p.Name)
	}
	fmt.Fprintf(a.stderr, "%s %s\n", a.style(a.stderr, yellow, "warning:"), warning)
	if a.json {
		return a.printJSON(r)
	}
	fmt.Fprintf(a.stdout, "%s %d files and the credential file are in %s.\n", a.style(a.stdout, green, "✓"), r.Files, r.Dir)
	fmt.Fprintf(a.stdout, "  access  %s\n\nUse it with CLAUDE_CONFIG_DIR=%s\n", expiry(now(), r.AccessExpires), r.Dir)
	return nil
}

// parseOwner reads USER[:GROUP], names or numbers. Without a group it is the
// user's own; -1 is whoever runs this.
func parseOwner(owner string) (uid, gid int, err error) {
	if owner == "" {
		return -1, -1, nil
	}
	if os.Geteuid() != 0 {
		return 0, 0, hub.Hint(fmt.Errorf("%w: only root can give files to others", hub.ErrInvalid), "leave out --owner, or run it as root")
	}
	name, group, hasGroup := strings.Cut(owner, ":")
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	switch number, nerr := strconv.ParseUint(name, 10, 31); {
	case err == nil:
		uid, err = strconv.Atoi(u.Uid)
		if g, gerr := strconv.Atoi(u.Gid); gerr == nil {
			gid = g
		}
	case nerr == nil && hasGroup: // a user of a container, say
		uid, err = int(number), nil
	default:
		return 0, 0, hub.Hint(fmt.Errorf("%w: there is no user %.80q here", hub.ErrInvalid, name), "give USER, or UID:GID as numbers")
	}
	if err != nil || !hasGroup {
		return uid, gid, err
	}
	g, gerr := user.LookupGroup(group)
	number, nerr := strconv.ParseUint(group, 10, 31)
	switch {
	case gerr == nil:
		gid, err = strconv.Atoi(g.Gid)
	case nerr == nil:
		gid = int(number)
	default:
		return 0, 0, hub.Hint(fmt.Errorf("%w: there is no group %.80q here", hub.ErrInvalid, group), "give its name, or its GID as a number")
	}
	return uid, gid, err
}

package bundle

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// maxRecipients bounds for how many hubs one bundle is.
const maxRecipients = 16

// Order says what is to leave, and to whom.
type Order struct {
	Profile hub.Profile
	To      []string // recipients; a move has one
	// Move hands over the writer's role: the refresh token goes along, and this
	// hub refreshes and serves the login no more.
	Move bool
	// AccessOnly sends the access token alone, for so long at most. Zero with Move.
	AccessOnly time.Duration
	// Write takes the bundle, durably, all or nothing. Until it returns without an
	// error the bundle may be there or not; the same order again writes it again.
	Write func(sealed []byte) error
}

// Exported is what has left.
type Exported struct {
	Header
	Files bool `json:"-"` // the captured config directory went along
	Again bool `json:"-"` // a move that was ordered before
}

// Check returns what is wrong with an order, before anything is done for it.
func (o Order) Check() error {
	if o.Move == (o.AccessOnly != 0) {
		return hub.Hint(fmt.Errorf("%w: neither --move nor --access-only, or both. %s", hub.ErrInvalid, twoWriters),
			"hand the login over with --move, or lend its access token for a while with --access-only 2h")
	}
	if o.AccessOnly < 0 {
		return fmt.Errorf("%w: --access-only %v is no time at all", hub.ErrInvalid, o.AccessOnly)
	}
	if len(o.To) == 0 {
		return hub.Hint(fmt.Errorf("%w: nobody is named that the bundle is for", hub.ErrInvalid),
			"add --to with the recipient that `claude-hub key show` prints on the hub that is to import")
	}
	for _, to := range o.To {
		if _, err := ParseRecipient(to); err != nil {
			return err
		}
	}
	if to := distinct(o.To); o.Move && len(to) > 1 {
		return hub.Hint(fmt.Errorf("%w: a login can be moved to one hub, not to %d. %s", hub.ErrInvalid, len(to), twoWriters), "name one with --to")
	} else if len(to) > maxRecipients {
		return fmt.Errorf("%w: %d recipients (%d are allowed)", hub.ErrInvalid, len(to), maxRecipients)
	}
	return nil
}

// twoWriters is why there is no third way.
const twoWriters = "A refresh token is good for one use: of two hubs that hold a login, the first to refresh it spends the token, " +
	"the other then shows a spent one, and the provider ends the login for both"

func distinct(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// Export makes a bundle. For a move, the handover is durable before the bundle is
// written: a crash in between loses nothing, because the same order again makes
// the same bundle (same ID, sender, recipient and contents).
func (c *Carrier) Export(ctx context.Context, o Order) (Exported, error) {
	if err := o.Check(); err != nil {
		return Exported{}, err
	}
	o.To = distinct(o.To)
	if slices.Contains(o.To, c.cfg.Key.Recipient()) {
		return Exported{}, hub.Hint(fmt.Errorf("%w: the recipient is this hub itself", hub.ErrInvalid), "name another hub's")
	}
	hold, err := c.cfg.Hold(ctx, o.Profile.ID)
	if err != nil {
		return Exported{}, err
	}
	defer hold.Release()
	l, err := c.readLogin(ctx, o.Profile.ID)
	if err != nil {
		return Exported{}, err
	}
	if l.gen == 0 {
		return Exported{}, hub.Hint(fmt.Errorf("%w: profile %q has no login", hub.ErrLoginRequired, o.Profile.Name), "sign in with `claude-hub login`")
	}
	if l.handover.Holds(l.gen) {
		return c.moveAgain(ctx, o, l)
	}
	if err := c.mayLeave(o, l, hold); err != nil {
		return Exported{}, err
	}
	e := Exported{Header: Header{
		Bundle: "b-" + strings.ToLower(rand.Text()[:16]), Recipients: o.To, Created: c.cfg.Now().UTC().Truncate(time.Millisecond),
		Moves: o.Move, Profile: o.Profile, Generation: l.gen,
	}}
	if !o.Move {
		e.Ends = l.cred.ExpiresAt.UTC()
		if end := e.Created.Add(o.AccessOnly); end.Before(e.Ends) {
			e.Ends = end
		}
	}
	sealed, err := c.sealLogin(ctx, &e, l)
	if err != nil {
		return Exported{}, err
	}
	if o.Move {
		h := hub.Handover{Generation: l.gen, To: o.To, At: e.Created, Bundle: e.Bundle}
		if err := c.step("handover", func() error { return c.commitHandover(ctx, o.Profile.ID, l, h) }); err != nil {
			return Exported{}, err
		}
	}
	return e, c.write(o, sealed)
}

// mayLeave says why a login can't leave now.
func (c *Carrier) mayLeave(o Order, l login, hold Hold) error {
	now := c.cfg.Now()
	switch {
	case o.Move && l.cred.RefreshToken.IsZero():
		return hub.Hint(fmt.Errorf("%w: profile %q has no refresh token that could be moved: its access token came alone", hub.ErrRefused, o.Profile.Name),
			"move it from the hub that refreshes it")
	case l.ended(now):
		return hub.Hint(fmt.Errorf("%w: the login has reached the end of its life", hub.ErrLoginRequired), "sign in with `claude-hub login`")
	case o.Move:
		return hold.Settled(l.gen)
	case !now.Before(l.cred.ExpiresAt):
		return hub.Hint(fmt.Errorf("%w: the access token has expired", hub.ErrLoginRequired), "refresh it with `claude-hub refresh`")
	}
	return nil
}

// moveAgain makes the bundle of a handover once more.
func (c *Carrier) moveAgain(ctx context.Context, o Order, l login) (Exported, error) {
	if !o.Move {
		return Exported{}, l.moved()
	}
	if !slices.Equal(o.To, distinct(l.handover.To)) {
		return Exported{}, hub.Hint(fmt.Errorf("%w: the login was moved to %s (bundle %s) already", hub.ErrRefused, strings.Join(l.handover.To, ", "), l.handover.Bundle),
			"make that bundle again with the same --to; or, if it was never imported, `claude-hub export --take-back` first")
	}
	e := Exported{Again: true, Header: Header{
		Bundle: l.handover.Bundle, Recipients: o.To, Created: l.handover.At, Moves: true, Profile: o.Profile, Generation: l.gen,
	}}
	sealed, err := c.sealLogin(ctx, &e, l)
	if err != nil {
		return Exported{}, err
	}
	return e, c.write(o, sealed)
}

func (c *Carrier) write(o Order, sealed []byte) error {
	err := c.step("write", func() error { return o.Write(sealed) })
	if err != nil && o.Move {
		return hub.Hint(fmt.Errorf("the login is moved, but its bundle was not written: %w", err),
			"the same command writes it again; `claude-hub export --take-back` has this hub keep the login")
	}
	return err
}

// sealLogin gathers what belongs to the login and seals it.
func (c *Carrier) sealLogin(ctx context.Context, e *Exported, l login) ([]byte, error) {
	parts := []record{{hub.KindLogin, l.payload}}
	kinds := []hub.Kind{hub.KindAccount, hub.KindSetupToken, hub.KindSnapshot}
	if !e.Moves {
		cred := l.cred.WithoutRefreshToken()
		cred.ExpiresAt = e.Ends
		payload, err := cred.Encode()
		if err != nil {
			return nil, err
		}
		parts[0].payload = payload
		kinds = []hub.Kind{hub.KindAccount, hub.KindSnapshot} // a setup token lives a year
	}
	for _, kind := range kinds {
		rec, err := c.cfg.Vault.Latest(ctx, e.Profile.ID, kind)
		if errors.Is(err, hub.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the %s: %w", kind, err)
		}
		parts = append(parts, record{kind, rec.Payload})
		e.Files = e.Files || kind == hub.KindSnapshot
	}
	e.Sender = FormatSender(c.cfg.Key.SigningKey())
	return seal(c.cfg.Key, e.Header, parts)
}

// commitHandover makes h the newest record of l's leaving. The full copies that
// were left before go along in it.
func (c *Carrier) commitHandover(ctx context.Context, profile hub.ProfileID, l login, h hub.Handover) error {
	snapshot, err := c.cfg.Vault.Generation(ctx, profile, hub.KindSnapshot)
	if err != nil {
		return fmt.Errorf("noting that the login leaves: %w", err)
	}
	h.Copies = slices.DeleteFunc(l.handover.SharedCopies(l.gen, snapshot), func(before hub.Copy) bool { return h.Shared && slices.Contains(h.To, before.To) })
	payload, err := h.Encode()
	if err != nil {
		return err
	}
	if _, err := c.commit(ctx, profile, hub.KindHandover, payload); err != nil {
		return fmt.Errorf("noting that the login leaves: %w", err)
	}
	return nil
}

// TakeBack makes this hub the login's writer again, at the owner's word that the
// bundle was never imported: if it was, there are two writers from now on. It
// returns the handover that has ended; hub.ErrNotFound if the login is not moved.
func (c *Carrier) TakeBack(ctx context.Context, profile hub.Profile) (hub.Handover, error) {
	hold, err := c.cfg.Hold(ctx, profile.ID)
	if err != nil {
		return hub.Handover{}, err
	}
	defer hold.Release()
	l, err := c.readLogin(ctx, profile.ID)
	if err != nil {
		return hub.Handover{}, err
	}
	if !l.handover.Holds(l.gen) {
		return hub.Handover{}, hub.Hint(fmt.Errorf("%w: the login of profile %q is not moved to anybody", hub.ErrNotFound, profile.Name),
			"`claude-hub status` says how it is")
	}
	h := l.handover
	h.TakenBack = c.cfg.Now().UTC()
	if err := c.step("takeback", func() error { return c.commitHandover(ctx, profile.ID, l, h) }); err != nil {
		return hub.Handover{}, err
	}
	return h, nil
}

// CheckFile reports why path can't become a new file, by making and removing it:
// hub.ErrExists if it is there.
func CheckFile(path string) error {
	info, err := os.Stat(filepath.Dir(path))
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%w: %s is not a directory", hub.ErrInvalid, filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	if err := create(path, nil); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// WriteFile makes the new file path, 0600, durably and whole: it has its name only
// after its bytes are on the disk. Where the file system can't rename without
// replacing, a process that is killed may leave a part of it. hub.ErrExists if
// something is there.
func WriteFile(path string, data []byte) error { return writeFile(path, data, renameNew) }

func writeFile(path string, data []byte, rename func(from, to string) error) error {
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, ".claude-hub-bundle-*") // made 0600
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	defer os.Remove(temp.Name()) // gone already when all went well
	defer temp.Close()
	_, err = temp.Write(data)
	if err == nil {
		err = temp.Sync()
	}
	if err == nil {
		err = rename(temp.Name(), path)
	}
	switch {
	case errors.Is(err, syscall.EEXIST):
		return fileExists(path)
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EPERM):
		if err = errors.Join(temp.Close(), os.Remove(temp.Name())); err == nil { // there may not be room for both
			return errors.Join(create(path, data), syncDir(dir))
		}
	}
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	return syncDir(dir)
}

// renameNew gives a file its name in one step, and replaces nothing.
func renameNew(from, to string) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
}

// create makes the new file path, 0600, under its own name from the start. On an
// error there is none.
func create(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fileExists(path)
	}
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the bundle: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

func fileExists(path string) error {
	return hub.Hint(fmt.Errorf("%w: %s", hub.ErrExists, path), "name a new file, or remove that one")
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("making %s durable: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("making %s durable: %w", dir, err)
	}
	return nil
}

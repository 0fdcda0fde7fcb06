package bundle

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// Parcel is a bundle that was opened: it is whole, for this hub, and from a
// sender who is trusted.
type Parcel struct {
	Header
	parts []record
	cred  agent.Credentials
}

// Imported is what has come.
type Imported struct {
	Header
	Generation hub.Generation // here
	Files      int            // in the captured config directory
	SetupToken bool           // one came along, too
	Plan       string         // "" if not known

	AccessExpires time.Time
	LoginExpires  time.Time // zero if not known, and where the access token came alone
}

// Open reads a bundle and checks all of it that can be checked without the
// profile that it is for. Nothing is changed. What is wrong with it is
// hub.ErrFormat (damaged, newer), hub.ErrTooLarge, hub.ErrRefused (for others, or
// from somebody who is not trusted), or hub.ErrLoginRequired (its login has
// ended); trusted are senders as [FormatSender] gives them.
func (c *Carrier) Open(sealed io.Reader, trusted []string) (*Parcel, error) {
	h, parts, err := open(sealed, c.cfg.Key, trusted)
	if err != nil {
		return nil, err
	}
	p := &Parcel{Header: h, parts: parts}
	if p.cred, err = agent.ParseCredentials(p.part(hub.KindLogin)); err != nil {
		return nil, fmt.Errorf("reading the bundle's login: %w", err)
	}
	if h.Moves == p.cred.RefreshToken.IsZero() {
		return nil, damaged("its login is not what its header says")
	}
	now := c.cfg.Now()
	if !h.Moves && (p.cred.ExpiresAt.After(h.Ends.Add(time.Second)) || !p.cred.LoginExpiresAt.IsZero()) {
		return nil, damaged("its access token outlives what its header says")
	}
	if end := p.end(); !end.IsZero() && !now.Before(end) {
		return nil, hub.Hint(fmt.Errorf("%w: what the bundle holds ended on %s", hub.ErrLoginRequired, end.UTC().Format("2 January 2006 15:04 UTC")),
			"sign in with `claude-hub login`, or have another bundle made")
	}
	if token := p.part(hub.KindSetupToken); token != nil {
		if _, err := agent.ParseSetupToken(token); err != nil {
			return nil, fmt.Errorf("reading the bundle's setup token: %w", err)
		}
	}
	if account := p.part(hub.KindAccount); account != nil {
		if _, err := agent.ParseAccount(account); err != nil {
			return nil, fmt.Errorf("reading the bundle's account: %w", err)
		}
	}
	return p, nil
}

// end returns when nothing of the login is left; zero if not known.
func (p *Parcel) end() time.Time {
	if p.Moves {
		return p.cred.LoginExpiresAt
	}
	return p.Ends
}

// part returns a part's bytes, nil if there is none.
func (p *Parcel) part(kind hub.Kind) []byte {
	for _, r := range p.parts {
		if r.kind == kind {
			return r.payload
		}
	}
	return nil
}

// Import commits an opened bundle to a profile of this hub: one that is empty, or
// one with a login of the same account. Its order is: (1) prove that the captured
// directory unpacks; (2) keep refreshes out; (3) note durably that this bundle is
// being imported, so that no older state of the login and no second copy of this
// one comes after it; (4) commit the directory, the setup token and the account;
// (5) commit the login; (6) note that the import is done. Step 5 is the commit
// point: a crash before it leaves the old login, and the same import again goes
// on; a crash after it leaves the new one, and the import again says so. An error
// with a Generation says that the login is there all the same; one without leaves
// open whether it is, where the vault did not say.
func (c *Carrier) Import(ctx context.Context, p *Parcel, profile hub.Profile) (Imported, error) {
	files, err := checkSnapshot(p.part(hub.KindSnapshot))
	if err != nil {
		return Imported{}, err
	}
	hold, err := c.cfg.Hold(ctx, profile.ID)
	if err != nil {
		return Imported{}, err
	}
	defer hold.Release()
	if err := ctx.Err(); err != nil {
		return Imported{}, fmt.Errorf("%w: nothing was imported (%w)", hub.ErrCancelled, err)
	}
	ctx = context.WithoutCancel(ctx) // to its end, from here on
	before, err := c.readLogin(ctx, profile.ID)
	if err != nil {
		return Imported{}, err
	}
	e, seen, err := c.admit(ctx, p, profile, before.gen)
	if err != nil {
		return Imported{}, err
	}
	if resumed := seen != nil && seen.same(e); !resumed {
		if err := c.fits(ctx, p, profile, before); err != nil {
			return Imported{}, err
		}
	}
	if err := c.step("note", func() error { return c.note(ctx, e, seen) }); err != nil {
		return Imported{}, err
	}
	gen, err := c.commitParts(ctx, p, profile)
	if err != nil {
		return Imported{}, err
	}
	result := Imported{
		Header: p.Header, Generation: gen, Files: files, SetupToken: p.part(hub.KindSetupToken) != nil,
		Plan: p.cred.Subscription, AccessExpires: p.cred.ExpiresAt, LoginExpires: p.cred.LoginExpiresAt,
	}
	done := e
	done.Done = true
	if err := errors.Join(hold.Forget(), c.step("done", func() error { return c.note(ctx, done, &e) })); err != nil {
		return result, fmt.Errorf("the login is imported, as generation %d, but: %w", gen, err)
	}
	return result, nil
}

// checkSnapshot returns how many files a captured directory has, once it has
// proved that it can be unpacked. Nothing of it is written anywhere.
func checkSnapshot(snapshot []byte) (int, error) {
	if snapshot == nil {
		return 0, nil
	}
	m, err := archive.Check(bytes.NewReader(snapshot), archive.Limits{})
	if err != nil {
		return 0, fmt.Errorf("the bundle's config directory: %w", err)
	}
	return countFiles(m), nil
}

func countFiles(m archive.Manifest) int {
	n := 0
	for _, e := range m.Entries {
		if !e.Mode.IsDir() {
			n++
		}
	}
	return n
}

// commitParts commits the login last.
func (c *Carrier) commitParts(ctx context.Context, p *Parcel, profile hub.Profile) (hub.Generation, error) {
	var gen hub.Generation
	for _, kind := range []hub.Kind{hub.KindSnapshot, hub.KindSetupToken, hub.KindAccount, hub.KindLogin} {
		payload := p.part(kind)
		if payload == nil {
			continue
		}
		err := c.step(string(kind), func() (err error) {
			gen, err = c.commit(ctx, profile.ID, kind, payload)
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("keeping the %s: %w", kind, err)
		}
	}
	return gen, nil
}

// fits refuses to put a login into a profile that is another's, or to replace one
// that is refreshed here by an access token that ends.
func (c *Carrier) fits(ctx context.Context, p *Parcel, profile hub.Profile, before login) error {
	elsewhere := fmt.Sprintf("import it as a profile of its own: --profile with a name other than %q", profile.Name)
	if before.gen == 0 {
		spare, err := c.cfg.Vault.Generation(ctx, profile.ID, hub.KindSetupToken)
		if err != nil || spare == 0 {
			return err
		}
		return hub.Hint(fmt.Errorf("%w: profile %q has a setup token, and whose that is can't be told", hub.ErrExists, profile.Name), elsewhere)
	}
	if p.cred.AccountUUID == "" || before.cred.AccountUUID != p.cred.AccountUUID {
		return hub.Hint(fmt.Errorf("%w: profile %q has a login of another account, or of one that can't be told", hub.ErrExists, profile.Name), elsewhere)
	}
	own := !before.cred.RefreshToken.IsZero() && !before.handover.Holds(before.gen) && !before.ended(c.cfg.Now())
	if !p.Moves && own {
		return hub.Hint(fmt.Errorf("%w: profile %q has a login that is refreshed here, and the bundle has an access token that ends", hub.ErrExists, profile.Name), elsewhere)
	}
	return nil
}

// ledger is what the hub remembers of imports, as hub.KindImported: for each
// login of each sender the newest.
type ledger struct {
	Imports []entry `json:"imports"`
}

type entry struct {
	Sender string        `json:"sender"`
	Source hub.ProfileID `json:"source"` // the profile's ID at the sender

	Bundle     string         `json:"bundle"`
	Created    time.Time      `json:"created"`
	Generation hub.Generation `json:"generation"`      // at the sender
	Moved      hub.Generation `json:"moved,omitempty"` // the newest that came with its refresh token
	Imported   time.Time      `json:"imported"`

	Profile hub.ProfileID  `json:"profile"` // here
	Before  hub.Generation `json:"before"`  // of the login that was here then
	Done    bool           `json:"done,omitempty"`
}

// readLedger returns the ledger and its generation.
func (c *Carrier) readLedger(ctx context.Context) (ledger, hub.Generation, error) {
	rec, err := c.cfg.Vault.Latest(ctx, hub.HubRecords, hub.KindImported)
	if errors.Is(err, hub.ErrNotFound) {
		return ledger{}, 0, nil
	}
	var l ledger
	if err == nil {
		l, err = parseLedger(rec.Payload)
	}
	if err != nil {
		return ledger{}, 0, fmt.Errorf("reading what was imported before: %w", err)
	}
	return l, rec.Generation, nil
}

func parseLedger(b []byte) (ledger, error) {
	var l ledger
	if err := json.Unmarshal(b, &l); err != nil {
		return ledger{}, fmt.Errorf("%w: the record of imports is damaged", hub.ErrFormat)
	}
	return l, nil
}

func (l ledger) find(sender string, source hub.ProfileID) int {
	return slices.IndexFunc(l.Imports, func(e entry) bool { return e.Sender == sender && e.Source == source })
}

// admit returns the ledger's new entry for a bundle and the one that it replaces
// (nil if there is none), or why it may not be imported: because it or something
// newer was. The two are the same where this very import was begun before, did
// not come to its end, and finds the login as it was then.
func (c *Carrier) admit(ctx context.Context, p *Parcel, profile hub.Profile, before hub.Generation) (e entry, seen *entry, err error) {
	l, _, err := c.readLedger(ctx)
	if err != nil {
		return entry{}, nil, err
	}
	e = entry{
		Sender: p.Sender, Source: p.Profile.ID, Bundle: p.Bundle, Created: p.Created, Generation: p.Generation,
		Imported: c.cfg.Now().UTC(), Profile: profile.ID, Before: before,
	}
	if i := l.find(p.Sender, p.Profile.ID); i >= 0 {
		seen = &l.Imports[i]
		e.Moved = seen.Moved
	}
	if p.Moves {
		e.Moved = p.Generation
	}
	switch {
	case seen == nil:
		return e, nil, nil
	case seen.Bundle == p.Bundle && !seen.Done:
		return c.resume(ctx, p, e, seen)
	}
	return e, seen, seen.refuse(p)
}

// resume takes up an import that was interrupted.
func (c *Carrier) resume(ctx context.Context, p *Parcel, e entry, seen *entry) (entry, *entry, error) {
	if e.Profile != seen.Profile {
		there, err := c.cfg.Vault.Generation(ctx, seen.Profile, hub.KindProfile)
		if err != nil {
			return entry{}, nil, err
		}
		if there != 0 {
			return entry{}, nil, hub.Hint(fmt.Errorf("%w: this bundle is being imported as another profile, or was when that was interrupted", hub.ErrConflict),
				"name that profile again; `claude-hub profile list` shows them")
		}
		return e, seen, nil // taken back since, with whatever had come
	}
	came, err := c.came(ctx, p, seen, e.Before)
	if err != nil {
		return entry{}, nil, err
	}
	if came {
		done := *seen
		done.Done = true
		return entry{}, nil, errors.Join(seen.alreadyImported(), c.note(ctx, done, seen))
	}
	again := *seen
	again.Before = e.Before // another login may be here by now, so whether this one fits is asked again
	return again, seen, nil
}

// came reports whether the login of an import that was interrupted has come: one
// of the generations since holds it. That there are some tells nothing, because
// the login that was here may have been refreshed meanwhile.
func (c *Carrier) came(ctx context.Context, p *Parcel, seen *entry, newest hub.Generation) (bool, error) {
	for gen := newest; gen > seen.Before; gen-- {
		rec, err := c.cfg.Vault.Get(ctx, seen.Profile, hub.KindLogin, gen)
		if errors.Is(err, hub.ErrNotFound) {
			return false, hub.Hint(fmt.Errorf("%w: the import of bundle %s was interrupted on %s, and whether its login had come then can't be told any more",
				hub.ErrRefused, seen.Bundle, seen.Imported.UTC().Format("2 January 2006 15:04 UTC")), "have a new bundle made, or sign in with `claude-hub login`")
		}
		if err != nil {
			return false, fmt.Errorf("looking whether the bundle's login has come: %w", err)
		}
		if subtle.ConstantTimeCompare(rec.Payload, p.part(hub.KindLogin)) == 1 {
			return true, nil
		}
	}
	return false, nil
}

func (e entry) alreadyImported() error {
	return hub.Hint(fmt.Errorf("%w: bundle %s was imported on %s", hub.ErrRefused, e.Bundle, e.Imported.UTC().Format("2 January 2006 15:04 UTC")),
		"its tokens have moved on since; `claude-hub status` says how the login is")
}

// refuse says why a bundle can't come after e.
func (e entry) refuse(p *Parcel) error {
	const older = "its refresh token may be spent, and showing a spent one ends the login; have a new bundle made, or sign in with `claude-hub login`"
	switch {
	case p.Bundle == e.Bundle:
		return e.alreadyImported()
	case p.Generation < e.Generation, p.Moves && p.Generation <= e.Moved:
		return hub.Hint(fmt.Errorf("%w: the bundle holds generation %d of this login, and bundle %s with generation %d was imported before",
			hub.ErrRefused, p.Generation, e.Bundle, e.Generation), older)
	case !p.Created.After(e.Created):
		return hub.Hint(fmt.Errorf("%w: the bundle was made on %s, before bundle %s, which was imported", hub.ErrRefused,
			p.Created.UTC().Format("2 January 2006 15:04:05 UTC"), e.Bundle), older)
	}
	return nil
}

// note makes e the ledger's entry for its login, in the place of seen (nil: of
// none). hub.ErrConflict if another import has come between.
func (c *Carrier) note(ctx context.Context, e entry, seen *entry) error {
	for swap := 1; ; swap++ {
		l, gen, err := c.readLedger(ctx)
		if err != nil {
			return err
		}
		if err := l.swap(e, seen); err != nil {
			return err
		}
		payload, err := json.Marshal(l)
		if err != nil {
			return err
		}
		_, err = c.cfg.Vault.Commit(ctx, hub.HubRecords, hub.KindImported, gen, payload)
		if err == nil {
			return nil
		}
		if !errors.Is(err, hub.ErrConflict) || swap == maxSwaps {
			return fmt.Errorf("noting what is imported: %w", err)
		}
	}
}

func (l *ledger) swap(e entry, seen *entry) error {
	i := l.find(e.Sender, e.Source)
	switch {
	case i < 0 && seen == nil:
		l.Imports = append(l.Imports, e)
	case i >= 0 && seen != nil && l.Imports[i].same(*seen), i >= 0 && l.Imports[i].same(e):
		l.Imports[i] = e
	default:
		return hub.Hint(fmt.Errorf("%w: a bundle of the same login was imported at the same time", hub.ErrConflict), "see with `claude-hub status` what came of it, then try again")
	}
	return nil
}

// same reports whether two entries are equal; their times may differ in what is
// not kept.
func (e entry) same(other entry) bool {
	a, aerr := json.Marshal(e)
	b, berr := json.Marshal(other)
	return aerr == nil && berr == nil && bytes.Equal(a, b)
}

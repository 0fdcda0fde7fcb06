// Package vault keeps credentials and snapshots sealed, durable and in versions.
// What it guarantees:
//
//  1. [Vault.Commit] is a compare-and-swap: of any number of writers, in any
//     number of processes, at most one makes generation n+1 out of n.
//  2. When Commit returns without error the record survives a kill and a loss of
//     power. Whenever the writer dies, the newest record is generation n or n+1,
//     whole.
//  3. After any error of Commit that is not hub.ErrConflict, the same call again
//     finds out what happened: it succeeds if the record is stored, whoever got
//     it there, and otherwise stores it.
//  4. A record that is cut off, changed, sealed by somebody else, or in the place
//     of another is refused, and never skipped for an older one: an older
//     generation holds a refresh token that is spent.
//  5. Nothing is created by accident: [Init] and [CreateKey] create, [Open],
//     [ReadKey] and [New] do not.
//  6. A profile has one name at any time, and a name leads to one profile, also
//     while it changes and whatever is killed.
//
// Records are sealed to the vault's own key and to the recovery recipients. What
// a thief of the directory learns is names of profiles, kinds, sizes and times.
// Somebody who can write to the directory can destroy records or bring back an
// older state of all of it; the vault alone cannot see that.
package vault

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strconv"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Options are for [New]; the zero value is good.
type Options struct {
	// Recipients are public age keys (age1…) that can read every record that is
	// written from now on, so that a vault whose key is lost can be recovered;
	// see [Recover].
	Recipients []string

	// Keep is how many generations of a credential are kept at least; a few
	// more may be there, because they are removed several at a time. At least
	// 8, which is also what zero means.
	Keep int

	// KeepSnapshots is the same for snapshots, which are large: at least 3,
	// which is also what zero means. No more than these are there.
	KeepSnapshots int

	// Now is the clock; nil means time.Now. It is only for Record.Created.
	Now func() time.Time
}

// The least history. Within this distance from the newest generation nobody ever
// removes one (but with the whole profile), which is what [Vault.settle] builds on.
const (
	minKeep      = 8
	minSnapshots = 3
)

// Vault is a backend with a key. It may be used by many goroutines.
type Vault struct {
	backend Backend
	seal    *sealer
	now     func() time.Time
	kinds   map[hub.Kind]policy
}

// policy is what differs between kinds.
type policy struct {
	limit int64          // bytes of payload
	keep  hub.Generation // how many stay
	least hub.Generation // what keep is at least, in every process
	slack int            // how many more pile up before they are removed together
}

// New returns the vault that is in b, with the key k.
func New(b Backend, k Key, opts Options) (*Vault, error) {
	keep, snapshots := cmp.Or(opts.Keep, minKeep), cmp.Or(opts.KeepSnapshots, minSnapshots)
	if keep < minKeep || snapshots < minSnapshots {
		return nil, fmt.Errorf("%w: a vault keeps at least %d generations and %d snapshots, not %d and %d",
			hub.ErrInvalid, minKeep, minSnapshots, keep, snapshots)
	}
	s, err := newSealer(k, opts.Recipients)
	if err != nil {
		return nil, fmt.Errorf("opening the vault: %w", err)
	}
	v := &Vault{backend: b, seal: s, now: opts.Now}
	if v.now == nil {
		v.now = time.Now
	}
	credential := policy{limit: 1 << 20, keep: hub.Generation(keep), least: minKeep, slack: keep}
	small := policy{limit: 64 << 10, keep: minKeep, least: minKeep, slack: minKeep}
	v.kinds = map[hub.Kind]policy{
		hub.KindLogin: credential, hub.KindSetupToken: credential, hub.KindAPIKey: credential,
		hub.KindProfile: small, hub.KindIntent: small, hub.KindAccount: small,
		hub.KindHandover: small, hub.KindImported: small,
		hub.KindSnapshot: {limit: 256 << 20, keep: hub.Generation(snapshots), least: minSnapshots},
	}
	return v, nil
}

// Record is one committed version of something. It does not print its payload.
type Record struct {
	Profile    hub.ProfileID
	Kind       hub.Kind
	Generation hub.Generation
	Created    time.Time
	Payload    []byte
}

// String says which record it is. The payload is a secret, so it is not shown, in
// any way to print a record.
func (r Record) String() string {
	return fmt.Sprintf("%s %s generation %d (%d bytes)", r.Profile, r.Kind, r.Generation, len(r.Payload))
}

// GoString is String.
func (r Record) GoString() string { return r.String() }

// Format is String, for every verb.
func (r Record) Format(f fmt.State, _ rune) { io.WriteString(f, r.String()) }

// LogValue is String.
func (r Record) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalJSON refuses.
func (r Record) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a vault record cannot be marshalled")
}

// Commit stores payload as generation prev+1, if prev is the newest generation
// (0 if there is none), and returns the record. It is durable on return.
//
// hub.ErrConflict says that another payload is there as prev+1, or that so many
// have been committed since that nobody can tell: the caller is not the newest
// and goes on with Latest. If exactly this payload is there as prev+1, Commit
// succeeds, so a caller that was killed, or got any other error and does not
// know, calls it again with the same arguments.
func (v *Vault) Commit(ctx context.Context, profile hub.ProfileID, kind hub.Kind, prev hub.Generation, payload []byte) (Record, error) {
	what := fmt.Sprintf("committing %s of %s after generation %d", kind, profile, prev)
	p, err := v.check(profile, kind)
	if err == nil && int64(len(payload)) > p.limit {
		err = fmt.Errorf("%w: %d bytes (%d are allowed)", hub.ErrTooLarge, len(payload), p.limit)
	}
	if err == nil && prev == math.MaxUint64 {
		err = fmt.Errorf("%w: there is no generation after it", hub.ErrInvalid)
	}
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", what, err)
	}
	r := Record{profile, kind, prev + 1, v.now().UTC().Round(0), payload}
	r, err = v.commit(ctx, r, p)
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", what, err)
	}
	return r, nil
}

func (v *Vault) commit(ctx context.Context, r Record, p policy) (Record, error) {
	history, err := v.History(ctx, r.Profile, r.Kind)
	if err != nil {
		return Record{}, err
	}
	switch newest := last(history); {
	case newest < r.Generation-1:
		return Record{}, fmt.Errorf("%w: the newest generation is %d", hub.ErrConflict, newest)
	case p.tooLate(r.Generation, newest):
		return Record{}, conflict(newest)
	}
	sealed, err := v.seal.seal(r)
	if err != nil {
		return Record{}, err
	}
	key := recordKey(r.Profile, r.Kind, r.Generation)
	err = v.backend.Create(ctx, key, sealed)
	if err != nil && !errors.Is(err, hub.ErrExists) && ctx.Err() == nil {
		// It may be stored or not. Once more: that settles it, or tells what
		// stands in the way for good.
		err = v.backend.Create(ctx, key, sealed)
	}
	created := err == nil
	if errors.Is(err, hub.ErrExists) {
		r, err = v.same(ctx, r)
	}
	if err != nil {
		return Record{}, err
	}
	return r, v.settle(ctx, r, p, created)
}

// same returns the record that is stored in the place of r, if its payload is
// that of r.
func (v *Vault) same(ctx context.Context, r Record) (Record, error) {
	there, err := v.Get(ctx, r.Profile, r.Kind, r.Generation)
	if errors.Is(err, hub.ErrNotFound) {
		return Record{}, fmt.Errorf("%w: generation %d has come and gone", hub.ErrConflict, r.Generation)
	}
	if err != nil {
		return Record{}, err
	}
	if !bytes.Equal(there.Payload, r.Payload) {
		return Record{}, conflict(r.Generation)
	}
	return there, nil
}

func conflict(newest hub.Generation) error {
	return fmt.Errorf("%w: generation %d is there already", hub.ErrConflict, newest)
}

// tooLate reports whether gen is so far behind that it may have been removed and
// its place become free again.
func (p policy) tooLate(gen, newest hub.Generation) bool {
	return newest >= gen && newest-gen >= p.least
}

// settle ends a commit whose record is stored. A writer that was stopped between
// looking and creating may have put its record where an old one had been removed.
// If the newest generation is still near, then no one has ever removed a record
// in that place, so ours was the first there. If not, it cannot be known, and the
// commit is taken for lost; somebody else is ahead in any case.
func (v *Vault) settle(ctx context.Context, r Record, p policy, created bool) error {
	history, err := v.History(ctx, r.Profile, r.Kind)
	if err != nil {
		return err
	}
	newest := last(history)
	if !p.tooLate(r.Generation, newest) {
		v.prune(ctx, r.Profile, r.Kind, history, p)
		return nil
	}
	if created {
		// If this fails the next prune does it: the record is far behind.
		_ = v.backend.Delete(ctx, recordKey(r.Profile, r.Kind, r.Generation))
	}
	return conflict(newest)
}

// prune removes what is more than p.keep behind the newest, the oldest first.
// A failure is left to the next commit: the record that was committed is safe.
func (v *Vault) prune(ctx context.Context, profile hub.ProfileID, kind hub.Kind, history []hub.Generation, p policy) {
	if len(history) <= int(p.keep)+p.slack {
		return
	}
	var keys []string
	for _, gen := range history {
		if last(history)-gen >= p.keep {
			keys = append(keys, recordKey(profile, kind, gen))
		}
	}
	_ = v.backend.Delete(ctx, keys...)
}

// Latest returns the newest record, or hub.ErrNotFound. If the newest is damaged
// it is an error, never an older one.
func (v *Vault) Latest(ctx context.Context, profile hub.ProfileID, kind hub.Kind) (Record, error) {
	for attempt := 0; ; attempt++ {
		gen, err := v.Generation(ctx, profile, kind)
		if err != nil {
			return Record{}, err
		}
		if gen == 0 {
			return Record{}, fmt.Errorf("%w: profile %s has no %s", hub.ErrNotFound, profile, kind)
		}
		r, err := v.Get(ctx, profile, kind, gen)
		if !errors.Is(err, hub.ErrNotFound) || attempt == 10 {
			return r, err
		}
		// Removed since the look: then there are newer ones, or nothing at all.
	}
}

// Get returns one generation, or hub.ErrNotFound.
func (v *Vault) Get(ctx context.Context, profile hub.ProfileID, kind hub.Kind, gen hub.Generation) (Record, error) {
	p, err := v.check(profile, kind)
	if err != nil {
		return Record{}, err
	}
	key := recordKey(profile, kind, gen)
	sealed, err := v.backend.Get(ctx, key, v.seal.sealedLimit(p.limit))
	if err != nil {
		return Record{}, err
	}
	r, err := v.seal.open(sealed, Record{Profile: profile, Kind: kind, Generation: gen})
	if err != nil {
		return Record{}, fmt.Errorf("opening %s: %w", key, err)
	}
	return r, nil
}

// Generation returns the newest committed generation, or 0. It opens nothing; see
// [Vault.Newer] for what is cheaper still.
func (v *Vault) Generation(ctx context.Context, profile hub.ProfileID, kind hub.Kind) (hub.Generation, error) {
	history, err := v.History(ctx, profile, kind)
	return last(history), err
}

// Newer reports whether a generation newer than gen is committed. It is
// hub.ErrNotFound if gen is not 0 and there is none at all any more: the profile
// was removed. With a backend that is a [Prober] and a gen that is the newest or
// nearly so, it costs no more than two probes, however long the history is.
func (v *Vault) Newer(ctx context.Context, profile hub.ProfileID, kind hub.Kind, gen hub.Generation) (bool, error) {
	if _, err := v.check(profile, kind); err != nil {
		return false, err
	}
	prober, ok := v.backend.(Prober)
	if ok && gen > 0 && gen < math.MaxUint64 {
		next, err := prober.Exists(ctx, recordKey(profile, kind, gen+1))
		if next || err != nil {
			return next, err
		}
		// Old generations are removed before newer ones: if gen is still there,
		// then gen+1 is not one that was removed.
		this, err := prober.Exists(ctx, recordKey(profile, kind, gen))
		if this || err != nil {
			return false, err
		}
	}
	newest, err := v.Generation(ctx, profile, kind)
	if err == nil && newest == 0 && gen > 0 {
		err = fmt.Errorf("%w: profile %s has no %s any more", hub.ErrNotFound, profile, kind)
	}
	return newest > gen, err
}

// History returns the generations that are kept, in ascending order.
func (v *Vault) History(ctx context.Context, profile hub.ProfileID, kind hub.Kind) ([]hub.Generation, error) {
	if _, err := v.check(profile, kind); err != nil {
		return nil, err
	}
	prefix := kindPrefix(profile, kind)
	keys, err := v.backend.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	history := make([]hub.Generation, len(keys))
	for i, key := range keys {
		n, err := strconv.ParseUint(key[len(prefix):], 10, 64)
		if err != nil || recordKey(profile, kind, hub.Generation(n)) != key || n == 0 {
			return nil, hub.Hint(fmt.Errorf("%w: %s is in the vault and is no generation", hub.ErrFormat, key), "take the file out of the vault")
		}
		history[i] = hub.Generation(n)
	}
	return history, nil
}

// check refuses a profile ID that is no key element, and an unknown kind.
func (v *Vault) check(profile hub.ProfileID, kind hub.Kind) (policy, error) {
	if !isElement(string(profile)) {
		return policy{}, fmt.Errorf("%w: %.80q is not a profile ID", hub.ErrInvalid, string(profile))
	}
	p, ok := v.kinds[kind]
	if !ok {
		return policy{}, fmt.Errorf("%w: %.80q is not a kind of record", hub.ErrInvalid, string(kind))
	}
	return p, nil
}

// The layout of keys: records/<profile ID>/<kind>/<generation>, 20 digits so that
// they sort, and names/<profile name>.
const (
	recordsDir = "records"
	namesDir   = "names"
)

func profilePrefix(profile hub.ProfileID) string { return recordsDir + "/" + string(profile) + "/" }

func kindPrefix(profile hub.ProfileID, kind hub.Kind) string {
	return profilePrefix(profile) + string(kind) + "/"
}

func recordKey(profile hub.ProfileID, kind hub.Kind, gen hub.Generation) string {
	return fmt.Sprintf("%s%020d", kindPrefix(profile, kind), gen)
}

func last(history []hub.Generation) hub.Generation {
	if len(history) == 0 {
		return 0
	}
	return history[len(history)-1]
}

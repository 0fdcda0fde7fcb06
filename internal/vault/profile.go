package vault

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// A profile is two records: its own, under its ID, and a claim to its name, whose
// key is what makes the name unique. The claim comes second, and is what makes
// the profile visible: a crash between the two leaves a record under a random ID
// that nothing leads to, and the name free.
//
// A claim counts only while the profile's own record has that name. So a change of
// name is one commit of that record, with the new claim made before it and the old
// one removed after it: whoever looks, and whatever is killed, there is one name.
// A claim that such a kill leaves is removed by who wants the name next. Claims are
// made and removed under the store's lock alone.
const kindName hub.Kind = "name"

// maxUpdates bounds how often an update is tried that others keep overtaking.
const maxUpdates = 100

func nameKey(name hub.ProfileName) string { return namesDir + "/" + string(name) }

// CreateProfile stores a new profile. If the name is taken by another ID it is
// hub.ErrExists. The same call again with the same profile succeeds, and settles
// what an error or a kill has left open.
func (v *Vault) CreateProfile(ctx context.Context, p hub.Profile) error {
	if _, err := hub.ParseProfileName(string(p.Name)); err != nil {
		return fmt.Errorf("creating a profile: %w", err)
	}
	p.Created = p.Created.UTC().Round(0)
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("creating profile %s: %w", p.Name, err)
	}
	unlock, err := v.backend.Lock(ctx)
	if err != nil {
		return fmt.Errorf("creating profile %s: %w", p.Name, err)
	}
	defer unlock()
	if err := v.claimableLocked(ctx, p); err != nil {
		return fmt.Errorf("creating profile %s: %w", p.Name, err)
	}
	if _, err := v.Commit(ctx, p.ID, hub.KindProfile, 0, text); err != nil {
		return fmt.Errorf("creating profile %s: %w", p.Name, err)
	}
	if err := v.claimLocked(ctx, p); err != nil {
		if errors.Is(err, hub.ErrExists) {
			// Ours lost and nothing leads to it; if it stays it does no harm.
			_ = v.backend.Delete(ctx, recordKey(p.ID, hub.KindProfile, 1))
		}
		return fmt.Errorf("creating profile %s: %w", p.Name, err)
	}
	return nil
}

// claimableLocked looks first, so that the usual refusal writes nothing. A claim
// that a killed change of name has left is removed.
func (v *Vault) claimableLocked(ctx context.Context, p hub.Profile) error {
	id, err := v.claimant(ctx, p.Name)
	switch {
	case errors.Is(err, hub.ErrNotFound), err == nil && id == p.ID:
		return nil
	case err != nil:
		return err
	}
	holder, err := v.profile(ctx, id)
	if err != nil || holder.Name == p.Name { // also a holder that can't be read keeps its name
		return nameTaken(p.Name)
	}
	return v.backend.Delete(ctx, nameKey(p.Name))
}

func nameTaken(name hub.ProfileName) error {
	return hub.Hint(fmt.Errorf("%w: there is a profile named %s", hub.ErrExists, name), "choose another name, or sign in to that profile again")
}

// claimLocked takes the name for p, or finds that p has it.
func (v *Vault) claimLocked(ctx context.Context, p hub.Profile) error {
	sealed, err := v.seal.seal(Record{p.ID, kindName, 1, p.Created, []byte(p.Name)})
	if err != nil {
		return err
	}
	err = v.backend.Create(ctx, nameKey(p.Name), sealed)
	if err != nil && !errors.Is(err, hub.ErrExists) && ctx.Err() == nil {
		err = v.backend.Create(ctx, nameKey(p.Name), sealed) // as in commit
	}
	if !errors.Is(err, hub.ErrExists) {
		return err
	}
	return v.claimableLocked(ctx, p)
}

// claimant returns the ID that has claimed the name, or hub.ErrNotFound.
func (v *Vault) claimant(ctx context.Context, name hub.ProfileName) (hub.ProfileID, error) {
	key := nameKey(name)
	sealed, err := v.backend.Get(ctx, key, v.seal.sealedLimit(maxHeader))
	if err != nil {
		return "", err
	}
	r, err := v.seal.open(sealed, Record{Kind: kindName, Generation: 1})
	if err == nil && string(r.Payload) != string(name) {
		err = damaged(fmt.Sprintf("it is the claim to the name %.80q, in the place of another", r.Payload))
	}
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", key, err)
	}
	return r.Profile, nil
}

// RenameProfile gives the profile from the name to, and returns it. Its ID stays.
// Killed at any point, it leaves the old name or the new one, never both and
// never none; the same call again then goes on. hub.ErrExists if another profile
// has that name, hub.ErrNotFound if there is no profile from.
func (v *Vault) RenameProfile(ctx context.Context, from, to hub.ProfileName) (hub.Profile, error) {
	for _, name := range []hub.ProfileName{from, to} {
		if _, err := hub.ParseProfileName(string(name)); err != nil {
			return hub.Profile{}, fmt.Errorf("renaming a profile: %w", err)
		}
	}
	unlock, err := v.backend.Lock(ctx)
	if err != nil {
		return hub.Profile{}, fmt.Errorf("renaming profile %s: %w", from, err)
	}
	defer unlock()
	p, err := v.renameLocked(ctx, from, to)
	if err != nil {
		return hub.Profile{}, fmt.Errorf("renaming profile %s: %w", from, err)
	}
	return p, nil
}

func (v *Vault) renameLocked(ctx context.Context, from, to hub.ProfileName) (hub.Profile, error) {
	id, err := v.claimant(ctx, from)
	if errors.Is(err, hub.ErrNotFound) {
		return hub.Profile{}, noProfile(from)
	}
	if err != nil {
		return hub.Profile{}, err
	}
	p, err := v.profile(ctx, id)
	if err != nil {
		return hub.Profile{}, err
	}
	if p.Name == from && from != to {
		p.Name = to
		if err := v.claimableLocked(ctx, p); err != nil {
			return hub.Profile{}, err
		}
		if err := v.claimLocked(ctx, p); err != nil {
			return hub.Profile{}, err
		}
		p, err = v.update(ctx, id, func(p *hub.Profile) error { p.Name = to; return nil })
		if err != nil {
			return hub.Profile{}, err
		}
	}
	if p.Name != to { // the claim is one that a kill has left
		return hub.Profile{}, noProfile(from)
	}
	// What leads to another name of the profile leads nowhere now; if it stays, who
	// wants that name removes it.
	if claims, err := v.claims(ctx, id); err == nil {
		_ = v.backend.Delete(ctx, slices.DeleteFunc(claims, func(key string) bool { return key == nameKey(to) })...)
	}
	return p, nil
}

// UpdateProfile has change work on the newest version of the profile and commits
// what it makes of it, durably; it returns the profile as it is then. Where
// somebody else commits meanwhile, change is called again, on that. It may not
// change the ID, the name or the time of creation. Fields of the record that this
// program does not know, because a newer one wrote them, stay as they are. When
// change returns an error, that is returned and nothing is changed.
func (v *Vault) UpdateProfile(ctx context.Context, id hub.ProfileID, change func(*hub.Profile) error) (hub.Profile, error) {
	p, err := v.update(ctx, id, func(p *hub.Profile) error {
		was := *p
		if err := change(p); err != nil {
			return err
		}
		if p.ID != was.ID || p.Name != was.Name || !p.Created.Equal(was.Created) {
			return fmt.Errorf("%w: the ID, the name or the creation of a profile is not changed by an update", hub.ErrInvalid)
		}
		return p.Policy.Check()
	})
	if err != nil {
		return hub.Profile{}, fmt.Errorf("changing profile %s: %w", id, err)
	}
	return p, nil
}

func (v *Vault) update(ctx context.Context, id hub.ProfileID, change func(*hub.Profile) error) (hub.Profile, error) {
	for range maxUpdates {
		r, err := v.Latest(ctx, id, hub.KindProfile)
		if err != nil {
			return hub.Profile{}, err
		}
		p, err := parseProfile(id, r.Payload)
		if err != nil {
			return hub.Profile{}, err
		}
		known, err := json.Marshal(p) // before the change, which may reach into it
		if err != nil {
			return hub.Profile{}, err
		}
		if err := change(&p); err != nil {
			return hub.Profile{}, err
		}
		text, err := json.Marshal(p)
		if err != nil || bytes.Equal(text, known) {
			return p, err
		}
		// Of two that make the same change at once, one is second: without a mark
		// of its own, Commit would take its record for the first one's.
		if text, err = json.Marshal(marked{p, rand.Text()}); err != nil {
			return hub.Profile{}, err
		}
		if text, err = overlay(r.Payload, known, text); err != nil {
			return hub.Profile{}, err
		}
		_, err = v.Commit(ctx, id, hub.KindProfile, r.Generation, text)
		if !errors.Is(err, hub.ErrConflict) {
			return p, err
		}
	}
	return hub.Profile{}, fmt.Errorf("%w: others have changed the profile %d times", hub.ErrConflict, maxUpdates)
}

// marked is a profile's record that was updated.
type marked struct {
	hub.Profile
	Update string `json:"update"` // random
}

// Profile returns the profile of that name, or hub.ErrNotFound.
func (v *Vault) Profile(ctx context.Context, name hub.ProfileName) (hub.Profile, error) {
	if _, err := hub.ParseProfileName(string(name)); err != nil {
		return hub.Profile{}, err
	}
	id, err := v.claimant(ctx, name)
	if errors.Is(err, hub.ErrNotFound) {
		return hub.Profile{}, noProfile(name)
	}
	if err != nil {
		return hub.Profile{}, err
	}
	p, err := v.profile(ctx, id)
	if err == nil && p.Name != name { // it is being renamed, or a rename was killed
		return hub.Profile{}, noProfile(name)
	}
	return p, err
}

func noProfile(name hub.ProfileName) error {
	return hub.Hint(fmt.Errorf("%w: there is no profile named %s", hub.ErrNotFound, name),
		fmt.Sprintf("sign in with `claude-hub login --profile %s`", name))
}

// ProfileByID returns the profile of that ID, or hub.ErrNotFound.
func (v *Vault) ProfileByID(ctx context.Context, id hub.ProfileID) (hub.Profile, error) {
	p, err := v.profile(ctx, id)
	for {
		if err != nil {
			return hub.Profile{}, err
		}
		claimant, err := v.claimant(ctx, p.Name)
		if err == nil && claimant == id {
			return p, nil
		}
		if err != nil && !errors.Is(err, hub.ErrNotFound) {
			return hub.Profile{}, err
		}
		now, err := v.profile(ctx, id)
		if err == nil && now.Name == p.Name { // its making or its removal was cut short
			return hub.Profile{}, fmt.Errorf("%w: profile %s", hub.ErrNotFound, id)
		}
		if err != nil {
			return hub.Profile{}, err
		}
		p = now // it was renamed meanwhile
	}
}

// ProfileOfOwner returns the profile that stands for a GitHub login; see
// [hub.ProfileOfOwner]. A profile that can't be read stands for nobody.
func (v *Vault) ProfileOfOwner(ctx context.Context, login string) (hub.Profile, error) {
	profiles, unreadable := v.Profiles(ctx)
	p, err := hub.ProfileOfOwner(profiles, login)
	if errors.Is(err, hub.ErrNotFound) && unreadable != nil {
		return hub.Profile{}, unreadable // it may be one of those
	}
	return p, err
}

func (v *Vault) profile(ctx context.Context, id hub.ProfileID) (hub.Profile, error) {
	r, err := v.Latest(ctx, id, hub.KindProfile)
	if err != nil {
		return hub.Profile{}, err
	}
	return parseProfile(id, r.Payload)
}

func parseProfile(id hub.ProfileID, text []byte) (hub.Profile, error) {
	var p hub.Profile
	if err := json.Unmarshal(text, &p); err != nil || p.ID != id {
		return hub.Profile{}, damaged("the record of profile " + string(id) + " is malformed")
	}
	return p, nil
}

// Profiles returns all profiles, sorted by name. Those that cannot be read are
// left out and named in the error; the others are returned all the same.
func (v *Vault) Profiles(ctx context.Context) ([]hub.Profile, error) {
	for attempt := 0; ; attempt++ {
		keys, err := v.backend.List(ctx, namesDir+"/")
		if err != nil {
			return nil, err
		}
		profiles, gone, err := v.behindAll(ctx, keys)
		// A name that has gone since the look may be one that a profile had, whose
		// new name the look was too early for.
		if !gone || attempt == maxUpdates {
			slices.SortFunc(profiles, func(a, b hub.Profile) int { return cmp.Compare(a.Name, b.Name) })
			return profiles, err
		}
	}
}

// behindAll returns the profiles that the claims lead to, each once, and whether
// some of the claims have gone.
func (v *Vault) behindAll(ctx context.Context, claims []string) (profiles []hub.Profile, gone bool, err error) {
	var problems []error
	seen := map[hub.ProfileID]bool{}
	for _, key := range claims {
		name := strings.TrimPrefix(key, namesDir+"/")
		p, err := v.behind(ctx, hub.ProfileName(name))
		switch {
		case err == nil && !seen[p.ID]:
			seen[p.ID] = true
			profiles = append(profiles, p)
		case errors.Is(err, hub.ErrNotFound):
			_, err := v.claimant(ctx, hub.ProfileName(name))
			gone = gone || errors.Is(err, hub.ErrNotFound)
		case err != nil:
			problems = append(problems, fmt.Errorf("profile %.80q: %w", name, err))
		}
	}
	return profiles, gone, errors.Join(problems...)
}

// behind returns the profile that a claim leads to, whatever its name is by now:
// of two claims of one profile a listing may have seen the older one alone.
func (v *Vault) behind(ctx context.Context, name hub.ProfileName) (hub.Profile, error) {
	id, err := v.claimant(ctx, name)
	if err != nil {
		return hub.Profile{}, err
	}
	p, err := v.profile(ctx, id)
	if err != nil || p.Name == name {
		return p, err
	}
	return v.ProfileByID(ctx, id)
}

// Remove deletes all that the vault has of a profile: its credentials, snapshots
// and intents first, then the claim to its name, its own record last. So a kill
// on the way leaves a profile that can be removed again, and never a secret that
// nothing leads to. hub.ErrNotFound if there is nothing. What others have copied,
// backups for one, is out of reach, and a writer that is at work on the profile
// meanwhile must be stopped first.
func (v *Vault) Remove(ctx context.Context, profile hub.ProfileID) error {
	if !isElement(string(profile)) {
		return fmt.Errorf("%w: %.80q is not a profile ID", hub.ErrInvalid, string(profile))
	}
	unlock, err := v.backend.Lock(ctx)
	if err != nil {
		return fmt.Errorf("removing profile %s: %w", profile, err)
	}
	defer unlock()
	own, others, err := v.keysOf(ctx, profile)
	if err == nil {
		err = v.removeLocked(ctx, profile, others, own)
	}
	if err != nil {
		return fmt.Errorf("removing profile %s: %w", profile, err)
	}
	return nil
}

// RemoveEmpty removes a profile of which the vault has nothing but its own record
// and its name, and reports whether it did; one with anything else it leaves as
// it is. hub.ErrNotFound if there is nothing. Commits don't wait for it: the
// caller keeps writers of the profile out meanwhile.
func (v *Vault) RemoveEmpty(ctx context.Context, profile hub.ProfileID) (removed bool, err error) {
	if !isElement(string(profile)) {
		return false, fmt.Errorf("%w: %.80q is not a profile ID", hub.ErrInvalid, string(profile))
	}
	unlock, err := v.backend.Lock(ctx)
	if err != nil {
		return false, fmt.Errorf("removing profile %s: %w", profile, err)
	}
	defer unlock()
	own, others, err := v.keysOf(ctx, profile)
	if err == nil && len(others) > 0 {
		return false, nil
	}
	if err == nil {
		err = v.removeLocked(ctx, profile, nil, own)
	}
	if err != nil {
		return false, fmt.Errorf("removing profile %s: %w", profile, err)
	}
	return true, nil
}

// keysOf returns the keys of a profile's own record and those of all else that it
// has; hub.ErrNotFound if there are none.
func (v *Vault) keysOf(ctx context.Context, profile hub.ProfileID) (own, others []string, err error) {
	keys, err := v.backend.List(ctx, profilePrefix(profile))
	if err != nil {
		return nil, nil, err
	}
	if len(keys) == 0 {
		return nil, nil, hub.ErrNotFound
	}
	for _, key := range keys {
		if strings.HasPrefix(key, kindPrefix(profile, hub.KindProfile)) {
			own = append(own, key)
		} else {
			others = append(others, key)
		}
	}
	return own, others, nil
}

// removeLocked deletes the others, then the claims, then the profile's own record.
func (v *Vault) removeLocked(ctx context.Context, profile hub.ProfileID, others, own []string) error {
	claims, err := v.claims(ctx, profile) // before anything is deleted: the key may be the wrong one
	if err != nil {
		return err
	}
	for _, keys := range [][]string{others, claims, own} {
		if err := v.backend.Delete(ctx, keys...); err != nil {
			return err
		}
	}
	return nil
}

// claims returns the keys of the names that a profile has claimed: one, if no
// change of name is under way or was killed. It does not ask the profile's record, which may be damaged.
func (v *Vault) claims(ctx context.Context, id hub.ProfileID) ([]string, error) {
	keys, err := v.backend.List(ctx, namesDir+"/")
	if err != nil {
		return nil, err
	}
	var claims []string
	for _, key := range keys {
		claimant, err := v.claimant(ctx, hub.ProfileName(strings.TrimPrefix(key, namesDir+"/")))
		switch {
		case errors.Is(err, hub.ErrNotFound), errors.Is(err, hub.ErrFormat): // gone, or nobody can tell whose it is
		case err != nil:
			return nil, err
		case claimant == id:
			claims = append(claims, key)
		}
	}
	return claims, nil
}

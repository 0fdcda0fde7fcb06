package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// A profile is two records: its own, under its ID, and a claim to its name, whose
// key is what makes the name unique. The claim comes second, and is what makes
// the profile visible: a crash between the two leaves a record under a random ID
// that nothing leads to, and the name free.
const kindName hub.Kind = "name"

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
	if err := v.claimable(ctx, p); err != nil {
		return fmt.Errorf("creating profile %s: %w", p.Name, err)
	}
	if _, err := v.Commit(ctx, p.ID, hub.KindProfile, 0, text); err != nil {
		return fmt.Errorf("creating profile %s: %w", p.Name, err)
	}
	if err := v.claim(ctx, p); err != nil {
		if errors.Is(err, hub.ErrExists) {
			// Ours lost and nothing leads to it; if it stays it does no harm.
			_ = v.backend.Delete(ctx, recordKey(p.ID, hub.KindProfile, 1))
		}
		return fmt.Errorf("creating profile %s: %w", p.Name, err)
	}
	return nil
}

// claimable looks first, so that the usual refusal writes nothing.
func (v *Vault) claimable(ctx context.Context, p hub.Profile) error {
	id, err := v.claimant(ctx, p.Name)
	switch {
	case errors.Is(err, hub.ErrNotFound), err == nil && id == p.ID:
		return nil
	case err == nil:
		return nameTaken(p.Name)
	}
	return err
}

func nameTaken(name hub.ProfileName) error {
	return hub.Hint(fmt.Errorf("%w: there is a profile named %s", hub.ErrExists, name), "choose another name, or sign in to that profile again")
}

// claim takes the name for p, or finds that p has it.
func (v *Vault) claim(ctx context.Context, p hub.Profile) error {
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
	return v.claimable(ctx, p)
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

// Profile returns the profile of that name, or hub.ErrNotFound.
func (v *Vault) Profile(ctx context.Context, name hub.ProfileName) (hub.Profile, error) {
	if _, err := hub.ParseProfileName(string(name)); err != nil {
		return hub.Profile{}, err
	}
	id, err := v.claimant(ctx, name)
	if errors.Is(err, hub.ErrNotFound) {
		return hub.Profile{}, hub.Hint(fmt.Errorf("%w: there is no profile named %s", hub.ErrNotFound, name),
			fmt.Sprintf("sign in with `claude-hub login --profile %s`", name))
	}
	if err != nil {
		return hub.Profile{}, err
	}
	p, err := v.profile(ctx, id)
	if err == nil && p.Name != name {
		err = damaged(fmt.Sprintf("profile %s is named %s, not %s", id, p.Name, name))
	}
	return p, err
}

func (v *Vault) profile(ctx context.Context, id hub.ProfileID) (hub.Profile, error) {
	r, err := v.Latest(ctx, id, hub.KindProfile)
	if err != nil {
		return hub.Profile{}, err
	}
	var p hub.Profile
	if err := json.Unmarshal(r.Payload, &p); err != nil || p.ID != id {
		return hub.Profile{}, damaged("the record of profile " + string(id) + " is malformed")
	}
	return p, nil
}

// Profiles returns all profiles, sorted by name. Those that cannot be read are
// left out and named in the error; the others are returned all the same.
func (v *Vault) Profiles(ctx context.Context) ([]hub.Profile, error) {
	keys, err := v.backend.List(ctx, namesDir+"/")
	if err != nil {
		return nil, err
	}
	var profiles []hub.Profile
	var problems []error
	for _, key := range keys {
		name := strings.TrimPrefix(key, namesDir+"/")
		p, err := v.Profile(ctx, hub.ProfileName(name))
		switch {
		case err == nil:
			profiles = append(profiles, p)
		case !errors.Is(err, hub.ErrNotFound): // removed while we looked
			problems = append(problems, fmt.Errorf("profile %.80q: %w", name, err))
		}
	}
	return profiles, errors.Join(problems...)
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
	keys, err := v.backend.List(ctx, profilePrefix(profile))
	if err != nil {
		return fmt.Errorf("removing profile %s: %w", profile, err)
	}
	if len(keys) == 0 {
		return fmt.Errorf("removing profile %s: %w", profile, hub.ErrNotFound)
	}
	claims, err := v.claims(ctx, profile) // before anything is deleted: the key may be the wrong one
	if err != nil {
		return fmt.Errorf("removing profile %s: %w", profile, err)
	}
	var secrets, own []string
	for _, key := range keys {
		if strings.HasPrefix(key, kindPrefix(profile, hub.KindProfile)) {
			own = append(own, key)
		} else {
			secrets = append(secrets, key)
		}
	}
	for _, keys := range [][]string{secrets, claims, own} {
		if err := v.backend.Delete(ctx, keys...); err != nil {
			return fmt.Errorf("removing profile %s: %w", profile, err)
		}
	}
	return nil
}

// claims returns the keys of the names that a profile has claimed: one, if all
// is well. It does not ask the profile's record, which may be damaged.
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

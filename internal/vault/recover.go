package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"filippo.io/age"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Recover reads every record in from with a recovery key (an age identity file)
// and stores it in to, which has a key of its own, under the same profile, kind
// and generation. It returns how many records it stored; those that are in to
// already are left, so that it can be run again after a failure. Records that the
// recovery key does not open are named in the error, and the others recovered.
//
// The seal's MAC cannot be checked without the lost key: recover only from a
// directory or a backup that you trust. The old key may be in other hands, so
// sign in again afterwards.
func Recover(ctx context.Context, from Backend, recoveryKey io.Reader, to *Vault) (int, error) {
	identities, err := age.ParseIdentities(io.LimitReader(recoveryKey, maxKeyFile))
	if err != nil { // its text may quote the key
		return 0, hub.Hint(fmt.Errorf("recovering: %w: the recovery key is not an age identity", hub.ErrInvalid),
			"give the file that `age-keygen` wrote, with the line AGE-SECRET-KEY-1…")
	}
	keys, err := from.List(ctx, "")
	if err != nil {
		return 0, fmt.Errorf("recovering: %w", err)
	}
	stored := 0
	var problems []error
	// Backwards, so that a name comes after its profile.
	for _, key := range slices.Backward(keys) {
		switch err := recoverOne(ctx, from, key, identities, to); {
		case err == nil:
			stored++
		case ctx.Err() != nil:
			return stored, fmt.Errorf("recovering: %w", err)
		case !errors.Is(err, hub.ErrExists):
			problems = append(problems, fmt.Errorf("recovering %s: %w", key, err))
		}
	}
	return stored, errors.Join(problems...)
}

func recoverOne(ctx context.Context, from Backend, key string, identities []age.Identity, to *Vault) error {
	want, limit, err := to.expected(key)
	if err != nil {
		return err
	}
	sealed, err := from.Get(ctx, key, to.seal.sealedLimit(limit))
	if err != nil {
		return err
	}
	if err := checkFirstLine(sealed); err != nil {
		return err
	}
	if len(sealed) < prefixLen {
		return damaged("it is cut off")
	}
	r, err := openAge(sealed[prefixLen:], want, identities...)
	if err != nil {
		return err
	}
	resealed, err := to.seal.seal(r)
	if err != nil {
		return err
	}
	return to.backend.Create(ctx, key, resealed)
}

// expected returns what a key says about its record, and the limit of its payload.
func (v *Vault) expected(key string) (Record, int64, error) {
	elements := strings.Split(key, "/")
	if elements[0] == namesDir && len(elements) == 2 {
		return Record{Kind: kindName, Generation: 1}, maxHeader, nil
	}
	if elements[0] != recordsDir || len(elements) != 4 {
		return Record{}, 0, damaged("no record belongs there")
	}
	r := Record{Profile: hub.ProfileID(elements[1]), Kind: hub.Kind(elements[2])}
	p, err := v.check(r.Profile, r.Kind)
	if err != nil {
		return Record{}, 0, err
	}
	gen, err := strconv.ParseUint(elements[3], 10, 64)
	if err != nil || recordKey(r.Profile, r.Kind, hub.Generation(gen)) != key {
		return Record{}, 0, damaged("its generation is malformed")
	}
	r.Generation = hub.Generation(gen)
	return r, p.limit, nil
}

package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Replacer is for backends that can put other data in the place of a record's.
// [Vault.Reseal] needs it.
type Replacer interface {
	// Replace puts data where something is stored under key already; nothing there
	// is hub.ErrNotFound. A reader finds all of the old data or all of the new. On
	// return the new survives a loss of power; after an error it is one of the two.
	Replace(ctx context.Context, key string, data []byte) error
}

// Reseal seals every record in use anew, so that the present recipients open it:
// the newest generation of each kind, and the claims to names. What the records
// say stays as it is, their generations and times included. It returns how many
// were sealed anew. A record that does not open stays as it is and is named in the
// error; the others are done.
func (v *Vault) Reseal(ctx context.Context) (int, error) {
	replacer, ok := v.backend.(Replacer)
	if !ok {
		return 0, fmt.Errorf("%w: this vault's records can't be replaced", hub.ErrInvalid)
	}
	unlock, err := v.backend.Lock(ctx) // nobody removes a profile meanwhile, which would come back
	if err != nil {
		return 0, fmt.Errorf("sealing anew: %w", err)
	}
	defer unlock()
	keys, err := v.backend.List(ctx, "")
	if err != nil {
		return 0, fmt.Errorf("sealing anew: %w", err)
	}
	done := 0
	var problems []error
	for i, key := range keys {
		if i+1 < len(keys) && strings.HasPrefix(key, recordsDir+"/") && filepath.Dir(keys[i+1]) == filepath.Dir(key) {
			continue // there is a newer generation
		}
		err := v.resealLocked(ctx, replacer, key)
		switch {
		case err == nil:
			done++
		case ctx.Err() != nil:
			return done, fmt.Errorf("sealing anew: %w", err)
		case !errors.Is(err, hub.ErrNotFound) && !errors.Is(err, hub.ErrInvalid): // pruned; of a kind that a newer version keeps
			problems = append(problems, fmt.Errorf("sealing %s anew: %w", key, err))
		}
	}
	return done, errors.Join(problems...)
}

func (v *Vault) resealLocked(ctx context.Context, replacer Replacer, key string) error {
	want, limit, err := v.expected(key)
	if err != nil {
		return err
	}
	sealed, err := v.backend.Get(ctx, key, v.seal.sealedLimit(limit))
	if err != nil {
		return err
	}
	record, err := v.seal.open(sealed, want)
	if err != nil {
		return err
	}
	if sealed, err = v.seal.seal(record); err != nil {
		return err
	}
	return replacer.Replace(ctx, key, sealed)
}

// Replace implements [Replacer].
func (b *FileBackend) Replace(ctx context.Context, key string, data []byte) error {
	path, err := b.path(ctx, key)
	if err != nil {
		return err
	}
	if there, err := b.Exists(ctx, key); err != nil || !there {
		return errors.Join(err, fmt.Errorf("replacing %s: %w", key, hub.ErrNotFound))
	}
	if err := b.disk.replace(path, data); err != nil {
		return hub.Hint(fmt.Errorf("replacing %s: %w", key, err), diskHint(err))
	}
	return nil
}

// replace is create for a name that is taken: rename(2) puts the new file in the
// place of the old one, and what is there is always one of the two, whole.
func (d disk) replace(path string, data []byte) error {
	temp, err := d.temp(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer temp.Close()
	renamed := false
	defer func() {
		if !renamed {
			os.Remove(temp.Name())
		}
	}()
	if err := d.step("write", temp.Name(), func() error { _, err := temp.Write(data); return err }); err != nil {
		return err
	}
	if err := d.step("sync", temp.Name(), temp.Sync); err != nil {
		return err
	}
	err = d.step("rename", path, func() error {
		err := os.Rename(temp.Name(), path)
		renamed = err == nil
		return err
	})
	if err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

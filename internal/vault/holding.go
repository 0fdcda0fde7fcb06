package vault

import (
	"context"
	"fmt"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Holding says what the vault has of one kind for a profile.
type Holding struct {
	Kind     hub.Kind         `json:"kind"`
	Newest   hub.Generation   `json:"newest"`
	Kept     []hub.Generation `json:"kept"` // ascending, with the newest
	Location string           `json:"location"`
}

// Holdings returns what the vault has of a profile, by kind. It opens nothing.
// Location is a prefix of keys, which is a path for a [FileBackend].
func (v *Vault) Holdings(ctx context.Context, profile hub.ProfileID) ([]Holding, error) {
	if !isElement(string(profile)) {
		return nil, fmt.Errorf("%w: %.80q is not a profile ID", hub.ErrInvalid, string(profile))
	}
	keys, err := v.backend.List(ctx, profilePrefix(profile))
	if err != nil {
		return nil, err
	}
	var holdings []Holding
	for _, key := range keys {
		kind, _, _ := strings.Cut(strings.TrimPrefix(key, profilePrefix(profile)), "/")
		if n := len(holdings); n > 0 && holdings[n-1].Kind == hub.Kind(kind) {
			continue
		}
		history, err := v.History(ctx, profile, hub.Kind(kind))
		if err != nil {
			return nil, err
		}
		if len(history) > 0 {
			holdings = append(holdings, Holding{hub.Kind(kind), last(history), history, kindPrefix(profile, hub.Kind(kind))})
		}
	}
	return holdings, nil
}

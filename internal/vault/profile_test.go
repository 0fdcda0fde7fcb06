package vault_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
	"github.com/claude-hub/claude-hub/internal/vault/vaulttest"
)

func newProfile(name hub.ProfileName) hub.Profile {
	return hub.Profile{ID: hub.NewProfileID(), Name: name, Created: time.Date(2026, 11, 1, 2, 3, 4, 5, time.UTC)}
}

// same reports whether two profiles are the same in all they say.
func same(a, b hub.Profile) bool { return cmp.Equal(a, b) }

func TestProfilesComeBack(t *testing.T) {
	v, _ := newVault(t, vault.Options{})
	ctx := t.Context()
	if got, err := v.Profiles(ctx); err != nil || len(got) != 0 {
		t.Errorf("Profiles of an empty vault = %v, %v", got, err)
	}
	want := []hub.Profile{newProfile("alice"), newProfile("default"), newProfile("zoe")}
	for _, i := range []int{1, 2, 0} {
		must(t, v.CreateProfile(ctx, want[i]))
	}
	got, err := v.Profiles(ctx)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Profiles differ (-want +got):\n%s", diff)
	}
	if p, err := v.Profile(ctx, "default"); err != nil || !same(p, want[1]) {
		t.Errorf("Profile = %v, %v; want %v", p, err, want[1])
	}
	if _, err := v.Profile(ctx, "nobody"); !errors.Is(err, hub.ErrNotFound) || hub.HintOf(err) == "" {
		t.Errorf("an unknown name: %v; want ErrNotFound with a hint", err)
	}
	for _, bad := range []hub.ProfileName{"", "../x", "a/b", "A", "x\x00"} {
		if _, err := v.Profile(ctx, bad); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("Profile(%q): %v; want ErrInvalid", bad, err)
		}
		if err := v.CreateProfile(ctx, newProfile(bad)); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("CreateProfile(%q): %v; want ErrInvalid", bad, err)
		}
	}
}

func TestANameIsTakenOnce(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	first := newProfile("alice")
	must(t, v.CreateProfile(t.Context(), first))
	if err := v.CreateProfile(t.Context(), newProfile("alice")); !errors.Is(err, hub.ErrExists) || hub.HintOf(err) == "" {
		t.Errorf("the name again: %v; want ErrExists with a hint", err)
	}
	must(t, v.CreateProfile(t.Context(), first)) // the same again
	renamed := first
	renamed.Name = "bob"
	if err := v.CreateProfile(t.Context(), renamed); err == nil {
		t.Error("one ID has two names")
	}
	if p, err := v.Profile(t.Context(), "alice"); err != nil || !same(p, first) {
		t.Errorf("Profile = %v, %v", p, err)
	}
	if keys, err := f.List(t.Context(), ""); err != nil || len(keys) != 2 {
		t.Errorf("the vault has %v, %v; want the claim and the record", keys, err)
	}
}

func TestOfManyCreatorsOneGetsTheName(t *testing.T) {
	const rounds = 5
	b := newFileBackend(t)
	v, err := vault.New(b, newKey(t), vault.Options{})
	must(t, err)
	for round := range rounds {
		name := hub.ProfileName(fmt.Sprint("p", round))
		var winners atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				switch err := v.CreateProfile(t.Context(), newProfile(name)); {
				case err == nil:
					winners.Add(1)
				case !errors.Is(err, hub.ErrExists):
					t.Errorf("the loser: %v; want ErrExists", err)
				}
			})
		}
		wg.Wait()
		if winners.Load() != 1 {
			t.Errorf("%d creators got the name", winners.Load())
		}
		if _, err := v.Profile(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if keys, err := b.List(t.Context(), "records/"); err != nil || len(keys) != rounds {
		t.Errorf("records %v, %v; want those of the %d winners", keys, err, rounds)
	}
}

// TestCreateProfileAtEachPointOfFailure fails each call, before and after its
// effect, for as long as it lasts: a profile is there as a whole or not at all,
// the same call again settles it, and until it is there the name is free.
func TestCreateProfileAtEachPointOfFailure(t *testing.T) {
	for _, key := range []string{"records/", "names/"} {
		for _, op := range []vaulttest.Op{vaulttest.OpCreate, vaulttest.OpGet, vaulttest.OpList} {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s after=%v", op, key, after), func(t *testing.T) {
					v, f := newVault(t, vault.Options{})
					f.Inject(vaulttest.Fault{Op: op, Key: key, After: after, Err: errBoom})
					p := newProfile("alice")
					createErr := v.CreateProfile(t.Context(), p)
					f.Clear()
					got, err := v.Profile(t.Context(), "alice")
					switch {
					case err == nil && !same(got, p):
						t.Errorf("Profile = %v; want %v", got, p)
					case createErr == nil && err != nil, err != nil && !errors.Is(err, hub.ErrNotFound):
						t.Errorf("created with %v, but: %v", createErr, err)
					}
					other := newProfile("alice")
					if err == nil {
						other = p // it is there: only itself may come again
					}
					if err := v.CreateProfile(t.Context(), other); err != nil {
						t.Errorf("again: %v", err)
					}
					if got, err := v.Profile(t.Context(), "alice"); err != nil || !same(got, other) {
						t.Errorf("Profile = %v, %v; want %v", got, err, other)
					}
				})
			}
		}
	}
}

func TestSwappedNamesAreRefused(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	must(t, v.CreateProfile(t.Context(), newProfile("alice")))
	must(t, v.CreateProfile(t.Context(), newProfile("bob")))
	claim, err := f.Get(t.Context(), vault.NameKey("alice"), 1<<20)
	must(t, err)
	put(t, f, vault.NameKey("bob"), claim)
	if p, err := v.Profile(t.Context(), "bob"); !errors.Is(err, hub.ErrFormat) || !strings.Contains(err.Error(), "claim") {
		t.Errorf("alice's claim in bob's place: %v, %v; want ErrFormat", p, err)
	}
	got, err := v.Profiles(t.Context())
	if !errors.Is(err, hub.ErrFormat) || len(got) != 1 || got[0].Name != "alice" {
		t.Errorf("Profiles = %v, %v; want alice, and an error that names bob", got, err)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	ctx := t.Context()
	one, two := newProfile("one"), newProfile("two")
	for _, p := range []hub.Profile{one, two} {
		must(t, v.CreateProfile(ctx, p))
		for _, k := range []hub.Kind{hub.KindLogin, hub.KindSetupToken, hub.KindAPIKey, hub.KindSnapshot, hub.KindIntent, hub.KindAccount} {
			commits(t, v, p.ID, k, 0, 3)
		}
	}
	must(t, v.Remove(ctx, one.ID))
	keys, err := f.List(ctx, "records/"+string(one.ID)+"/")
	must(t, err)
	if len(keys) != 0 {
		t.Errorf("left %v", keys)
	}
	if got, err := v.Profiles(ctx); err != nil || !slices.EqualFunc(got, []hub.Profile{two}, same) {
		t.Errorf("Profiles = %v, %v; want the other one", got, err)
	}
	mustLatest(t, v, two.ID, hub.KindLogin, 3, "3")
	if err := v.Remove(ctx, one.ID); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Remove again: %v; want ErrNotFound", err)
	}
	if err := v.Remove(ctx, "../x"); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("Remove of a path: %v", err)
	}
	must(t, v.CreateProfile(ctx, newProfile("one"))) // the name is free
}

func TestRemoveEmptyLeavesWhatHoldsAnything(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	ctx := t.Context()
	for _, k := range []hub.Kind{hub.KindLogin, hub.KindSetupToken, hub.KindSnapshot} {
		p := newProfile(hub.ProfileName(k))
		must(t, v.CreateProfile(ctx, p))
		commits(t, v, p.ID, k, 0, 1)
		if removed, err := v.RemoveEmpty(ctx, p.ID); removed || err != nil {
			t.Errorf("with a %s: %v, %v; want it left alone", k, removed, err)
		}
		mustLatest(t, v, p.ID, k, 1, "1")
		if _, err := v.Profile(ctx, p.Name); err != nil {
			t.Error(err)
		}
	}
	empty := newProfile("empty")
	must(t, v.CreateProfile(ctx, empty))
	if removed, err := v.RemoveEmpty(ctx, empty.ID); !removed || err != nil {
		t.Errorf("an empty one: %v, %v; want it removed", removed, err)
	}
	if keys, err := f.List(ctx, "records/"+string(empty.ID)+"/"); err != nil || len(keys) != 0 {
		t.Errorf("left %v, %v", keys, err)
	}
	if _, err := v.RemoveEmpty(ctx, empty.ID); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("again: %v; want ErrNotFound", err)
	}
	must(t, v.CreateProfile(ctx, newProfile("empty"))) // the name is free
}

// TestRemoveThatIsCutShortLeavesNoHiddenSecret fails the removal at one key after
// the other.
func TestRemoveThatIsCutShortLeavesNoHiddenSecret(t *testing.T) {
	ctx := t.Context()
	for n := range 6 {
		v, f := newVault(t, vault.Options{})
		p := newProfile("alice")
		must(t, v.CreateProfile(ctx, p))
		commits(t, v, p.ID, hub.KindLogin, 0, 2)
		commits(t, v, p.ID, hub.KindIntent, 0, 1)
		for range n {
			f.Inject(vaulttest.Fault{Op: vaulttest.OpDelete, After: false, Times: 1, Do: func() {}})
		}
		f.Inject(vaulttest.Fault{Op: vaulttest.OpDelete, Err: errBoom})
		err := v.Remove(ctx, p.ID)
		if (n < 5) != errors.Is(err, errBoom) {
			t.Fatalf("cut after %d of 5: %v", n, err)
		}
		f.Clear()
		login, err := v.Generation(ctx, p.ID, hub.KindLogin)
		must(t, err)
		if _, err := v.Profile(ctx, "alice"); login > 0 && err != nil {
			t.Errorf("cut after %d: a login is there that no profile leads to: %v", n, err)
		}
		if err := v.Remove(ctx, p.ID); err != nil && !errors.Is(err, hub.ErrNotFound) {
			t.Errorf("cut after %d, again: %v", n, err)
		}
		if keys, err := f.List(ctx, ""); err != nil || len(keys) != 0 {
			t.Errorf("cut after %d, removed again: left %v, %v", n, keys, err)
		}
	}
}

func TestRemoveWithTheWrongKeyRemovesNothing(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	p := newProfile("alice")
	must(t, v.CreateProfile(t.Context(), p))
	commits(t, v, p.ID, hub.KindLogin, 0, 1)
	other, err := vault.New(f, newKey(t), vault.Options{})
	must(t, err)
	if err := other.Remove(t.Context(), p.ID); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("error = %v; want ErrWrongKey", err)
	}
	mustLatest(t, v, p.ID, hub.KindLogin, 1, "1")
}

func TestADamagedProfileCanBeRemoved(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	p := newProfile("alice")
	must(t, v.CreateProfile(t.Context(), p))
	put(t, f, vault.RecordKey(p.ID, hub.KindProfile, 1), []byte("garbage"))
	must(t, v.Remove(t.Context(), p.ID))
	if keys, err := f.List(t.Context(), ""); err != nil || len(keys) != 0 {
		t.Errorf("left %v, %v", keys, err)
	}
}

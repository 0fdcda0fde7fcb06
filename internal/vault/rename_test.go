package vault_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
	"github.com/claude-hub/claude-hub/internal/vault/vaulttest"
)

// visible returns the names by which the profile can be found, and fails the test
// if the listing says otherwise.
func visible(t *testing.T, v *vault.Vault, id hub.ProfileID, names ...hub.ProfileName) []hub.ProfileName {
	t.Helper()
	var found []hub.ProfileName
	for _, name := range names {
		p, err := v.Profile(t.Context(), name)
		if err == nil && p.ID == id {
			found = append(found, p.Name)
		} else if err != nil && !errors.Is(err, hub.ErrNotFound) {
			t.Errorf("Profile(%s): %v", name, err)
		}
	}
	all, err := v.Profiles(t.Context())
	must(t, err)
	var listed []hub.ProfileName
	for _, p := range all {
		if p.ID == id {
			listed = append(listed, p.Name)
		}
	}
	if !slices.Equal(found, listed) {
		t.Errorf("by name there is %v, and the list has %v", found, listed)
	}
	if p, err := v.ProfileByID(t.Context(), id); err != nil || !slices.Equal(found, []hub.ProfileName{p.Name}) {
		t.Errorf("by name there is %v, and by its ID %q, %v", found, p.Name, err)
	}
	return found
}

func TestRename(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	ctx := t.Context()
	p, other := newProfile("old"), newProfile("other")
	must(t, v.CreateProfile(ctx, p))
	must(t, v.CreateProfile(ctx, other))
	commits(t, v, p.ID, hub.KindLogin, 0, 2)
	got, err := v.RenameProfile(ctx, "old", "new")
	want := p
	want.Name = "new"
	if err != nil || !same(got, want) {
		t.Errorf("RenameProfile = %v, %v; want %v", got, err, want)
	}
	if names := visible(t, v, p.ID, "old", "new"); !slices.Equal(names, []hub.ProfileName{"new"}) {
		t.Errorf("it is named %v; want new", names)
	}
	mustLatest(t, v, p.ID, hub.KindLogin, 2, "2")
	if keys, err := f.List(ctx, "names/"); err != nil || !slices.Equal(keys, []string{"names/new", "names/other"}) {
		t.Errorf("names %v, %v", keys, err)
	}
	for name, c := range map[string]struct {
		from, to hub.ProfileName
		want     error
	}{
		"a name that is taken": {"new", "other", hub.ErrExists}, "nobody": {"old", "x", hub.ErrNotFound},
		"a bad new name": {"new", "../x", hub.ErrInvalid}, "a bad old name": {"N", "x", hub.ErrInvalid}, "no name": {"new", "", hub.ErrInvalid},
	} {
		if _, err := v.RenameProfile(ctx, c.from, c.to); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
	}
	if _, err := v.RenameProfile(ctx, "new", "new"); err != nil {
		t.Errorf("to the name it has: %v", err)
	}
	must(t, v.CreateProfile(ctx, newProfile("old"))) // the name is free
	must(t, v.Remove(ctx, p.ID))
	must(t, v.CreateProfile(ctx, newProfile("new")))
}

// TestRenameAtEachPointOfFailure fails each call of the store, before and after its
// effect: for as long as it lasts, as a disk does, and from it on, as a kill does.
// There is one name at any time, the same call again settles it, and no name is
// lost for others.
func TestRenameAtEachPointOfFailure(t *testing.T) {
	for _, op := range []vaulttest.Op{vaulttest.OpLock, vaulttest.OpCreate, vaulttest.OpGet, vaulttest.OpList, vaulttest.OpDelete} {
		for _, after := range []bool{false, true} {
			for _, killed := range []bool{false, true} {
				for skip, hit := 0, true; hit; skip++ {
					t.Run(fmt.Sprintf("%s %d after=%v killed=%v", op, skip, after, killed), func(t *testing.T) {
						hit = renameFailing(t, op, after, skip, killed)
					})
				}
			}
		}
	}
}

// renameFailing fails from the call after skip on, and reports whether there was one.
func renameFailing(t *testing.T, op vaulttest.Op, after bool, skip int, killed bool) (hit bool) {
	v, f := newVault(t, vault.Options{})
	ctx := t.Context()
	p := newProfile("old")
	must(t, v.CreateProfile(ctx, p))
	for range skip {
		f.Inject(vaulttest.Fault{Op: op, After: after, Times: 1, Do: func() {}})
	}
	die := func() {
		hit = true
		if killed {
			f.Inject(vaulttest.Fault{Err: errBoom})
		}
	}
	f.Inject(vaulttest.Fault{Op: op, After: after, Err: errBoom, Do: die})
	_, err := v.RenameProfile(ctx, "old", "new")
	f.Clear()
	names := visible(t, v, p.ID, "old", "new")
	if len(names) != 1 || err == nil && names[0] != "new" {
		t.Fatalf("renamed with %v, it is named %v", err, names)
	}
	if _, err := v.RenameProfile(ctx, names[0], "new"); err != nil {
		t.Errorf("again: %v", err)
	}
	if names := visible(t, v, p.ID, "old", "new"); !slices.Equal(names, []hub.ProfileName{"new"}) {
		t.Errorf("again, it is named %v", names)
	}
	must(t, v.CreateProfile(ctx, newProfile("old")))
	must(t, v.Remove(ctx, p.ID))
	must(t, v.CreateProfile(ctx, newProfile("new")))
	return hit
}

// TestANameThatAKilledRenameLeftIsFree: somebody else may have it, and a later
// change of the name is not in its way.
func TestANameThatAKilledRenameLeftIsFree(t *testing.T) {
	kill := func(t *testing.T) (*vault.Vault, hub.Profile) {
		v, f := newVault(t, vault.Options{})
		p := newProfile("old")
		must(t, v.CreateProfile(t.Context(), p))
		f.Inject(vaulttest.Fault{Op: vaulttest.OpCreate, Key: "names/new", After: true, Err: errBoom, Do: func() {
			f.Inject(vaulttest.Fault{Err: errBoom})
		}})
		if _, err := v.RenameProfile(t.Context(), "old", "new"); !errors.Is(err, errBoom) {
			t.Fatalf("the rename that is killed: %v", err)
		}
		f.Clear()
		return v, p
	}
	t.Run("for a new profile", func(t *testing.T) {
		v, p := kill(t)
		next := newProfile("new")
		must(t, v.CreateProfile(t.Context(), next))
		if names := visible(t, v, next.ID, "old", "new"); !slices.Equal(names, []hub.ProfileName{"new"}) {
			t.Errorf("the new profile is named %v", names)
		}
		if names := visible(t, v, p.ID, "old", "new"); !slices.Equal(names, []hub.ProfileName{"old"}) {
			t.Errorf("the old profile is named %v", names)
		}
	})
	t.Run("for another", func(t *testing.T) {
		v, p := kill(t)
		other := newProfile("other")
		must(t, v.CreateProfile(t.Context(), other))
		if _, err := v.RenameProfile(t.Context(), "other", "new"); err != nil {
			t.Fatal(err)
		}
		if names := visible(t, v, p.ID, "old", "new"); !slices.Equal(names, []hub.ProfileName{"old"}) {
			t.Errorf("the old profile is named %v", names)
		}
	})
	t.Run("and it takes another name itself", func(t *testing.T) {
		v, p := kill(t)
		if _, err := v.RenameProfile(t.Context(), "old", "third"); err != nil {
			t.Fatal(err)
		}
		if names := visible(t, v, p.ID, "old", "new", "third"); !slices.Equal(names, []hub.ProfileName{"third"}) {
			t.Errorf("it is named %v", names)
		}
		must(t, v.CreateProfile(t.Context(), newProfile("new")))
	})
}

// TestARenameIsOneStepForThoseWhoLook looks before and after each step on the
// disk, with another handle, as another process would.
func TestARenameIsOneStepForThoseWhoLook(t *testing.T) {
	b := newFileBackend(t)
	key := newKey(t)
	v, err := vault.New(b, key, vault.Options{})
	must(t, err)
	looker, err := vault.New(openFile(t, b.Dir()), key, vault.Options{})
	must(t, err)
	p := newProfile("old")
	must(t, v.CreateProfile(t.Context(), p))
	var seen []hub.ProfileName
	steps := 0
	b.SetHook(func(string, string, string) error {
		steps++
		names := visible(t, looker, p.ID, "old", "new")
		if len(names) != 1 {
			t.Errorf("step %d: it is named %v", steps, names)
		}
		seen = append(seen, names...)
		return nil
	})
	if _, err := v.RenameProfile(t.Context(), "old", "new"); err != nil {
		t.Fatal(err)
	}
	seen = slices.Compact(seen)
	if !slices.Equal(seen, []hub.ProfileName{"old", "new"}) || steps < 20 {
		t.Errorf("in %d steps its names were %v; want old, then new", steps, seen)
	}
}

// TestRenameAtEachStepOfTheDisk fails each step on the disk, before and after.
func TestRenameAtEachStepOfTheDisk(t *testing.T) {
	failAtEachStep(t, func(t *testing.T, hook vault.Hook) func() error {
		b := newFileBackend(t)
		v, err := vault.New(b, newKey(t), vault.Options{})
		must(t, err)
		p := newProfile("old")
		must(t, v.CreateProfile(t.Context(), p))
		b.SetHook(hook)
		_, renameErr := v.RenameProfile(t.Context(), "old", "new")
		b.SetHook(nil)
		names := visible(t, v, p.ID, "old", "new")
		if len(names) != 1 || renameErr == nil && names[0] != "new" {
			t.Fatalf("renamed with %v, it is named %v", renameErr, names)
		}
		return func() error {
			_, err := v.RenameProfile(t.Context(), names[0], "new")
			if names := visible(t, v, p.ID, "old", "new"); !slices.Equal(names, []hub.ProfileName{"new"}) {
				t.Errorf("again, it is named %v", names)
			}
			return err
		}
	})
}

// TestOfManyRenamersOneWins has each give the profile another name, while others
// change its policy.
func TestOfManyRenamersOneWins(t *testing.T) {
	dir := hubDir(t)
	v, err := openBoth(dir)
	must(t, err)
	p := newProfile("old")
	must(t, v.CreateProfile(t.Context(), p))
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []hub.ProfileName
	for n := range 8 {
		wg.Go(func() {
			v, err := openBoth(dir)
			if err != nil {
				t.Error(err)
				return
			}
			to := hub.ProfileName(fmt.Sprint("n", n))
			switch _, err := v.RenameProfile(t.Context(), "old", to); {
			case err == nil:
				mu.Lock()
				won = append(won, to)
				mu.Unlock()
			case !errors.Is(err, hub.ErrNotFound):
				t.Errorf("the loser: %v; want ErrNotFound", err)
			}
			_, err = v.UpdateProfile(t.Context(), p.ID, func(p *hub.Profile) error { p.Policy.Limits.Requests++; return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := v.ProfileByID(t.Context(), p.ID)
	if err != nil || !slices.Equal(won, []hub.ProfileName{got.Name}) || got.Policy.Limits.Requests != 8 {
		t.Errorf("%v won, the profile is %+v, %v; want one winner and 8 updates", won, got, err)
	}
	names, err := os.ReadDir(dir + "/vault/names")
	if err != nil || len(names) != 1 {
		t.Errorf("claims %v, %v; want one", names, err)
	}
}

func TestKilledRenamersLeaveOneName(t *testing.T) {
	dir := hubDir(t)
	v, err := openBoth(dir)
	must(t, err)
	p := newProfile("one")
	must(t, v.CreateProfile(t.Context(), p))
	for round := range 20 {
		cmd := command(t, "rename until killed", dir, "")
		out, err := cmd.StdoutPipe()
		must(t, err)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		first := lines.Scan()
		timer := time.AfterFunc(time.Duration(rand.IntN(20_000))*time.Microsecond, func() { cmd.Process.Kill() })
		for ok := first; ok; ok = lines.Scan() {
		}
		timer.Stop()
		cmd.Wait()
		if !first || stderr.Len() > 0 {
			t.Fatalf("round %d: the renamer failed: %s", round, &stderr)
		}
		if names := visible(t, v, p.ID, renames...); len(names) != 1 {
			t.Fatalf("round %d: it is named %v", round, names)
		}
	}
}

// TestAListingDuringARenameHasTheProfile renames between the look at the names and
// the look at the profiles; the claim to the old name goes, or stays as after a kill.
func TestAListingDuringARenameHasTheProfile(t *testing.T) {
	for _, stays := range []bool{false, true} {
		v, f := newVault(t, vault.Options{})
		p := newProfile("old")
		must(t, v.CreateProfile(t.Context(), p))
		if stays {
			f.Inject(vaulttest.Fault{Op: vaulttest.OpDelete, Err: errBoom})
		}
		f.Inject(vaulttest.Fault{Op: vaulttest.OpList, Key: "names/", After: true, Times: 1, Do: func() {
			if _, err := v.RenameProfile(t.Context(), "old", "new"); err != nil {
				t.Error(err)
			}
		}})
		got, err := v.Profiles(t.Context())
		if err != nil || len(got) != 1 || got[0].ID != p.ID || got[0].Name != "new" {
			t.Errorf("the old claim stays: %v: Profiles = %v, %v; want it under its new name", stays, got, err)
		}
	}
}

// TestALookDuringARenameFindsTheProfile renames between the look at the profile and
// the look at who has its name.
func TestALookDuringARenameFindsTheProfile(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	p := newProfile("old")
	must(t, v.CreateProfile(t.Context(), p))
	f.Inject(vaulttest.Fault{Op: vaulttest.OpGet, Key: "records/", After: true, Times: 1, Do: func() {
		if _, err := v.RenameProfile(t.Context(), "old", "new"); err != nil {
			t.Error(err)
		}
	}})
	if got, err := v.ProfileByID(t.Context(), p.ID); err != nil || got.Name != "new" {
		t.Errorf("ProfileByID = %v, %v; want it under its new name", got, err)
	}
	must(t, f.Delete(t.Context(), vault.NameKey("new"))) // as a removal that was cut short
	if got, err := v.ProfileByID(t.Context(), p.ID); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("without its name it is found: %v, %v", got, err)
	}
}

package vault_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
	"github.com/claude-hub/claude-hub/internal/vault/vaulttest"
)

func TestUpdateProfile(t *testing.T) {
	v, _ := newVault(t, vault.Options{})
	ctx := t.Context()
	p := newProfile("alice")
	must(t, v.CreateProfile(ctx, p))
	want := p
	want.Policy = hub.Policy{Owner: "alice", Delivery: hub.DeliveryGateway, Limits: hub.Limits{Requests: 5, Models: []string{"claude-*"}}, Timeout: time.Hour}
	got, err := v.UpdateProfile(ctx, p.ID, func(p *hub.Profile) error { p.Policy = want.Policy; return nil })
	if err != nil || !same(got, want) {
		t.Errorf("UpdateProfile = %+v, %v; want %+v", got, err, want)
	}
	if got, err := v.Profile(ctx, "alice"); err != nil || !same(got, want) {
		t.Errorf("Profile = %+v, %v; want %+v", got, err, want)
	}
	if got, err := v.ProfileOfOwner(ctx, "ALICE"); err != nil || got.ID != p.ID {
		t.Errorf("ProfileOfOwner = %+v, %v", got, err)
	}
	before, err := v.Generation(ctx, p.ID, hub.KindProfile)
	must(t, err)
	for name, c := range map[string]struct {
		change func(*hub.Profile) error
		want   error
	}{
		"nothing":       {func(*hub.Profile) error { return nil }, nil},
		"an error":      {func(p *hub.Profile) error { p.Policy.Owner = "bob"; return errBoom }, errBoom},
		"the name":      {func(p *hub.Profile) error { p.Name = "bob"; return nil }, hub.ErrInvalid},
		"the ID":        {func(p *hub.Profile) error { p.ID = "p-x"; return nil }, hub.ErrInvalid},
		"the creation":  {func(p *hub.Profile) error { p.Created = time.Now(); return nil }, hub.ErrInvalid},
		"a bad policy":  {func(p *hub.Profile) error { p.Policy.Timeout = -1; return nil }, hub.ErrInvalid},
		"an odd policy": {func(p *hub.Profile) error { p.Policy.Delivery = "broker"; return nil }, hub.ErrInvalid},
	} {
		if _, err := v.UpdateProfile(ctx, p.ID, c.change); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
	}
	if gen, err := v.Generation(ctx, p.ID, hub.KindProfile); err != nil || gen != before {
		t.Errorf("what changes nothing has made generation %d of %d, %v", gen, before, err)
	}
	if _, err := v.UpdateProfile(ctx, "p-nobody", func(*hub.Profile) error { return nil }); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}

// TestUpdateProfileAtEachPointOfFailure: the profile is as it was or as it was to
// be, and says so when asked; the same call again settles it.
func TestUpdateProfileAtEachPointOfFailure(t *testing.T) {
	for _, op := range []vaulttest.Op{vaulttest.OpCreate, vaulttest.OpGet, vaulttest.OpList} {
		for _, after := range []bool{false, true} {
			for skip := range 3 {
				v, f := newVault(t, vault.Options{})
				p := newProfile("alice")
				must(t, v.CreateProfile(t.Context(), p))
				owned := func(p *hub.Profile) error { p.Policy.Owner = "alice"; return nil }
				for range skip {
					f.Inject(vaulttest.Fault{Op: op, After: after, Times: 1, Do: func() {}})
				}
				f.Inject(vaulttest.Fault{Op: op, After: after, Err: errBoom})
				_, err := v.UpdateProfile(t.Context(), p.ID, owned)
				f.Clear()
				got, getErr := v.Profile(t.Context(), "alice")
				if getErr != nil || got.Policy.Owner != "alice" && got.Policy.Owner != "" || err == nil && got.Policy.Owner != "alice" {
					t.Errorf("%s %d after=%v: updated with %v, it is %+v, %v", op, skip, after, err, got, getErr)
				}
				if got, err := v.UpdateProfile(t.Context(), p.ID, owned); err != nil || got.Policy.Owner != "alice" {
					t.Errorf("%s %d after=%v, again: %+v, %v", op, skip, after, got, err)
				}
			}
		}
	}
}

// TestWhatANewerHubHasWrittenStays through updates and a change of name.
func TestWhatANewerHubHasWrittenStays(t *testing.T) {
	v, _ := newVault(t, vault.Options{})
	ctx := t.Context()
	p := newProfile("alice")
	must(t, v.CreateProfile(ctx, p))
	const newer = `{"id":"ID","name":"alice","created":"2026-11-01T02:03:04.000000005Z","colour":"red","big":12345678901234567890,
		"policy":{"owner":"alice","region":{"eu":true},"limits":{"requests":5,"windows":[1,2]}}}`
	_, err := v.Commit(ctx, p.ID, hub.KindProfile, 1, []byte(strings.Replace(newer, "ID", string(p.ID), 1)))
	must(t, err)
	_, err = v.UpdateProfile(ctx, p.ID, func(p *hub.Profile) error { p.Policy = hub.Policy{Model: "claude-haiku-4-5"}; return nil })
	must(t, err)
	_, err = v.RenameProfile(ctx, "alice", "bob")
	must(t, err)
	r, err := v.Latest(ctx, p.ID, hub.KindProfile)
	must(t, err)
	var got map[string]any
	must(t, json.Unmarshal(r.Payload, &got))
	delete(got, "update")
	want := map[string]any{
		"id": string(p.ID), "name": "bob", "created": "2026-11-01T02:03:04.000000005Z", "colour": "red", "big": 12345678901234567890.0,
		"policy": map[string]any{
			"model": "claude-haiku-4-5", "region": map[string]any{"eu": true}, "limits": map[string]any{"windows": []any{1.0, 2.0}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the record differs (-want +got):\n%s", diff)
	}
	if !strings.Contains(string(r.Payload), "12345678901234567890") {
		t.Errorf("a number that this program does not know was rounded: %s", r.Payload)
	}
}

func TestHoldings(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	p := newProfile("alice")
	must(t, v.CreateProfile(t.Context(), p))
	commits(t, v, p.ID, hub.KindLogin, 0, 3)
	commits(t, v, p.ID, hub.KindSnapshot, 0, 1)
	f.Clear()
	got, err := v.Holdings(t.Context(), p.ID)
	must(t, err)
	at := "records/" + string(p.ID) + "/"
	want := []vault.Holding{
		{Kind: hub.KindLogin, Newest: 3, Kept: []hub.Generation{1, 2, 3}, Location: at + "login/"},
		{Kind: hub.KindProfile, Newest: 1, Kept: []hub.Generation{1}, Location: at + "profile/"},
		{Kind: hub.KindSnapshot, Newest: 1, Kept: []hub.Generation{1}, Location: at + "snapshot/"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Holdings differ (-want +got):\n%s", diff)
	}
	for _, c := range f.Calls() {
		if c.Op != vaulttest.OpList {
			t.Errorf("it calls %v; want no record opened", c)
		}
	}
	if got, err := v.Holdings(t.Context(), "p-nobody"); err != nil || len(got) != 0 {
		t.Errorf("of nobody: %v, %v", got, err)
	}
	if _, err := v.Holdings(t.Context(), "../x"); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("of a path: %v", err)
	}
}

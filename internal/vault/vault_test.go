package vault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
	"github.com/claude-hub/claude-hub/internal/vault/vaulttest"
)

const alice, bob hub.ProfileID = "p-alice", "p-bob"

var errBoom = errors.New("boom")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) vault.Key {
	t.Helper()
	key, err := vault.CreateKey(filepath.Join(privateDir(t), "key"))
	must(t, err)
	return key
}

// newVault returns a vault in memory and the faults between the two.
func newVault(t testing.TB, opts vault.Options) (*vault.Vault, *vaulttest.Faulty) {
	t.Helper()
	f := vaulttest.NewFaulty(vaulttest.NewMemory())
	v, err := vault.New(f, newKey(t), opts)
	must(t, err)
	return v, f
}

// commits makes n generations after prev, with payloads "1", "2" and so on.
func commits(t testing.TB, v *vault.Vault, p hub.ProfileID, k hub.Kind, prev hub.Generation, n int) {
	t.Helper()
	for range n {
		_, err := v.Commit(context.Background(), p, k, prev, fmt.Append(nil, prev+1))
		must(t, err)
		prev++
	}
}

func mustLatest(t testing.TB, v *vault.Vault, p hub.ProfileID, k hub.Kind, gen hub.Generation, payload string) {
	t.Helper()
	r, err := v.Latest(context.Background(), p, k)
	if err != nil || r.Generation != gen || string(r.Payload) != payload {
		t.Errorf("Latest is generation %d with %q, %v; want %d with %q", r.Generation, r.Payload, err, gen, payload)
	}
}

func TestCommitMakesTheNextGeneration(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 5, time.FixedZone("X", 3600))
	v, _ := newVault(t, vault.Options{Now: func() time.Time { return now }})
	ctx := t.Context()
	if _, err := v.Latest(ctx, alice, hub.KindLogin); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Latest of nothing: %v; want ErrNotFound", err)
	}
	if gen, err := v.Generation(ctx, alice, hub.KindLogin); gen != 0 || err != nil {
		t.Errorf("Generation of nothing = %d, %v", gen, err)
	}
	r, err := v.Commit(ctx, alice, hub.KindLogin, 0, []byte("one\x00\n"))
	must(t, err)
	if r.Profile != alice || r.Kind != hub.KindLogin || r.Generation != 1 || !r.Created.Equal(now) || string(r.Payload) != "one\x00\n" {
		t.Errorf("Commit returned %v created %v", r, r.Created)
	}
	commits(t, v, alice, hub.KindLogin, 1, 2)
	mustLatest(t, v, alice, hub.KindLogin, 3, "3")
	got, err := v.Get(ctx, alice, hub.KindLogin, 1)
	if err != nil || !got.Created.Equal(now) || string(got.Payload) != "one\x00\n" {
		t.Errorf("Get(1) = %v, %v", got, err)
	}
	if _, err := v.Get(ctx, alice, hub.KindLogin, 4); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Get(4): %v; want ErrNotFound", err)
	}
	// Another kind and another profile count for themselves.
	commits(t, v, alice, hub.KindSetupToken, 0, 1)
	commits(t, v, bob, hub.KindLogin, 0, 1)
	mustLatest(t, v, alice, hub.KindLogin, 3, "3")
	if h, err := v.History(ctx, alice, hub.KindLogin); err != nil || !slices.Equal(h, []hub.Generation{1, 2, 3}) {
		t.Errorf("History = %v, %v", h, err)
	}
}

func TestCommitOntoAnotherGenerationIsAConflict(t *testing.T) {
	v, _ := newVault(t, vault.Options{})
	commits(t, v, alice, hub.KindLogin, 0, 5)
	for _, prev := range []hub.Generation{0, 1, 4, 6, 100, math.MaxUint64 - 1} {
		if _, err := v.Commit(t.Context(), alice, hub.KindLogin, prev, []byte("mine")); !errors.Is(err, hub.ErrConflict) {
			t.Errorf("Commit after %d: %v; want ErrConflict", prev, err)
		}
	}
	mustLatest(t, v, alice, hub.KindLogin, 5, "5")
}

func TestTheSameCommitAgainSucceeds(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	ctx := t.Context()
	first, err := v.Commit(ctx, alice, hub.KindLogin, 0, []byte("one"))
	must(t, err)
	again, err := v.Commit(ctx, alice, hub.KindLogin, 0, []byte("one"))
	if err != nil || !again.Created.Equal(first.Created) || again.Generation != 1 {
		t.Errorf("the same again = %v, %v; want the record that is there", again, err)
	}
	commits(t, v, alice, hub.KindLogin, 1, 2)
	if _, err := v.Commit(ctx, alice, hub.KindLogin, 0, []byte("one")); err != nil {
		t.Errorf("the same again, with two newer ones: %v", err)
	}
	mustLatest(t, v, alice, hub.KindLogin, 3, "3")
	commits(t, v, alice, hub.KindLogin, 3, 6)
	f.Clear()
	if _, err := v.Commit(ctx, alice, hub.KindLogin, 0, []byte("one")); !errors.Is(err, hub.ErrConflict) {
		t.Errorf("the same again, far behind: %v; want ErrConflict", err)
	}
	if calls := f.Calls(); len(calls) != 1 || calls[0].Op != vaulttest.OpList {
		t.Errorf("to say so it called %v; want one look", calls)
	}
}

func TestCommitRefusesBadArguments(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	for name, tc := range map[string]struct {
		profile hub.ProfileID
		kind    hub.Kind
		prev    hub.Generation
		size    int
		want    error
	}{
		"no profile":         {"", hub.KindLogin, 0, 1, hub.ErrInvalid},
		"profile is a path":  {"../x", hub.KindLogin, 0, 1, hub.ErrInvalid},
		"profile with slash": {"a/b", hub.KindLogin, 0, 1, hub.ErrInvalid},
		"profile with NUL":   {"a\x00", hub.KindLogin, 0, 1, hub.ErrInvalid},
		"no kind":            {alice, "", 0, 1, hub.ErrInvalid},
		"unknown kind":       {alice, "wallet", 0, 1, hub.ErrInvalid},
		"the kind of claims": {alice, "name", 0, 1, hub.ErrInvalid},
		"the last number":    {alice, hub.KindLogin, math.MaxUint64, 1, hub.ErrInvalid},
		"credential too big": {alice, hub.KindLogin, 0, 1<<20 + 1, hub.ErrTooLarge},
		"account too big":    {alice, hub.KindAccount, 0, 64<<10 + 1, hub.ErrTooLarge},
		"snapshot too big":   {alice, hub.KindSnapshot, 0, 256<<20 + 1, hub.ErrTooLarge},
	} {
		if _, err := v.Commit(t.Context(), tc.profile, tc.kind, tc.prev, make([]byte, tc.size)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v; want %v", name, err, tc.want)
		}
	}
	if calls := f.Calls(); len(calls) != 0 {
		t.Errorf("the backend was asked: %v", calls)
	}
	if _, err := v.Commit(t.Context(), alice, hub.KindLogin, 0, make([]byte, 1<<20)); err != nil {
		t.Errorf("a credential of the largest size: %v", err)
	}
	if _, err := v.Latest(t.Context(), alice, hub.KindLogin); err != nil {
		t.Errorf("reading the largest: %v", err)
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	key := newKey(t)
	const secret = "AGE-SECRET-KEY-1FAKEFAKEFAKEFAKEFAKEFAKEFAKEFAKEFAKEFAKEFAKEFAKEFAKEFAKEFA"
	for name, opts := range map[string]vault.Options{
		"keep 7":                {Keep: 7},
		"keep -1":               {Keep: -1},
		"keep 2 snapshots":      {KeepSnapshots: 2},
		"no recipient":          {Recipients: []string{"ssh-ed25519 AAAA"}},
		"a recipient too short": {Recipients: []string{"age1xyz"}},
		"a secret key":          {Recipients: []string{secret}},
		"17 recipients":         {Recipients: slices.Repeat([]string{key.Recipient()}, 17)},
	} {
		_, err := vault.New(vaulttest.NewMemory(), key, opts)
		if !errors.Is(err, hub.ErrInvalid) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v; want ErrInvalid", name, err)
		}
	}
	if _, err := vault.New(vaulttest.NewMemory(), vault.Key{}, vault.Options{}); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("no key: %v; want ErrInvalid", err)
	}
}

func TestHistoryIsPrunedButNeverTheNewest(t *testing.T) {
	for _, tc := range []struct {
		kind            hub.Kind
		opts            vault.Options
		atLeast, atMost int
	}{
		{hub.KindLogin, vault.Options{}, 8, 16},
		{hub.KindLogin, vault.Options{Keep: 10}, 10, 20},
		{hub.KindSnapshot, vault.Options{}, 3, 3},
		{hub.KindSnapshot, vault.Options{KeepSnapshots: 5}, 5, 5},
		{hub.KindIntent, vault.Options{}, 8, 16},
		{hub.KindAccount, vault.Options{}, 8, 16},
	} {
		v, f := newVault(t, tc.opts)
		for n := range 40 {
			commits(t, v, alice, tc.kind, hub.Generation(n), 1)
			h, err := v.History(t.Context(), alice, tc.kind)
			must(t, err)
			if len(h) > tc.atMost || len(h) < min(n+1, tc.atLeast) || h[len(h)-1] != hub.Generation(n+1) {
				t.Fatalf("%s, %+v: after %d commits the history is %v; want %d to %d", tc.kind, tc.opts, n+1, h, tc.atLeast, tc.atMost)
			}
		}
		var removed []string
		for _, c := range f.Calls() {
			if c.Op == vaulttest.OpDelete {
				removed = append(removed, c.Key)
			}
		}
		if !slices.IsSorted(removed) {
			t.Errorf("removed in the order %v; Newer relies on the oldest first", removed)
		}
	}
}

func TestAFailingPruneDoesNotFailTheCommit(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	f.Inject(vaulttest.Fault{Op: vaulttest.OpDelete, Err: errBoom})
	commits(t, v, alice, hub.KindLogin, 0, 20)
	f.Clear()
	commits(t, v, alice, hub.KindLogin, 20, 1)
	if h, err := v.History(t.Context(), alice, hub.KindLogin); err != nil || len(h) != 8 || h[7] != 21 {
		t.Errorf("history = %v, %v; want the next commit to catch up", h, err)
	}
}

// TestCommitAtEachPointOfFailure fails each call that a commit makes, before and
// after its effect, once and for as long as it lasts.
func TestCommitAtEachPointOfFailure(t *testing.T) {
	for _, op := range []vaulttest.Op{vaulttest.OpCreate, vaulttest.OpList, vaulttest.OpGet, vaulttest.OpDelete} {
		for _, after := range []bool{false, true} {
			for _, times := range []int{1, 0} {
				t.Run(fmt.Sprintf("%s after=%v times=%d", op, after, times), func(t *testing.T) {
					v, f := newVault(t, vault.Options{})
					commits(t, v, alice, hub.KindLogin, 0, 16) // so that the next one prunes
					f.Inject(vaulttest.Fault{Op: op, After: after, Times: times, Err: errBoom})
					r, err := v.Commit(t.Context(), alice, hub.KindLogin, 16, []byte("17"))
					f.Clear()

					gen, genErr := v.Generation(t.Context(), alice, hub.KindLogin)
					must(t, genErr)
					if gen != 16 && gen != 17 {
						t.Fatalf("generation %d after %v", gen, err)
					}
					if err == nil && (gen != 17 || r.Generation != 17) {
						t.Fatalf("Commit succeeded, and the generation is %d", gen)
					}
					if errors.Is(err, hub.ErrConflict) {
						t.Fatalf("nobody else was there, but: %v", err)
					}
					if err != nil && !errors.Is(err, errBoom) {
						t.Errorf("the cause is lost: %v", err)
					}
					if stored := op == vaulttest.OpCreate && after; stored && gen != 17 {
						t.Errorf("failed but persisted: generation %d", gen)
					}
					// Whatever it was, the same call settles it.
					if _, err := v.Commit(t.Context(), alice, hub.KindLogin, 16, []byte("17")); err != nil {
						t.Fatalf("the same again: %v", err)
					}
					mustLatest(t, v, alice, hub.KindLogin, 17, "17")
				})
			}
		}
	}
}

func TestOneFailedCreateIsSettledByCommitItself(t *testing.T) {
	for _, after := range []bool{false, true} {
		v, f := newVault(t, vault.Options{})
		f.Inject(vaulttest.Fault{Op: vaulttest.OpCreate, After: after, Times: 1, Err: errBoom})
		if _, err := v.Commit(t.Context(), alice, hub.KindLogin, 0, []byte("1")); err != nil {
			t.Errorf("after=%v: %v; want it settled", after, err)
		}
		mustLatest(t, v, alice, hub.KindLogin, 1, "1")
	}
}

func TestAFailedCommitThatLostIsAConflict(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	f.Inject(vaulttest.Fault{Op: vaulttest.OpCreate, Times: 1, Err: errBoom, Do: func() {
		commits(t, v, alice, hub.KindLogin, 0, 1)
	}})
	if _, err := v.Commit(t.Context(), alice, hub.KindLogin, 0, []byte("mine")); !errors.Is(err, hub.ErrConflict) {
		t.Errorf("error = %v; want ErrConflict", err)
	}
	mustLatest(t, v, alice, hub.KindLogin, 1, "1")
}

// TestALateWriterNeverWins stops a writer between its look and its create, while
// others commit so often that the place it goes for has been removed again.
func TestALateWriterNeverWins(t *testing.T) {
	for _, others := range []int{1, 2, 7, 8, 9, 16, 17, 40} {
		v, f := newVault(t, vault.Options{})
		commits(t, v, alice, hub.KindLogin, 0, 5)
		f.Inject(vaulttest.Fault{Op: vaulttest.OpCreate, Times: 1, Do: func() {
			commits(t, v, alice, hub.KindLogin, 5, others)
		}})
		if _, err := v.Commit(t.Context(), alice, hub.KindLogin, 5, []byte("late")); !errors.Is(err, hub.ErrConflict) {
			t.Errorf("%d others came between: %v; want ErrConflict", others, err)
		}
		newest := hub.Generation(5 + others)
		h, err := v.History(t.Context(), alice, hub.KindLogin)
		if err != nil || h[len(h)-1]-h[0] != hub.Generation(len(h)-1) {
			t.Errorf("%d others came between: history %v, %v; want no trace of the late one", others, h, err)
		}
		mustLatest(t, v, alice, hub.KindLogin, newest, fmt.Sprint(newest))
		if _, err := v.Commit(t.Context(), alice, hub.KindLogin, 5, []byte("late")); !errors.Is(err, hub.ErrConflict) {
			t.Errorf("%d others came between, and again: %v; want ErrConflict", others, err)
		}
	}
}

func TestOthersMayFollowAtOnce(t *testing.T) {
	for _, others := range []int{1, 7} {
		v, f := newVault(t, vault.Options{})
		f.Inject(vaulttest.Fault{Op: vaulttest.OpCreate, After: true, Times: 1, Do: func() {
			commits(t, v, alice, hub.KindLogin, 1, others)
		}})
		if _, err := v.Commit(t.Context(), alice, hub.KindLogin, 0, []byte("1")); err != nil {
			t.Errorf("committed, and %d others followed: %v", others, err)
		}
	}
}

func TestLatestFollowsAPrune(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	commits(t, v, alice, hub.KindLogin, 0, 1)
	f.Inject(vaulttest.Fault{Op: vaulttest.OpGet, Times: 1, Do: func() { commits(t, v, alice, hub.KindLogin, 1, 20) }})
	mustLatest(t, v, alice, hub.KindLogin, 21, "21")
}

func TestNewer(t *testing.T) {
	ctx := t.Context()
	for name, backend := range map[string]vault.Backend{"with a prober": newFileBackend(t), "without": vaulttest.NewMemory()} {
		v, err := vault.New(backend, newKey(t), vault.Options{})
		must(t, err)
		for n := range 20 {
			for gen := range 25 {
				want, gone := n > gen, n == 0 && gen > 0
				if got, err := v.Newer(ctx, alice, hub.KindLogin, hub.Generation(gen)); got != want || gone != errors.Is(err, hub.ErrNotFound) || !gone && err != nil {
					t.Fatalf("%s: with %d committed, Newer(%d) = %v, %v", name, n, gen, got, err)
				}
			}
			commits(t, v, alice, hub.KindLogin, hub.Generation(n), 1)
		}
		if _, err := v.Newer(ctx, "../x", hub.KindLogin, 1); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("%s: a bad profile: %v", name, err)
		}
	}
}

// probed counts what is asked of a file backend.
type probed struct {
	*vault.FileBackend
	probes, lists int
}

func (p *probed) Exists(ctx context.Context, key string) (bool, error) {
	p.probes++
	return p.FileBackend.Exists(ctx, key)
}

func (p *probed) List(ctx context.Context, prefix string) ([]string, error) {
	p.lists++
	return p.FileBackend.List(ctx, prefix)
}

func TestNewerCostsTwoProbesAtMost(t *testing.T) {
	b := &probed{FileBackend: newFileBackend(t)}
	v, err := vault.New(b, newKey(t), vault.Options{})
	must(t, err)
	commits(t, v, alice, hub.KindLogin, 0, 15)
	for gen := hub.Generation(1); gen <= 15; gen++ {
		b.probes, b.lists = 0, 0
		if _, err := v.Newer(t.Context(), alice, hub.KindLogin, gen); err != nil || b.probes > 2 || b.lists > 0 {
			t.Errorf("Newer(%d): %v, %d probes, %d lists", gen, err, b.probes, b.lists)
		}
	}
}

func TestGenerationOpensNothing(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	commits(t, v, alice, hub.KindLogin, 0, 3)
	f.Clear()
	if gen, err := v.Generation(t.Context(), alice, hub.KindLogin); gen != 3 || err != nil {
		t.Errorf("Generation = %d, %v", gen, err)
	}
	if _, err := v.Newer(t.Context(), alice, hub.KindLogin, 3); err != nil {
		t.Error(err)
	}
	for _, c := range f.Calls() {
		if c.Op != vaulttest.OpList {
			t.Errorf("it called %v", c)
		}
	}
}

func TestAForeignKeyInTheHistoryIsNamed(t *testing.T) {
	v, f := newVault(t, vault.Options{})
	commits(t, v, alice, hub.KindLogin, 0, 1)
	for _, name := range []string{"backup", "2", "00000000000000000000", "99999999999999999999"} {
		key := fmt.Sprintf("records/%s/login/%s", alice, name)
		must(t, f.Create(t.Context(), key, nil))
		if _, err := v.Latest(t.Context(), alice, hub.KindLogin); !errors.Is(err, hub.ErrFormat) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v; want ErrFormat that names it", name, err)
		}
		must(t, f.Delete(t.Context(), key))
	}
}

func TestRecordsAndKeysDoNotPrintThemselves(t *testing.T) {
	v, _ := newVault(t, vault.Options{})
	r, err := v.Commit(t.Context(), alice, hub.KindLogin, 0, []byte("sk-ant-ort01-fake-canary"))
	must(t, err)
	path := filepath.Join(privateDir(t), "key")
	key, err := vault.CreateKey(path)
	must(t, err)
	type holder struct{ R, K any }
	for _, value := range []any{r, &r, key, &key, holder{r, key}, []any{r, key}} {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "value", value)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "value", value)
		text, err := json.Marshal(value)
		if err == nil {
			t.Errorf("%T was marshalled: %s", value, text)
		}
		for _, canary := range []string{"canary", fmt.Sprintf("%x", "canary"), "99 97 110", "Y2FuYXJ5", "AGE-SECRET", "age-secret"} {
			if strings.Contains(out.String(), canary) {
				t.Errorf("%T prints %q: %s", value, canary, out.String())
			}
		}
	}
}

// TestVaultAgreesWithAModel runs random operations on a vault and on a plain
// slice.
func TestVaultAgreesWithAModel(t *testing.T) {
	key := newKey(t)
	rapid.Check(t, func(t *rapid.T) {
		f := vaulttest.NewFaulty(vaulttest.NewMemory())
		v, err := vault.New(f, key, vault.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var model []string // payloads; generation n is model[n-1]
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				behind := rapid.IntRange(0, min(4, len(model))).Draw(t, "behind")
				payload := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "payload")
				prev := len(model) - behind
				_, err := v.Commit(t.Context(), alice, hub.KindLogin, hub.Generation(prev), []byte(payload))
				if errors.Is(err, errBoom) { // stored or not: the same again settles it
					f.Clear()
					_, err = v.Commit(t.Context(), alice, hub.KindLogin, hub.Generation(prev), []byte(payload))
				}
				switch {
				case behind == 0 && err == nil:
					model = append(model, payload)
				case behind == 0:
					t.Fatal(err)
				case err == nil && model[prev] != payload, err != nil && !errors.Is(err, hub.ErrConflict):
					t.Fatalf("commit after %d of %d: %v", prev, len(model), err)
				}
			},
			"fail": func(t *rapid.T) {
				f.Inject(vaulttest.Fault{Op: vaulttest.OpCreate, After: rapid.Bool().Draw(t, "after"), Times: 1, Err: errBoom})
			},
			"": func(t *rapid.T) {
				gen, err := v.Generation(t.Context(), alice, hub.KindLogin)
				if err != nil || int(gen) != len(model) {
					t.Fatalf("generation %d, %v; want %d", gen, err, len(model))
				}
				if gen > 0 {
					r, err := v.Latest(t.Context(), alice, hub.KindLogin)
					if err != nil || string(r.Payload) != model[gen-1] {
						t.Fatalf("generation %d is %q, %v; want %q", gen, r.Payload, err, model[gen-1])
					}
				}
			},
		})
	})
}

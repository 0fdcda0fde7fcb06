package hub_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

func TestParseOwner(t *testing.T) {
	for in, want := range map[string]string{
		"alice": "alice", "Alice-B": "alice-b", "9": "9", "a-1-b": "a-1-b", "octo_Acme": "octo_acme",
		strings.Repeat("x", 39): strings.Repeat("x", 39),
	} {
		if got, err := hub.ParseOwner(in); err != nil || got != want {
			t.Errorf("ParseOwner(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{
		"", "-a", "a-", "a--b", "@alice", "a.b", "a b", "a/b", "..", "a\x00", "a\nb", "dependabot[bot]", "_x", "x_", "a_b_c", "a_b-c",
		"\u0430lice", "\u212aate", // Cyrillic a; the Kelvin sign, which folds into k
		strings.Repeat("x", 40), strings.Repeat("x", 300), "\xff",
	} {
		if got, err := hub.ParseOwner(bad); !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" {
			t.Errorf("ParseOwner(%q) = %q, %v; want ErrInvalid with a hint", bad, got, err)
		}
	}
}

func FuzzParseOwner(f *testing.F) {
	f.Add("Alice-B")
	f.Add("octo_acme")
	f.Fuzz(func(t *testing.T, s string) {
		owner, err := hub.ParseOwner(s)
		if err != nil {
			return
		}
		if strings.ToLower(s) != owner || strings.ContainsAny(owner, "./\\\x00 \n%@[]") || len(owner) > 39 {
			t.Errorf("%q is the owner %q", s, owner)
		}
		if again, err := hub.ParseOwner(owner); err != nil || again != owner {
			t.Errorf("%q again is %q, %v", owner, again, err)
		}
	})
}

func owned(name hub.ProfileName, owner string, primary bool) hub.Profile {
	return hub.Profile{ID: hub.ProfileID("p-" + string(name)), Name: name, Policy: hub.Policy{Owner: owner, Primary: primary}}
}

func TestProfileOfOwner(t *testing.T) {
	nobody, one := owned("default", "", false), owned("one", "alice", false)
	two, main := owned("two", "alice", false), owned("main", "alice", true)
	for name, c := range map[string]struct {
		profiles []hub.Profile
		login    string
		want     hub.ProfileName
		err      error
	}{
		"the only one":               {[]hub.Profile{nobody, one}, "Alice", "one", nil},
		"the only one is primary":    {[]hub.Profile{main}, "alice", "main", nil},
		"of several the primary one": {[]hub.Profile{one, two, main}, "ALICE", "main", nil},
		"several":                    {[]hub.Profile{one, two}, "alice", "", hub.ErrConflict},
		"two are primary":            {[]hub.Profile{main, owned("other", "alice", true)}, "alice", "", hub.ErrConflict},
		"none":                       {[]hub.Profile{nobody, one}, "bob", "", hub.ErrNotFound},
		"no login":                   {[]hub.Profile{nobody}, "", "", hub.ErrInvalid},
		"a part of a login":          {[]hub.Profile{one}, "alic", "", hub.ErrNotFound},
	} {
		got, err := hub.ProfileOfOwner(c.profiles, c.login)
		if got.Name != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v; want %q, %v", name, got.Name, err, c.want, c.err)
		}
		if err != nil && hub.HintOf(err) == "" {
			t.Errorf("%s: no hint with %v", name, err)
		}
	}
	_, err := hub.ProfileOfOwner([]hub.Profile{one, two}, "alice")
	if !strings.Contains(err.Error(), "one, two") {
		t.Errorf("the owner of several is not told their names: %v", err)
	}
}

func TestPolicyCheck(t *testing.T) {
	good := []hub.Policy{
		{}, {Owner: "alice", Primary: true}, {Delivery: hub.DeliveryCopy, Timeout: time.Hour},
		{Delivery: hub.DeliveryGateway, Model: "claude-sonnet-4-5[1m]", Limits: hub.Limits{Requests: 1, Tokens: 2, Cost: 3, Parallel: 4, Models: []string{"*", "claude-opus-*"}}},
	}
	for _, p := range good {
		if err := p.Check(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	bad := []hub.Policy{
		{Owner: "Alice"}, {Owner: "a b"}, {Primary: true}, {Delivery: "broker"}, {Model: "-x"}, {Model: "a b"}, {Model: strings.Repeat("x", 101)},
		{Timeout: -1}, {Timeout: 8 * 24 * time.Hour}, {Limits: hub.Limits{Requests: -1}}, {Limits: hub.Limits{Tokens: -1}}, {Limits: hub.Limits{Cost: -1}},
		{Limits: hub.Limits{Parallel: -1}}, {Limits: hub.Limits{Models: []string{""}}}, {Limits: hub.Limits{Models: []string{"a*b"}}},
		{Limits: hub.Limits{Models: make([]string, 33)}}, {Delivery: hub.DeliveryCopy, Limits: hub.Limits{Requests: 1}},
	}
	for _, p := range bad {
		if err := p.Check(); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("%+v: %v; want ErrInvalid", p, err)
		}
	}
}

var strict = hub.Policy{
	Delivery: hub.DeliveryGateway, Model: "claude-haiku-4-5", Timeout: time.Hour,
	Limits: hub.Limits{Requests: 100, Tokens: 1000, Cost: 2e6, Parallel: 4, Models: []string{"claude-haiku-*", "claude-sonnet-4-5"}},
}

func TestAPolicyIsTheDefault(t *testing.T) {
	got, err := hub.Profile{Name: "staging", Policy: strict}.Allow(hub.Demand{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Delivery != strict.Delivery || got.Model != strict.Model || got.Timeout != strict.Timeout || got.Limits.Requests != 100 ||
		got.Limits.Tokens != 1000 || got.Limits.Cost != 2e6 || got.Limits.Parallel != 4 || len(got.Limits.Models) != 2 {
		t.Errorf("nothing demanded gives %+v; want the policy", got)
	}
	if got, err := (hub.Profile{}).Allow(hub.Demand{}); err != nil || got.Delivery != "" || got.Model != "" || got.Timeout != 0 || !got.Limits.IsZero() {
		t.Errorf("nothing demanded of no policy gives %+v, %v", got, err)
	}
}

func TestARunTightensItsPolicyAndNeverLoosensIt(t *testing.T) {
	staging := hub.Profile{Name: "staging", Policy: strict}
	tight := hub.Demand{
		Delivery: hub.DeliveryGateway, Model: "claude-sonnet-4-5", Timeout: time.Minute,
		Limits: hub.Limits{Requests: 1, Tokens: 10, Cost: 1, Parallel: 1, Models: []string{"claude-haiku-4*", "claude-haiku-4-5", "claude-sonnet-4-5"}},
	}
	got, err := staging.Allow(tight)
	if err != nil || got.Model != tight.Model || got.Timeout != tight.Timeout || got.Limits.Requests != 1 || got.Limits.Tokens != 10 ||
		got.Limits.Cost != 1 || got.Limits.Parallel != 1 || len(got.Limits.Models) != 3 {
		t.Errorf("tightened, it is %+v, %v; want %+v", got, err, tight)
	}
	loose := map[string]hub.Demand{
		"delivery": {Delivery: hub.DeliveryCopy}, "time": {Timeout: time.Hour + 1},
		"101": {Limits: hub.Limits{Requests: 101}}, "1001": {Limits: hub.Limits{Tokens: 1001}}, "$2.50": {Limits: hub.Limits{Cost: 2.5e6}},
		"5": {Limits: hub.Limits{Parallel: 5}}, "claude-opus-4-1": {Limits: hub.Limits{Models: []string{"claude-haiku-4-5", "claude-opus-4-1"}}},
		"claude-*": {Limits: hub.Limits{Models: []string{"claude-*"}}}, "claude-sonnet-4-5*": {Limits: hub.Limits{Models: []string{"claude-sonnet-4-5*"}}},
	}
	for what, d := range loose {
		var refused *hub.PolicyError
		_, err := staging.Allow(d)
		if !errors.Is(err, hub.ErrRefused) || !errors.As(err, &refused) || refused.Profile != "staging" || !strings.Contains(err.Error(), what) || hub.HintOf(err) == "" {
			t.Errorf("%s is allowed, or not refused in these words: %v", what, err)
		}
	}
	limited := hub.Profile{Name: "limited", Policy: hub.Policy{Limits: hub.Limits{Requests: 5}}}
	if _, err := limited.Allow(hub.Demand{Delivery: hub.DeliveryCopy}); !errors.Is(err, hub.ErrRefused) {
		t.Errorf("a copy escapes the limits of the policy: %v", err)
	}
}

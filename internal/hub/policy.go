package hub

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Policy is what the owner has laid down for a profile: the default for what a
// run does not say itself, and the upper bound of its limits. Zero fields lay
// down nothing.
type Policy struct {
	// Owner is the GitHub login of the one person whose plan the profile uses, in
	// lower case; see [ParseOwner]. Several profiles may have the same owner.
	Owner string `json:"owner,omitempty"`
	// Primary makes this the profile that stands for its owner where the owner
	// has several; see [ProfileOfOwner].
	Primary bool `json:"primary,omitempty"`

	Delivery Delivery      `json:"delivery,omitempty"` // "gateway" laid down rules "copy" out
	Model    string        `json:"model,omitempty"`
	Limits   Limits        `json:"limits,omitzero"` // Lifetime is not used: Timeout bounds leases, too
	Timeout  time.Duration `json:"timeout,omitempty"`
}

// The bounds of a policy.
const (
	MaxTimeout = 7 * 24 * time.Hour // of a run, and of the lease of a command

	maxOwner  = 39 // GitHub's
	maxModel  = 100
	maxModels = 32
)

// ParseOwner accepts a GitHub login by GitHub's rule: 1 to 39 of a-z, A-Z, 0-9 and
// single '-' inside, and for a managed user one '_' before the short code of the
// company. Case means nothing to GitHub, so the result is in lower case. An app's
// "name[bot]" is not accepted: it has no plan.
func ParseOwner(s string) (string, error) {
	owner := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' { // ToLower would fold characters of other scripts into ASCII, too
			r += 'a' - 'A'
		}
		return r
	}, s)
	name, code, managed := strings.Cut(owner, "_")
	ok := len(owner) <= maxOwner && isOwnerPart(name) && (!managed || isOwnerPart(code) && !strings.Contains(code, "-"))
	if !ok {
		return "", Hint(fmt.Errorf("%w: %.60q is not a GitHub login", ErrInvalid, s),
			"give the user's name on GitHub as in github.com/NAME: 1 to 39 letters, digits and single hyphens inside")
	}
	return owner, nil
}

func isOwnerPart(s string) bool {
	for i := range len(s) {
		c := s[i]
		alphanumeric := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		inner := i > 0 && i < len(s)-1 && s[i-1] != '-'
		if !alphanumeric && (c != '-' || !inner) {
			return false
		}
	}
	return s != ""
}

// ProfileOfOwner returns the profile that stands for a GitHub login: the only one
// that it owns, or of several the one that is primary. ErrNotFound if it owns
// none; ErrConflict, with their names, if it owns several and not exactly one of
// them is primary: a wrong guess would spend the wrong plan.
func ProfileOfOwner(profiles []Profile, login string) (Profile, error) {
	owner, err := ParseOwner(login)
	if err != nil {
		return Profile{}, err
	}
	var own, primary []Profile
	for _, p := range profiles {
		if p.Policy.Owner != owner {
			continue
		}
		own = append(own, p)
		if p.Policy.Primary {
			primary = append(primary, p)
		}
	}
	switch {
	case len(primary) == 1:
		return primary[0], nil
	case len(own) == 1:
		return own[0], nil
	case len(own) == 0:
		return Profile{}, Hint(fmt.Errorf("%w: %s owns no profile", ErrNotFound, owner),
			fmt.Sprintf("give the login a profile of its own: `claude-hub profile set NAME --owner %s`", owner))
	}
	names := make([]string, len(own))
	for i, p := range own {
		names[i] = string(p.Name)
	}
	return Profile{}, Hint(fmt.Errorf("%w: %s owns %d profiles, and not one of them is primary: %s", ErrConflict, owner, len(own), strings.Join(names, ", ")),
		"name one with --profile, or make one primary: `claude-hub profile set NAME --primary`")
}

// Check reports what is wrong with a policy that is about to be laid down:
// ErrInvalid, or nil.
func (p Policy) Check() error {
	if p.Owner != "" {
		if owner, err := ParseOwner(p.Owner); err != nil {
			return err
		} else if owner != p.Owner {
			return fmt.Errorf("%w: the owner %q is not in lower case", ErrInvalid, p.Owner)
		}
	}
	if p.Primary && p.Owner == "" {
		return Hint(fmt.Errorf("%w: a profile without an owner can't be an owner's primary one", ErrInvalid), "add --owner LOGIN")
	}
	if _, err := ParseDelivery(string(p.Delivery)); err != nil {
		return err
	}
	if p.Model != "" && !isModel(p.Model) {
		return fmt.Errorf("%w: %.120q is not the name of a model", ErrInvalid, p.Model)
	}
	if p.Timeout < 0 || p.Timeout > MaxTimeout {
		return fmt.Errorf("%w: the timeout %v is not between 0 and %v", ErrInvalid, p.Timeout, MaxTimeout)
	}
	if err := p.Limits.Check(); err != nil {
		return err
	}
	if p.Delivery == DeliveryCopy && !p.Limits.IsZero() {
		return Hint(fmt.Errorf("%w: limits can't be kept in runs that talk to the platform themselves", ErrInvalid),
			"leave out the limits, or the delivery \"copy\"")
	}
	return nil
}

// Check reports whether the limits can be limits: ErrInvalid, or nil.
func (l Limits) Check() error {
	if l.Requests < 0 || l.Tokens < 0 || l.Cost < 0 || l.Parallel < 0 || l.Lifetime < 0 {
		return fmt.Errorf("%w: a limit is negative", ErrInvalid)
	}
	if len(l.Models) > maxModels {
		return fmt.Errorf("%w: %d allowed models (%d can be named)", ErrInvalid, len(l.Models), maxModels)
	}
	for _, m := range l.Models {
		if !isModel(strings.TrimSuffix(m, "*")) && m != "*" {
			return fmt.Errorf("%w: %.120q is not the name of a model, or the start of one before a '*'", ErrInvalid, m)
		}
	}
	return nil
}

// IsZero reports whether there is no limit.
func (l Limits) IsZero() bool {
	return l.Requests == 0 && l.Tokens == 0 && l.Cost == 0 && len(l.Models) == 0 && l.Lifetime == 0 && l.Parallel == 0
}

// isModel accepts what providers call models: 1 to 100 characters of letters,
// digits and ".-_:/@[]", the first of them no hyphen, which would be a flag.
func isModel(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._:/@[]", rune(c)) && (c != '-' || i == 0) {
			return false
		}
	}
	return s != "" && len(s) <= maxModel
}

// PolicyError says that a run asks for more than its profile's policy allows. It
// is ErrRefused.
type PolicyError struct {
	Profile ProfileName
	Text    string // for a person
}

func (e *PolicyError) Error() string {
	return fmt.Sprintf("the policy of profile %q %s", e.Profile, e.Text)
}

func (e *PolicyError) Unwrap() error { return ErrRefused }

// Demand is what one run or one command asks for, as far as policies are about
// it. Zero fields ask for nothing in particular.
type Demand struct {
	Delivery Delivery
	Model    string
	Limits   Limits
	Timeout  time.Duration
}

// Allow returns d with what the profile's policy lays down where d says nothing.
// Where d asks for more than the policy allows it is a *PolicyError: a run may
// tighten the policy and never loosen it.
func (p Profile) Allow(d Demand) (Demand, error) {
	policy := p.Policy
	refuse := func(format string, args ...any) (Demand, error) {
		return d, Hint(&PolicyError{p.Name, fmt.Sprintf(format, args...)},
			fmt.Sprintf("ask for less, or see and change it with `claude-hub profile show %s` and `claude-hub profile set %s`", p.Name, p.Name))
	}
	most, l := policy.Limits, d.Limits
	switch {
	case policy.Delivery == DeliveryGateway && d.Delivery == DeliveryCopy:
		return refuse("lays down the delivery %q, and the run asks for %q", policy.Delivery, d.Delivery)
	case d.Delivery == DeliveryCopy && !most.IsZero():
		return refuse("has limits, which can't be kept with the delivery %q", d.Delivery)
	case policy.Timeout > 0 && d.Timeout > policy.Timeout:
		return refuse("allows %v of time, not %v", policy.Timeout, d.Timeout)
	case most.Requests > 0 && l.Requests > most.Requests:
		return refuse("allows %d requests, not %d", most.Requests, l.Requests)
	case most.Tokens > 0 && l.Tokens > most.Tokens:
		return refuse("allows %d tokens, not %d", most.Tokens, l.Tokens)
	case most.Cost > 0 && l.Cost > most.Cost:
		return refuse("allows $%.2f at list price, not $%.2f", most.Cost.USD(), l.Cost.USD())
	case most.Parallel > 0 && l.Parallel > most.Parallel:
		return refuse("allows %d requests at once, not %d", most.Parallel, l.Parallel)
	}
	for _, m := range l.Models {
		if len(most.Models) > 0 && !slices.ContainsFunc(most.Models, func(allowed string) bool { return covers(allowed, m) }) {
			return refuse("allows the models %s, not %s", strings.Join(most.Models, ", "), m)
		}
	}
	if len(l.Models) == 0 {
		l.Models = most.Models
	}
	return Demand{
		Delivery: cmp.Or(d.Delivery, policy.Delivery),
		Model:    cmp.Or(d.Model, policy.Model),
		Timeout:  cmp.Or(d.Timeout, policy.Timeout),
		Limits: Limits{
			Requests: cmp.Or(l.Requests, most.Requests), Tokens: cmp.Or(l.Tokens, most.Tokens), Cost: cmp.Or(l.Cost, most.Cost),
			Models: slices.Clone(l.Models), Lifetime: l.Lifetime, Parallel: cmp.Or(l.Parallel, most.Parallel),
		},
	}, nil
}

// covers reports whether all that the pattern narrow matches, wide matches, too.
// Patterns are names, or prefixes before a '*'.
func covers(wide, narrow string) bool {
	if prefix, ok := strings.CutSuffix(wide, "*"); ok {
		return strings.HasPrefix(narrow, prefix)
	}
	return wide == narrow
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

const groupLogin = "logins"

// When a person is told of an end to come, ahead of it.
const (
	tellLogin = 7 * 24 * time.Hour
	tellSpare = 30 * 24 * time.Hour
)

// loginLife is how long the provider lets a login live, from its sign-in.
const loginLife = 30 * 24 * time.Hour

var loginsCheck = check{
	name: "logins", group: groupLogin, hub: true, limit: 30 * time.Second,
	looks: []Entry{
		{ID: "login-none", Level: LevelWarning, Meaning: "nobody has signed in yet, or a profile has no login"},
		{ID: "login-expired", Level: LevelError, Meaning: "the provider's 30 days are over: only a new sign-in helps"},
		{ID: "login-required", Level: LevelError, Meaning: "the platform accepts the login no more, or its rotation was lost: only a new sign-in helps"},
		{ID: "login-expiring", Level: LevelWarning, Meaning: "the provider's 30 days end within 7"},
		{ID: "refresh-failing", Level: LevelWarning, Meaning: "refreshes fail for now; the access token still lives, or the outcome is being found out"},
		{ID: "refresh-interrupted", Level: LevelWarning, Fixable: true, Meaning: "a refresh was interrupted, and waits to be finished from its private directory"},
		{ID: "refresh-state", Level: LevelError, Meaning: "what is known of a profile's refreshes can't be read"},
		{ID: "second-writer", Level: LevelError, Meaning: "somebody else has used the login's refresh token: a copy of it is at work elsewhere"},
		{ID: "handed-over", Level: LevelWarning, Meaning: "the login was moved to another hub, which alone refreshes it now"},
		{ID: "login-copied", Level: LevelWarning, Meaning: "a copy of the login with its refresh token was left somewhere: a second writer in waiting"},
		{ID: "spare-in-use", Level: LevelWarning, Meaning: "runs use the setup token, because the login can't be used"},
		{ID: "setup-token-expired", Level: LevelError, Meaning: "the setup token's year is over"},
		{ID: "setup-token-expiring", Level: LevelWarning, Meaning: "the setup token's year ends within 30 days"},
		{ID: "setup-token-refused", Level: LevelWarning, Meaning: "the platform does not accept the setup token"},
	},
	run: lookAtLogins,
}

// profiles returns the profiles that can be read.
func (p *patient) profiles(ctx context.Context) (*vault.Vault, []hub.Profile) {
	v, err := p.vault()
	if err != nil {
		return nil, nil // key, vault and permissions have findings of their own
	}
	profiles, _ := v.Profiles(ctx) // the vault check names the others
	return v, profiles
}

func lookAtLogins(ctx context.Context, p *patient) []Finding {
	v, profiles := p.profiles(ctx)
	if v == nil || p.Logins == nil {
		return nil
	}
	if len(profiles) == 0 {
		if names, err := p.anyNames(ctx); err != nil || names {
			return nil // there are some: the vault check says why they can't be read
		}
		return []Finding{{
			ID: "login-none", Level: LevelWarning,
			Symptom: "nobody has signed in yet",
			Cause:   "the hub is new, or every profile was removed",
			Fix:     "`claude-hub login`",
		}}
	}
	var found []Finding
	for _, l := range p.Logins(ctx, v, profiles) {
		found = append(found, p.login(ctx, v, l)...)
	}
	return found
}

func (p *patient) anyNames(ctx context.Context) (bool, error) {
	backend, err := p.backend()
	if err != nil {
		return false, err
	}
	keys, err := backend.List(ctx, "names/")
	return len(keys) > 0, err
}

// signIn is the command that signs in to a profile again.
func signIn(profile hub.Profile, flags string) string {
	if profile.Name != hub.DefaultProfile {
		flags += " --profile " + string(profile.Name)
	}
	return "`claude-hub login" + flags + "`"
}

func (p *patient) login(ctx context.Context, v *vault.Vault, l Login) []Finding {
	name := l.Profile.Name
	if err := unusableSpare(ctx, v, l.Profile); err != nil {
		return []Finding{{
			ID: "credential-empty", Level: LevelError,
			Symptom: fmt.Sprintf("the setup token of %q that the vault holds can't be used: %v", name, err),
			Cause:   "it was written by another version, or by hand",
			Fix:     signIn(l.Profile, " --setup-token"),
		}}
	}
	if err := unusable(ctx, v, l.Profile); err != nil {
		return []Finding{{
			ID: "credential-empty", Level: LevelError,
			Symptom: fmt.Sprintf("the login of %q that the vault holds can't be used: %v", name, err),
			Cause:   "the sign-in was not completed, or a CLI had blanked its tokens before they were taken over",
			Fix:     signIn(l.Profile, ""),
		}}
	}
	if l.Err != nil {
		if !p.opens(ctx, v, l.Profile) {
			return nil // the vault check says so
		}
		return []Finding{{
			ID: "refresh-state", Level: LevelError,
			Symptom: fmt.Sprintf("what is known of the refreshes of %q can't be read: %v", name, l.Err),
			Cause:   "the file was cut off or changed, or its permissions keep the hub out; it may have said that the refresh token must not be sent again",
			Fix:     hintOr(l.Err, signIn(l.Profile, "")),
		}}
	}
	p.foresee(ctx, v, l)
	return append(append(p.health(l), p.spareOf(l)...), p.interrupted(l)...)
}

// opens reports whether what the vault holds of the profile's credentials opens.
func (p *patient) opens(ctx context.Context, v *vault.Vault, profile hub.Profile) bool {
	for _, kind := range []hub.Kind{hub.KindLogin, hub.KindSetupToken, hub.KindHandover} {
		if _, err := v.Latest(ctx, profile.ID, kind); err != nil && !errors.Is(err, hub.ErrNotFound) {
			return false
		}
	}
	return true
}

// unusable says what is wrong with the login that the vault holds, if there is one
// that opens.
func unusable(ctx context.Context, v *vault.Vault, profile hub.Profile) error {
	record, err := v.Latest(ctx, profile.ID, hub.KindLogin)
	if err != nil {
		return nil //nolint:nilerr // there is none, or the vault check says why it does not open
	}
	_, err = agent.ParseCredentials(record.Payload)
	return err
}

// unusableSpare is unusable for the setup token.
func unusableSpare(ctx context.Context, v *vault.Vault, profile hub.Profile) error {
	record, err := v.Latest(ctx, profile.ID, hub.KindSetupToken)
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	_, err = agent.ParseSetupToken(record.Payload)
	return err
}

// health finds at most one thing: the one that a person has to act on first.
func (p *patient) health(l Login) []Finding {
	now, name := p.Now(), l.Profile.Name
	f := Finding{Level: LevelError, Fix: signIn(l.Profile, "")}
	ends := !l.LoginExpires.IsZero()
	switch {
	case l.HandedOver != "":
		f.ID, f.Level = "handed-over", LevelWarning
		f.Symptom = fmt.Sprintf("the login of %q was moved to %s and is not refreshed here any more", name, l.HandedOver)
		f.Cause = "`claude-hub export --move` handed it over: two hubs that refresh one login would both lose it"
		f.Fix += " gives this hub a login of its own"
	case l.SecondWriter:
		f.ID = "second-writer"
		f.Symptom = fmt.Sprintf("the platform refuses a refresh token of %q that was never sent from here before: somebody else has used it", name)
		f.Cause = "a copy of this login is at work: the machine or directory that it was imported from, a container with a captured `~/.claude`, or a restored backup of this hub; or you have signed it out at the provider"
		f.Fix = "stop the other one (`claude logout` there, or remove its copy), and then sign in here: " + f.Fix
	case ends && !now.Before(l.LoginExpires):
		f.ID = "login-expired"
		f.Symptom = fmt.Sprintf("the login of %q has ended on %s", name, day(l.LoginExpires))
		f.Cause = "the provider ends a login 30 days after its sign-in, however well it is refreshed"
	case l.Health == hub.HealthLoginRequired && !l.SignedIn && l.Spare == nil:
		f.ID, f.Level = "login-none", LevelWarning
		f.Symptom = fmt.Sprintf("the profile %q has no login", name)
		f.Cause = "its sign-in was not completed"
	case l.Health == hub.HealthLoginRequired:
		f.ID = "login-required"
		f.Symptom = fmt.Sprintf("the login of %q is of no use any more", name)
		f.Cause = l.Reason
	case l.Health == hub.HealthSuspect || l.Failures > 0:
		f.ID, f.Level = "refresh-failing", LevelWarning
		f.Symptom = fmt.Sprintf("the last %d refreshes of %q have failed", l.Failures, name)
		f.Cause = l.Reason
		f.Fix = "it is tried again by itself; `claude-hub doctor --live` asks whether the platform is there, `claude-hub refresh` tries now"
	case ends && now.Add(tellLogin).After(l.LoginExpires):
		f.ID, f.Level = "login-expiring", LevelWarning
		f.Symptom = fmt.Sprintf("the login of %q ends on %s, in %s", name, day(l.LoginExpires), days(l.LoginExpires.Sub(now)))
		f.Cause = "the provider ends a login 30 days after its sign-in; no refresh extends that"
		f.Fix += " at any time before that: runs go on meanwhile"
	case l.CopiedTo != "":
		f.ID, f.Level = "login-copied", LevelWarning
		f.Symptom = fmt.Sprintf("a copy of the login of %q with its refresh token was left at %s", name, l.CopiedTo)
		f.Cause = "`claude-hub restore` or `claude-hub export` was told to: whichever of the two refreshes first signs the other one out"
		f.Fix += " gives this hub a login of its own, which the copy can't spend; the copy itself ends when you sign it out at the provider"
	default:
		return nil
	}
	return []Finding{f}
}

func day(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

func days(d time.Duration) string {
	if n := int(d / (24 * time.Hour)); n >= 2 {
		return fmt.Sprintf("%d days", n)
	}
	return d.Round(time.Minute).String()
}

// foresee notes when the login ends. Where the provider did not say so, it is at
// most 30 days after the sign-in, which the snapshot's record dates.
func (p *patient) foresee(ctx context.Context, v *vault.Vault, l Login) {
	f := Forecast{Profile: l.Profile.Name, What: "login", Ends: l.LoginExpires}
	if f.Ends.IsZero() && l.SignedIn {
		if r, err := v.Latest(ctx, l.Profile.ID, hub.KindSnapshot); err == nil {
			f.Ends, f.AtLatest = r.Created.Add(loginLife), true
		}
	}
	if l.SignedIn && l.Health != hub.HealthLoginRequired && f.Ends.After(p.Now()) {
		p.forecast(f)
	}
	if l.Spare != nil && l.Spare.Expires.After(p.Now()) {
		p.forecast(Forecast{Profile: l.Profile.Name, What: "setup-token", Ends: l.Spare.Expires})
	}
}

func (p *patient) spareOf(l Login) []Finding {
	if l.Spare == nil {
		return nil
	}
	now, name := p.Now(), l.Profile.Name
	f := Finding{Level: LevelWarning, Fix: signIn(l.Profile, " --setup-token")}
	switch {
	case !now.Before(l.Spare.Expires):
		f.ID = "setup-token-expired"
		f.Symptom = fmt.Sprintf("the setup token of %q has ended on %s", name, day(l.Spare.Expires))
		f.Cause = "a setup token is good for one year"
		if !l.SignedIn || l.Health == hub.HealthLoginRequired {
			f.Level = LevelError
		}
	case l.Spare.Refused:
		f.ID = "setup-token-refused"
		f.Symptom = fmt.Sprintf("the platform does not accept the setup token of %q", name)
		f.Cause = "it was revoked, or the account's password was changed"
	case now.Add(tellSpare).After(l.Spare.Expires):
		f.ID = "setup-token-expiring"
		f.Symptom = fmt.Sprintf("the setup token of %q ends on %s, in %s", name, day(l.Spare.Expires), days(l.Spare.Expires.Sub(now)))
		f.Cause = "a setup token is good for one year"
	case l.ServedBySpare && l.SignedIn:
		f.ID = "spare-in-use"
		f.Symptom = fmt.Sprintf("runs of %q use its setup token", name)
		f.Cause = "the login can't be used for now"
		f.Fix = signIn(l.Profile, "")
	default:
		return nil
	}
	return []Finding{f}
}

func (p *patient) interrupted(l Login) []Finding {
	if !l.Interrupted || l.Health == hub.HealthLoginRequired { // then the directory is the evidence, and a sign-in ends it
		return nil
	}
	f := Finding{
		ID: "refresh-interrupted", Level: LevelWarning,
		Symptom: fmt.Sprintf("a refresh of %q was interrupted", l.Profile.Name),
		Cause:   "the machine or the helper died in the middle of it; its private directory holds what came of it",
		Fix:     "the next run or `claude-hub refresh` finishes it: never remove that directory",
	}
	if p.Finish != nil {
		f.repair = func(ctx context.Context) (string, error) {
			return fmt.Sprintf("finished the refresh of %q", l.Profile.Name), p.Finish(ctx, l.Profile.ID)
		}
	}
	return []Finding{f}
}

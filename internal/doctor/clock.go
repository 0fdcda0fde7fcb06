package doctor

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

var clockCheck = check{
	name: "clock", group: groupNetwork, limit: 30 * time.Second,
	looks: []Entry{
		{ID: "clock-skew", Level: LevelError, Meaning: "this machine's clock is wrong: behind records of the vault, or (with --live) apart from the platform's"},
		{ID: "platform-unreachable", Level: LevelError, Meaning: "(with --live) the platform does not answer"},
	},
	run: lookAtClock,
}

// How far two clocks may be apart. A date in an answer is in whole seconds, and the
// answer has been on its way.
const (
	littleSkew = 30 * time.Second
	muchSkew   = 5 * time.Minute
)

// lookAtClock knows three witnesses. The vault's records, which this machine dated
// itself, prove that the clock was set back. The platform's own date proves skew
// either way, but nobody is asked without the owner's word. That the kernel says
// that its clock is not synchronised is no finding by itself, since it says so on
// most virtual machines and in most containers, whose clocks are right; it is
// named as a cause.
func lookAtClock(ctx context.Context, p *patient) []Finding {
	found := p.future(ctx)
	if p.Date == nil {
		return found
	}
	before := p.Now()
	date, err := p.Date(ctx)
	after := p.Now()
	if err != nil {
		return append(found, Finding{
			ID: "platform-unreachable", Level: LevelError,
			Symptom: fmt.Sprintf("the platform does not answer: %v", err),
			Cause:   "no network, a proxy or a firewall in the way, certificates that are missing (see ca-*), or an outage",
			Fix:     "try `curl -I https://api.anthropic.com/api/hello` from here; behind a company's proxy set HTTPS_PROXY and NODE_EXTRA_CA_CERTS",
		})
	}
	skew := before.Add(after.Sub(before) / 2).Sub(date)
	if skew.Abs() <= littleSkew {
		return found
	}
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	f := skewed(fmt.Sprintf("this machine's clock is %s %s the platform's", skew.Abs().Round(time.Second), direction))
	if skew.Abs() < muchSkew {
		f.Level = LevelWarning
	}
	return append(found, f)
}

func skewed(symptom string) Finding {
	f := Finding{
		ID: "clock-skew", Level: LevelError, Symptom: symptom,
		Cause: "the clock was set by hand, the machine slept, or nothing keeps its time; tokens then seem to live longer or shorter than they do",
		Fix:   "sudo timedatectl set-ntp true; in a virtual machine, restart its time service (`sudo systemctl restart systemd-timesyncd` or chrony)",
	}
	if unsynchronised() {
		f.Cause += "; the kernel says that its clock is not synchronised"
	}
	return f
}

// unsynchronised reports whether the kernel says so.
func unsynchronised() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && (state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0)
}

// future finds records that were dated later than now.
func (p *patient) future(ctx context.Context) []Finding {
	v, profiles := p.profiles(ctx)
	if v == nil {
		return nil
	}
	var latest time.Time
	for _, profile := range profiles {
		for _, kind := range []hub.Kind{hub.KindProfile, hub.KindLogin, hub.KindIntent} {
			if r, err := v.Latest(ctx, profile.ID, kind); err == nil && r.Created.After(latest) {
				latest = r.Created
			}
		}
	}
	ahead := latest.Sub(p.Now())
	if ahead <= littleSkew {
		return nil
	}
	return []Finding{skewed(fmt.Sprintf("the vault has a record of %s, which is %s from now", day(latest), ahead.Round(time.Second)))}
}

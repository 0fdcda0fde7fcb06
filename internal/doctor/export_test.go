package doctor

import (
	"context"
	"slices"
	"time"
)

// NewWith returns a doctor with these checks alone.
func NewWith(cfg Config, checks ...check) *Doctor {
	d := New(cfg)
	d.checks = checks
	return d
}

// Fake is a check with little time.
func Fake(name string, run func(ctx context.Context) []Finding) check {
	return check{name: name, limit: 50 * time.Millisecond, run: func(ctx context.Context, _ *patient) []Finding { return run(ctx) }}
}

// Once has a treatment make the check once.
func Once(c check) check {
	c.once = true
	return c
}

// Repairable returns f with a fix.
func Repairable(f Finding, repair func(context.Context) (string, error)) Finding {
	f.repair = repair
	return f
}

var (
	ParseMounts       = parseMounts
	SealedTo          = sealedTo
	ParseCertificates = parseCertificates
	ProxyAddress      = proxyAddress
)

// ParseVaultPath says whether a name in the vault is a stranger's.
func ParseVaultPath(path string) (gen uint64, stranger bool) {
	f := parseVaultPath(path)
	return uint64(f.gen), f.stranger()
}

// NewWithout returns a doctor without the checks of those names.
func NewWithout(cfg Config, names ...string) *Doctor {
	d := New(cfg)
	d.checks = slices.DeleteFunc(d.checks, func(c check) bool { return slices.Contains(names, c.name) })
	return d
}

func (m mount) Target() string { return m.target }
func (m mount) Deleted() bool  { return m.deleted }

// AfterExamination has do run before each repair.
func AfterExamination(d *Doctor, do func()) *Doctor {
	for i, c := range d.checks {
		d.checks[i].run = func(ctx context.Context, p *patient) []Finding {
			found := c.run(ctx, p)
			for j, f := range found {
				if f.repair != nil {
					found[j].repair = func(ctx context.Context) (string, error) { do(); return f.repair(ctx) }
				}
			}
			return found
		}
	}
	return d
}

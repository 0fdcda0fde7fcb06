// Package doctor finds what is wrong with a hub, says why and what helps, and
// mends what a program can mend. What it guarantees:
//
//  1. [Doctor.Examine] changes nothing, on the disk or elsewhere. It sends nothing
//     to the platform, but where the owner asked for that (Config.Date).
//  2. It works on a broken hub: each check opens only what it needs, has a time
//     limit of its own, and a check that panics or hangs is a finding.
//  3. A finding is never silent about the way out: it has a symptom, a cause and a
//     fix, and says whether [Doctor.Treat] can do the fix.
//  4. Treat does what findings say, one after the other, and no more. It never
//     deletes a key or a record of the vault.
//  5. No finding contains a secret: what it quotes is scrubbed.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	LevelError   Level = "error"   // something does not work, or a login is lost
	LevelWarning Level = "warning" // it works for now
)

// Finding is one thing that is wrong. Its JSON is an interface.
type Finding struct {
	ID      string `json:"id"` // stable; [Catalog] lists them
	Level   Level  `json:"level"`
	Symptom string `json:"symptom"` // what is seen, one line
	Cause   string `json:"cause"`   // why, as far as it is known, one line
	Fix     string `json:"fix"`     // what to do next; a command stands in backquotes
	Fixable bool   `json:"fixable"` // Treat does it

	repair func(context.Context) (did string, err error) // nil: a person must do it
}

// Forecast is when something ends of which nobody need be told yet.
type Forecast struct {
	Profile hub.ProfileName `json:"profile"`
	What    string          `json:"what"` // "login" or "setup-token"
	Ends    time.Time       `json:"ends"`
	// AtLatest: the provider did not say when; this is 30 days from the sign-in.
	AtLatest bool `json:"at_latest,omitempty"`
}

// Report is what an examination has come to.
type Report struct {
	Findings  []Finding  `json:"findings"` // in the order of the checks; never nil
	Checked   []string   `json:"checked"`  // the IDs that were looked for
	Forecasts []Forecast `json:"forecasts"`
	Repairs   []Repair   `json:"repairs,omitempty"` // only after Treat
}

// Errors counts the findings of that level.
func (r Report) Errors() int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == LevelError {
			n++
		}
	}
	return n
}

// Repair is one fix that was tried.
type Repair struct {
	ID    string `json:"id"`
	Did   string `json:"did,omitempty"`
	Error string `json:"error,omitempty"`
}

// Config says what to look at. Only Dir is required; a part that is nil is not
// looked at.
type Config struct {
	Dir     string           // the hub's directory, absolute
	KeyFile string           // the key, where a secret store has put it; "": it is in Dir
	Look    []string         // directories with a captured login, to look at, too
	Environ []string         // nil: none
	Version string           // of this program; "": its daemon's is not compared
	Now     func() time.Time // nil: time.Now

	// Settings reads config.yaml. Its error says what is wrong there.
	Settings func() (Settings, error)
	// Logins returns what is known of each profile's login, without changing
	// anything. Those that can't be read have an Err.
	Logins func(ctx context.Context, v *vault.Vault, profiles []hub.Profile) []Login
	// Finish brings a profile's interrupted refresh to its end.
	Finish func(ctx context.Context, profile hub.ProfileID) error
	// Sandboxes returns what runs could be confined with, the chosen one first.
	Sandboxes func() []Sandbox
	// Images returns the container images that runs here use: none where they need
	// none.
	Images func(ctx context.Context) []Image
	// Date asks the platform for its clock. Nil: nobody is asked.
	Date func(ctx context.Context) (time.Time, error)
	// Mounts is the kernel's list of mounts. "": /proc/self/mountinfo.
	Mounts string
}

// Settings is what matters here of config.yaml.
type Settings struct {
	RecoveryRecipients []string
}

// Login is what is known of one profile's login.
type Login struct {
	Profile hub.Profile
	Err     error // of reading the rest

	Health        hub.Health
	Reason        string
	SignedIn      bool
	LoginExpires  time.Time // zero: not known
	Failures      int
	Interrupted   bool // a refresh was, and waits to be finished
	ServedBySpare bool
	SecondWriter  bool   // somebody else has used the refresh token
	HandedOver    string // to whom the login was moved; "" if it was not
	CopiedTo      string // where a copy with its refresh token was left; "" if nowhere
	Spare         *Spare // nil: none
}

// Spare is a profile's setup token.
type Spare struct {
	Expires time.Time
	Refused bool
}

// Sandbox is one way to confine runs.
type Sandbox struct {
	Name   string
	Wanted bool // the settings demand this one: if it does not work, nothing does
	Engine bool // it is a container engine
	// Check tries it. hub.ErrNotFound of an engine means that only the image is
	// missing.
	Check func(ctx context.Context) error
}

// Image is a container image.
type Image struct {
	Name  string
	Err   error  // it is missing, or can't be looked at; its hint says what helps
	Stale string // why it should be built anew; "" if it need not
}

// Doctor examines one hub. Its methods are not for concurrent use.
type Doctor struct {
	cfg    Config
	checks []check
	kept   map[string][]Finding // of the checks that Treat has made once
}

// New returns a doctor with all checks.
func New(cfg Config) *Doctor {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Mounts = cmp.Or(cfg.Mounts, "/proc/self/mountinfo")
	return &Doctor{cfg: cfg, checks: checks()}
}

// check is one look at the hub. Adding one is a file with a value of this type,
// and its line in checks.
type check struct {
	name  string
	group string
	looks []Entry       // what it can find
	limit time.Duration // 0: checkLimit
	hub   bool          // it makes sense only where there is a hub
	once  bool          // no repair has a say in it: Treat makes it once
	run   func(ctx context.Context, p *patient) []Finding
}

// Entry describes an ID for the reference.
type Entry struct {
	ID      string
	Level   Level // the worst
	Meaning string
	Fixable bool // where it can be, Treat does it
	group   string
}

// Group is the heading that the finding belongs under.
func (e Entry) Group() string { return e.group }

// checkLimit is what a check may take, if it does not say otherwise. The slowest
// that is not patient takes some 50 ms.
const checkLimit = 10 * time.Second

// grace is for a check to come back after its limit.
const grace = time.Second

// parallel is how many checks are at work at once.
const parallel = 4

func checks() []check {
	return []check{
		homeCheck, permissionsCheck, ownerCheck, configCheck, diskCheck, mountsCheck,
		keyCheck, vaultCheck, recoveryCheck,
		loginsCheck, capturedCheck, scratchCheck, environmentCheck,
		agentCheck, sandboxCheck, imageCheck,
		proxyCheck, caCheck, clockCheck,
		daemonCheck, storeCheck,
	}
}

// failed is found by the doctor about its own checks.
var failed = Entry{ID: "check-failed", Level: LevelError, Meaning: "a check of the doctor's own panicked or hung, so that what it looks for is not known", group: "doctor"}

// Catalog returns every ID that a finding can have, in the order of the checks.
func Catalog() []Entry {
	var all []Entry
	for _, c := range checks() {
		for _, e := range c.looks {
			e.group = c.group
			all = append(all, e)
		}
	}
	return append(all, failed)
}

// Examine makes all checks, some at a time.
func (d *Doctor) Examine(ctx context.Context) Report {
	p := newPatient(d.cfg)
	there := soon(func() bool { return isHub(d.cfg.Dir) })
	found := make([][]Finding, len(d.checks))
	report := Report{Findings: []Finding{}, Checked: []string{}, Forecasts: []Forecast{}}
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, c := range d.checks {
		if c.hub && !there {
			continue
		}
		for _, e := range c.looks {
			report.Checked = append(report.Checked, e.ID)
		}
		if kept, ok := d.kept[c.name]; ok {
			found[i] = kept
			continue
		}
		group.Go(func() error {
			found[i] = bounded(ctx, c, p)
			if c.hub {
				found[i] = p.forOwner(found[i])
			}
			return nil
		})
	}
	group.Wait() //nolint:errcheck // none of them returns one
	for i, c := range d.checks {
		if c.once && d.kept != nil {
			d.kept[c.name] = found[i]
		}
	}
	for _, list := range found {
		for _, f := range list {
			report.Findings = append(report.Findings, f.tidy())
		}
	}
	p.mu.Lock()
	report.Forecasts = append(report.Forecasts, p.forecasts...)
	p.mu.Unlock()
	return report
}

// bounded makes one check and returns within its time, come what may. A check that
// does not end is left behind: the program ends soon after.
func bounded(ctx context.Context, c check, p *patient) []Finding {
	limit := cmp.Or(c.limit, checkLimit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []Finding, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- []Finding{failure(c, fmt.Sprintf("it panicked: %v (%.300s)", r, debug.Stack()))}
			}
		}()
		done <- c.run(ctx, p)
	}()
	select {
	case found := <-done:
		return found
	case <-ctx.Done():
	}
	select {
	case found := <-done:
		return found
	case <-time.After(grace):
		return []Finding{failure(c, fmt.Sprintf("it did not end within %s", limit))}
	}
}

// soon returns what look does, or true where it does not come back: the checks
// that follow then say what hangs.
func soon(look func() bool) bool {
	done := make(chan bool, 1)
	go func() { done <- look() }()
	select {
	case ok := <-done:
		return ok
	case <-time.After(checkLimit):
		return true
	}
}

func failure(c check, why string) Finding {
	return Finding{
		ID: failed.ID, Level: failed.Level,
		Symptom: fmt.Sprintf("the check %q did not come to an end", c.name),
		Cause:   why,
		Fix:     "try again; if it stays so, look at what it looks at (a hanging network file system?) and report it",
	}
}

// maxText bounds each text of a finding, in bytes.
const maxText = 600

// tidy makes f fit to be shown.
func (f Finding) tidy() Finding {
	for _, s := range []*string{&f.Symptom, &f.Cause, &f.Fix} {
		*s = clean(*s)
	}
	f.Fixable = f.repair != nil
	return f
}

// clean returns s on one line, bounded, and without anything like a token.
func clean(s string) string {
	b := secret.Scrub([]byte(s))
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = ' '
		}
	}
	if len(b) > maxText {
		b = append(b[:maxText:maxText], "…"...)
	}
	return string(b)
}

// rounds bounds Treat: a fix can show what was hidden behind its fault.
const rounds = 4

// Treat examines, does the fixes that can be done, and examines again, until there
// is nothing left that it can do. The report is of the last examination. A fix
// that failed is not tried again. When ctx ends, no further fix is begun.
func (d *Doctor) Treat(ctx context.Context) Report {
	var repairs []Repair
	tried := map[string]bool{}
	d.kept = map[string][]Finding{}
	defer func() { d.kept = nil }()
	report := d.Examine(ctx)
	for range rounds {
		before := len(repairs)
		for _, f := range report.Findings {
			if f.repair == nil || tried[f.ID+f.Symptom] || ctx.Err() != nil {
				continue
			}
			tried[f.ID+f.Symptom] = true
			repairs = append(repairs, mend(ctx, f))
		}
		if len(repairs) == before {
			break
		}
		report = d.Examine(ctx)
	}
	report.Repairs = repairs
	return report
}

func mend(ctx context.Context, f Finding) (r Repair) {
	defer func() {
		if p := recover(); p != nil {
			r = Repair{ID: f.ID, Error: clean(fmt.Sprint("it panicked: ", p))}
		}
	}()
	did, err := f.repair(ctx)
	r = Repair{ID: f.ID, Did: clean(did)}
	if err != nil {
		r.Error = clean(err.Error())
	}
	return r
}

// patient is the hub under examination. What several checks need is opened once.
type patient struct {
	Config

	key      func() (vault.Key, error)
	backend  func() (*vault.FileBackend, error)
	settings func() (Settings, error)
	vault    func() (*vault.Vault, error)

	mu        sync.Mutex
	forecasts []Forecast // guarded by mu
}

func newPatient(cfg Config) *patient {
	p := &patient{Config: cfg}
	p.key = sync.OnceValues(func() (vault.Key, error) {
		if p.KeyFile != "" {
			return vault.ReadMountedKey(p.KeyFile)
		}
		return vault.ReadKey(p.keyPath())
	})
	p.backend = sync.OnceValues(func() (*vault.FileBackend, error) { return vault.Look(p.path("vault")) })
	p.settings = sync.OnceValues(func() (Settings, error) {
		if p.Settings == nil {
			return Settings{}, nil
		}
		return p.Settings()
	})
	p.vault = sync.OnceValues(p.openVault)
	return p
}

// openVault opens the vault to look at: nothing can be written through it.
func (p *patient) openVault() (*vault.Vault, error) {
	backend, err := p.backend()
	if err != nil {
		return nil, err
	}
	key, err := p.key()
	if err != nil {
		return nil, err
	}
	return vault.New(unwritable{backend}, key, vault.Options{Now: p.Now})
}

// unwritable refuses to write, so that no check can do so by mistake.
type unwritable struct{ *vault.FileBackend }

func (unwritable) Create(context.Context, string, []byte) error { return errUnwritable }
func (unwritable) Delete(context.Context, ...string) error      { return errUnwritable }
func (unwritable) Lock(context.Context) (func(), error)         { return nil, errUnwritable }

var errUnwritable = fmt.Errorf("%w: the doctor only looks", hub.ErrRefused)

func (p *patient) forecast(f Forecast) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forecasts = append(p.forecasts, f)
	slices.SortFunc(p.forecasts, func(a, b Forecast) int { return cmp.Or(a.Ends.Compare(b.Ends), cmp.Compare(a.Profile, b.Profile)) })
}

package run

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// Bounds of what is taken and kept.
const (
	MaxPrompt      = 2 << 20 // bytes of a prompt
	DefaultTimeout = 30 * time.Minute

	maxTimeout = 7 * 24 * time.Hour
	maxPrompt  = 2000     // bytes of the prompt kept in the record
	maxResult  = 64 << 10 // bytes of the CLI's closing words kept in the record
	maxReason  = 500
	maxModels  = 20 // names of models in the record
	maxModel   = 100
)

// Request asks for one run.
type Request struct {
	Profile hub.Profile
	Dir     string // the workspace: an absolute path of a directory
	Prompt  string // 1 byte to [MaxPrompt]
	Model   string // "" is the CLI's choice

	// Timeout is for the whole run. 0 is [DefaultTimeout].
	Timeout time.Duration

	// Limits bounds the lease. A zero Lifetime is the timeout and a bit. With
	// [hub.DeliveryCopy] nobody could enforce them, so they are refused there.
	Limits hub.Limits

	Delivery     hub.Delivery // "" is [hub.DeliveryGateway]
	AllowedTools []string     // nil is every tool: the sandbox is the boundary
	MaxTurns     int          // 0 is no limit
	Instructions string       // appended to the CLI's system prompt

	// Resume goes on with the session of a run that has ended, of the same profile
	// in the same directory. "" starts a new one.
	Resume  hub.RunID
	session string // the CLI's name of it

	// Park puts the run aside, without a verdict, where it would end for want of a
	// login or of the plan's window, or because its process stops or dies. Somebody
	// must call [Resumer.Start] on the directory then.
	Park bool `json:"-"`

	// Plan is what the placeholder says of the profile's plan. The zero value
	// says nothing, and the CLI then treats the plan as unknown.
	Plan Plan
}

// Plan is what a login says of the owner's plan; there is no secret in it.
type Plan struct {
	Scopes        []string
	Subscription  string
	RateLimitTier string
}

func (r Request) invocation() agent.Invocation {
	return agent.Invocation{Prompt: r.Prompt, Model: r.Model, AllowedTools: r.AllowedTools, MaxTurns: r.MaxTurns, Instructions: r.Instructions, Resume: r.session}
}

// check returns req with its defaults, and Dir with its links resolved.
func (r *Runner) check(req Request) (Request, error) {
	if err := r.checkParts(); err != nil {
		return req, err
	}
	if req.Profile.ID == "" || req.Profile.Name == "" {
		return req, fmt.Errorf("%w: the run names no profile", hub.ErrInvalid)
	}
	if err := checkPrompt(req.Prompt); err != nil {
		return req, err
	}
	if err := req.invocation().Check(); err != nil {
		return req, err
	}
	req.Timeout = cmp.Or(req.Timeout, DefaultTimeout)
	if req.Timeout < 0 || req.Timeout > maxTimeout {
		return req, fmt.Errorf("%w: the timeout %v is not between 0 and %v", hub.ErrInvalid, req.Timeout, maxTimeout)
	}
	if err := r.checkDelivery(&req); err != nil {
		return req, err
	}
	var err error
	req.Dir, err = r.checkWorkspace(req.Dir)
	return req, err
}

// checkParts reports what this runner lacks to run anything.
func (r *Runner) checkParts() error {
	switch {
	case r.cfg.Agent == "":
		return hub.Hint(fmt.Errorf("%w: the claude CLI", hub.ErrNotFound), "get it with `claude-hub agent install`")
	case r.cfg.Driver == nil || r.cfg.Gateway == nil:
		return fmt.Errorf("%w: this hub has no sandbox or no gateway", hub.ErrNotFound)
	}
	return nil
}

func checkPrompt(prompt string) error {
	switch {
	case len(prompt) > MaxPrompt:
		err := fmt.Errorf("%w: the prompt has %d bytes, and %d are allowed: %w", hub.ErrInvalid, len(prompt), MaxPrompt, hub.ErrTooLarge)
		return hub.Hint(err, "put the text in a file of the workspace and name it in the prompt")
	case !utf8.ValidString(prompt) || strings.ContainsRune(prompt, 0):
		return fmt.Errorf("%w: the prompt is not UTF-8 text without NUL", hub.ErrInvalid)
	}
	return nil
}

func (r *Runner) checkDelivery(req *Request) error {
	req.Delivery = cmp.Or(req.Delivery, hub.DeliveryGateway)
	l := req.Limits
	if l.Requests < 0 || l.Tokens < 0 || l.Cost < 0 || l.Parallel < 0 || l.Lifetime < 0 {
		return fmt.Errorf("%w: a limit is negative", hub.ErrInvalid)
	}
	switch req.Delivery {
	case hub.DeliveryGateway:
		// The lease outlives the timeout, so that the timeout is what the run is said to have ended by.
		lifetime := req.Timeout + 2*r.cfg.Grace + time.Minute
		if l.Lifetime == 0 || l.Lifetime > lifetime {
			req.Limits.Lifetime = lifetime
		}
	case hub.DeliveryCopy:
		if r.cfg.Platform == nil {
			return fmt.Errorf("%w: this hub does not deliver copies of a login", hub.ErrInvalid)
		}
		if l.Requests != 0 || l.Tokens != 0 || l.Cost != 0 || l.Parallel != 0 || l.Lifetime != 0 || len(l.Models) > 0 {
			return hub.Hint(fmt.Errorf("%w: limits can't be kept in a run that talks to the platform itself", hub.ErrInvalid),
				"leave out the limits, or the delivery \"copy\"")
		}
	default:
		return fmt.Errorf("%w: there is no delivery %q", hub.ErrInvalid, req.Delivery)
	}
	return nil
}

// checkWorkspace resolves dir and refuses directories that a job must not write
// to: with them it could change the hub, its logins, the CLI that the hub
// itself runs, or the system.
func (r *Runner) checkWorkspace(dir string) (string, error) {
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("%w: the workspace %q is not an absolute path", hub.ErrInvalid, dir)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", hub.Hint(fmt.Errorf("%w: workspace: %w", hub.ErrInvalid, err), "name an existing directory with --dir")
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return "", hub.Hint(fmt.Errorf("%w: the workspace %s is not a directory", hub.ErrInvalid, dir), "name a directory with --dir")
	}
	if what := r.protected(real); what != "" {
		return "", hub.Hint(fmt.Errorf("%w: the workspace %s is, holds or lies in %s, and a job can write to all of its workspace", hub.ErrInvalid, dir, what),
			"make a directory for the work and name it with --dir")
	}
	return real, nil
}

// protected says what a job could damage if it could write to dir, or nothing.
func (r *Runner) protected(dir string) string {
	if dir == "/" || slices.ContainsFunc(system, func(p string) bool { return contains(dir, p) || contains(p, dir) }) {
		return "a part of the system"
	}
	if slices.ContainsFunc(shared, func(p string) bool { return contains(dir, p) }) {
		return "files of other programs and their sockets"
	}
	program, _ := os.Executable()
	for _, p := range []struct {
		path, name string
		below      bool // what lies in it is protected too
	}{
		{r.cfg.Home, "your home directory", false},
		{filepath.Join(r.cfg.Home, ".claude"), "your own claude configuration", true},
		{r.cfg.Dir, "the hub's directory", true},
		{r.cfg.Agent, "the claude CLI that the hub runs", false},
		{program, "the hub's own program", false},
	} {
		if p.path == "" || !filepath.IsAbs(p.path) {
			continue
		}
		real, err := filepath.EvalSymlinks(p.path)
		if err != nil {
			real = p.path
		}
		if contains(dir, real) || contains(dir, p.path) || p.below && contains(real, dir) {
			return p.name
		}
	}
	return ""
}

// No workspace may be one of these, hold one, or, with system, lie in one.
var (
	system = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr/bin", "/usr/lib", "/usr/sbin"}
	shared = []string{"/home", "/tmp", "/var/lib", "/var/run", "/var/tmp"}
)

// contains reports whether path is dir or lies below it.
func contains(dir, path string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// excerpt returns the start of s for a record: at most n bytes, whole characters,
// no tokens, and nothing that moves a terminal's cursor.
func excerpt(s string, n int) string {
	s = string(secret.Scrub([]byte(cut(s, 2*n)))) // a token at the end must not survive by being cut
	s = strings.Map(func(c rune) rune {
		if c == '\n' || c == '\t' || unicode.IsGraphic(c) {
			return c
		}
		return -1
	}, strings.ToValidUTF8(s, ""))
	return cut(s, n)
}

// line is an excerpt on one line.
func line(s string) string {
	return excerpt(strings.Join(strings.Fields(cut(s, 4*maxReason)), " "), maxReason)
}

// cut returns the first n bytes of s, fewer if that would split a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Package bubblewrap runs sandboxes with Debian's bubblewrap, as root or as an
// ordinary user. Beyond what package sandbox promises:
//
//  1. The job is user 1000 without capabilities in namespaces of its own, under a
//     system call filter; /proc is read-only, so that not even a root hub's job,
//     which owns the kernel's settings there, can change them.
//  2. Memory and processes are bounded by a control group where this process may
//     make one. Elsewhere the sandbox's processes are counted four times a
//     second, and a job can overshoot for that long.
//  3. Nothing that the hub says to bubblewrap can be read from the host's process
//     list but paths: command and environment go through a pipe.
//  4. The sandbox dies with the hub twice over: by the kernel's parent-death
//     signal, and because PID 1 inside holds the other end of a pipe.
//
// Files that the job writes belong to the hub's own user on the host.
package bubblewrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/cgroup"
	"github.com/claude-hub/claude-hub/internal/sandbox/seccomp"
)

// Config is the driver's settings; the zero value is a good one.
type Config struct {
	// Program is bubblewrap. "" looks for bwrap on PATH.
	Program string
	// Shim is the binary that is PID 1 inside: one whose main starts with package
	// shim. "" is this process's own.
	Shim string
	// Grace is how long a command that was interrupted has until it is killed. 0
	// is 5 s.
	Grace time.Duration
	// Interval is the time between two looks at memory, processes and disk. 0 is
	// 250 ms.
	Interval time.Duration
	// NoCgroup has the driver count memory and processes itself, even where it
	// could make control groups.
	NoCgroup bool
	// Log gets what is odd but no error. Nil is slog.Default.
	Log *slog.Logger
}

// Driver is a sandbox.Driver.
type Driver struct {
	program, shim   string
	grace, interval time.Duration
	log             *slog.Logger
	system          []string // arguments
	etc             []etcFile
	seccomp         []byte
	cgroups         func() *cgroup.Groups // nil where there are none; found once
}

// New returns a driver. It starts nothing and does not look whether bubblewrap
// works; see Check.
func New(cfg Config) (*Driver, error) {
	d := &Driver{
		program:  cfg.Program,
		shim:     cfg.Shim,
		grace:    cmp.Or(cfg.Grace, 5*time.Second),
		interval: cmp.Or(cfg.Interval, 250*time.Millisecond),
		log:      cmp.Or(cfg.Log, slog.Default()),
		system:   systemArgs(),
		etc:      etcFiles(),
		seccomp:  seccomp.Filter(),
		cgroups:  sync.OnceValue(cgroup.Find),
	}
	if cfg.NoCgroup {
		d.cgroups = func() *cgroup.Groups { return nil }
	}
	if d.shim == "" {
		d.shim = "/proc/self/exe" // what runs, even if its file has been replaced since
	}
	if d.program == "" {
		path, err := exec.LookPath("bwrap")
		if err != nil {
			return nil, hub.Hint(fmt.Errorf("%w: bubblewrap (bwrap) is not installed", hub.ErrNotFound), installHint)
		}
		d.program = path
	}
	return d, nil
}

const (
	installHint = "sudo apt-get install bubblewrap"
	usernsHint  = "user namespaces seem to be off; as root: sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000 (Ubuntu 24.04: also kernel.apparmor_restrict_unprivileged_userns=0)"
	oldHint     = "bubblewrap 0.7.0 or newer is needed; Debian 12 and Ubuntu 24.04 have it"
)

// Name is "bubblewrap".
func (d *Driver) Name() string { return "bubblewrap" }

// Cgroup reports whether control groups bound memory and processes here.
func (d *Driver) Cgroup() bool { return d.cgroups() != nil }

// Check runs /bin/true in a sandbox.
func (d *Driver) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s, err := d.Start(ctx, sandbox.Spec{Args: []string{"/bin/true"}})
	if err != nil {
		return explain(err)
	}
	exit, err := s.Wait()
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("/bin/true in a sandbox ended with %+v", exit)
	}
	return err
}

// explain adds to the failure of a first sandbox what a person can do.
func explain(err error) error {
	text := err.Error()
	switch {
	case hub.HintOf(err) != "":
		return err
	case errors.Is(err, os.ErrNotExist) && strings.Contains(text, "bwrap"):
		return hub.Hint(err, installHint)
	case strings.Contains(text, "Unknown option"):
		return hub.Hint(err, oldHint)
	case strings.Contains(text, "namespace") || strings.Contains(text, "uid map") || strings.Contains(text, "RTM_NEWADDR"):
		return hub.Hint(err, usernsHint)
	}
	return hub.Hint(err, "run `bwrap --unshare-all --ro-bind / / true` by hand to see what the machine refuses")
}

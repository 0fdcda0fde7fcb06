package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// HelperConfig is what a helper process works with; it mirrors [Config].
type HelperConfig struct {
	// Vault, Dir: as in Config. Required.
	Vault *vault.Vault
	Dir   string
	// VaultDir is where the vault's files are, if it has any, so that room for a
	// new generation can be checked. "": <Dir>/vault, if that exists.
	VaultDir string
	// Agent is the path of the CLI. Required.
	Agent string
	// Args are the arguments that the Refresher appended to Config.Command. Required.
	Args []string
	// Environ is what the CLI's scrubbed environment is made from. Nil: os.Environ().
	Environ []string
	// Proxy returns the proxy on the way to the platform, nil for none. Nil:
	// http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// Probe asks whether an access token is accepted. Nil: [NewProbe] with a
	// client that obeys the environment.
	Probe Probe
	// Patience is how long the CLI may take. 0: 45 s, more than its own patience.
	Patience time.Duration
	// Backoff is the wait after the first failure. 0: 5 s.
	Backoff time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Failpoint, if set, is called at each step's beginning and end, by name. For
	// tests, which kill the process there or make the step fail.
	Failpoint func(name string) error
}

// HelperMain is the body of the hidden command that a [Refresher] starts. It
// finishes what an interrupted refresh of the profile left over, does what it was
// asked for, and leaves the result in the vault and the status file. An error
// means that not even the status file could be written, or that the refresh was
// not started for want of room or a writable vault.
//
// It is on its own: SIGTERM, SIGINT and SIGHUP are ignored from here to the end
// of the process, which comes by itself after one minute or so.
func HelperMain(ctx context.Context, cfg HelperConfig) (err error) {
	h, err := newHelper(cfg)
	if err != nil {
		return err
	}
	// Notify, not Ignore: what is ignored stays ignored in the CLI.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	syscall.Umask(0o077)
	ctx = context.WithoutCancel(ctx)
	if err := h.place.make(); err != nil {
		return err
	}
	log, err := openLog(h.place.log())
	if err != nil {
		return err
	}
	defer log.Close()
	h.log = slog.New(slog.NewTextHandler(secret.NewWriter(log), nil)).With("pid", os.Getpid())
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("panic", "value", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New("the refresh helper panicked; see " + h.place.log())
		}
	}()
	lock, err := h.takeLock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := h.run(ctx); err != nil {
		h.log.Error("not done", "err", err)
		return err
	}
	return nil
}

// helper is one process's work on one profile.
type helper struct {
	cfg     HelperConfig
	profile hub.ProfileID
	req     request
	lockFD  int // the lock's descriptor, handed down by the parent; 0 if not
	place   place
	log     *slog.Logger
}

func newHelper(cfg HelperConfig) (*helper, error) {
	dir, err := hubDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	if cfg.Vault == nil || cfg.Agent == "" {
		return nil, fmt.Errorf("%w: a refresh helper needs a vault and a CLI", hub.ErrInvalid)
	}
	if cfg.VaultDir == "" {
		cfg.VaultDir = filepath.Join(dir, "vault")
	}
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	if cfg.Proxy == nil {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	if cfg.Probe == nil {
		client, err := PlatformClient()
		if err != nil {
			return nil, err
		}
		cfg.Probe = NewProbe(client)
	}
	if cfg.Patience == 0 {
		cfg.Patience = 45 * time.Second
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = firstBackoff
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Failpoint == nil {
		cfg.Failpoint = func(string) error { return nil }
	}
	h := &helper{cfg: cfg}
	if err := h.parse(cfg.Args); err != nil {
		return nil, err
	}
	h.place = placeOf(cfg.Dir, h.profile)
	return h, nil
}

func (h *helper) parse(args []string) error {
	for _, arg := range args {
		var err error
		switch {
		case strings.HasPrefix(arg, argProfile):
			h.profile = hub.ProfileID(arg[len(argProfile):])
		case strings.HasPrefix(arg, argMode):
			h.req.mode = mode(arg[len(argMode):])
		case strings.HasPrefix(arg, argFrom):
			var n uint64
			n, err = strconv.ParseUint(arg[len(argFrom):], 10, 64)
			h.req.from = hub.Generation(n)
		case strings.HasPrefix(arg, argLock):
			h.lockFD, err = strconv.Atoi(arg[len(argLock):])
		default:
			err = fmt.Errorf("%w: the argument %q", hub.ErrInvalid, arg)
		}
		if err != nil {
			return fmt.Errorf("reading the helper's arguments: %w", err)
		}
	}
	if !slices.Contains([]mode{modeDue, modeDead, modeForce, modeRecover}, h.req.mode) {
		return fmt.Errorf("%w: the mode %q", hub.ErrInvalid, h.req.mode)
	}
	return checkProfileID(h.profile)
}

// takeLock takes over the lock that the parent handed down, or waits for it when
// started by hand.
func (h *helper) takeLock(ctx context.Context) (*os.File, error) {
	if h.lockFD != 0 && isLock(h.lockFD, h.place.lock()) {
		syscall.CloseOnExec(h.lockFD) // the CLI must not hold it
		return os.NewFile(uintptr(h.lockFD), "lock"), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return takeLock(ctx, h.place.lock())
}

// isLock reports whether the descriptor is the lock at path, and holds it. Any
// other descriptor is the runtime's, and left alone.
func isLock(fd int, path string) bool {
	var have, want syscall.Stat_t
	return syscall.Fstat(fd, &have) == nil && syscall.Stat(path, &want) == nil &&
		have.Dev == want.Dev && have.Ino == want.Ino &&
		syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

const maxLog = 256 << 10

// openLog opens the profile's log; a long one becomes helper.log.1 first.
func openLog(path string) (*os.File, error) {
	if info, err := os.Lstat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("opening the helper's log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the helper's log: %w", err)
	}
	return f, nil
}

// run does the work, with the lock held.
func (h *helper) run(ctx context.Context) error {
	if err := h.finishLeftovers(ctx); err != nil {
		return err
	}
	if h.req.mode == modeRecover {
		return nil
	}
	rec, err := h.cfg.Vault.Latest(ctx, h.profile, hub.KindLogin)
	if err != nil {
		return fmt.Errorf("reading the login: %w", err)
	}
	l, err := parseLogin(rec)
	if err != nil {
		return err
	}
	handover, _, err := readHandover(ctx, h.cfg.Vault, h.profile)
	if err != nil {
		return err
	}
	l = l.after(handover, 0)
	st, err := h.place.readState()
	if err != nil && h.req.mode != modeForce {
		return err
	}
	st = st.of(l.gen)
	if ok, err := h.mayRefresh(ctx, l, st); !ok || err != nil {
		return err
	}
	return h.refresh(ctx, l, st)
}

// finishLeftovers finishes every refresh that was interrupted.
func (h *helper) finishLeftovers(ctx context.Context) error {
	dirs, err := h.place.attempts()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		a, err := openAttempt(dir)
		switch {
		case err == nil:
			err = h.finishLeftover(ctx, a)
		case errors.Is(err, hub.ErrNotFound):
			err = (&attempt{dir: dir}).remove()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *helper) finishLeftover(ctx context.Context, a *attempt) error {
	h.log.Info("finishing an interrupted refresh", "attempt", filepath.Base(a.dir), "generation", a.log.Generation)
	wait, cancel := context.WithDeadline(ctx, a.log.Started.Add(h.cfg.Patience+5*time.Second))
	defer cancel()
	a.waitCLI(wait)
	if err := h.finish(ctx, a); err != nil {
		return err
	}
	if h.req.mode == modeForce && a.there() { // what it has to say is in the status, and the owner goes on regardless
		return a.remove()
	}
	return nil
}

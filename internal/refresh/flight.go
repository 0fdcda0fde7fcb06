package refresh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// mode says why a refresh is wanted.
type mode string

const (
	modeDue     mode = "due"     // the token is near its end: nothing is done if the helper finds it is not
	modeDead    mode = "dead"    // the platform answered 401
	modeForce   mode = "force"   // the owner wants it, whatever the status says
	modeRecover mode = "recover" // only finish what was interrupted
)

// request is what a helper is asked for: a generation newer than from.
type request struct {
	mode mode
	from hub.Generation
}

// The helper's arguments. The lock's descriptor is always the first extra one.
const (
	argProfile = "--profile="
	argMode    = "--mode="
	argFrom    = "--from="
	argLock    = "--lock-fd="
	lockFD     = 3
)

func (q request) args(id hub.ProfileID) []string {
	return []string{
		argProfile + string(id), argMode + string(q.mode),
		argFrom + strconv.FormatUint(uint64(q.from), 10), argLock + strconv.Itoa(lockFD),
	}
}

// flight is one helper at work, and those who wait for it.
type flight struct {
	done chan struct{}
	err  error // written before done is closed
}

// fly returns the profile's flight, starting one if there is none. It outlives its
// callers.
func (r *Refresher) fly(e *entry, req request) *flight {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight != nil {
		return e.flight
	}
	f := &flight{done: make(chan struct{})}
	if !r.begin() {
		f.err = errStopped
		close(f.done)
		return f
	}
	e.flight = f
	go func() {
		defer r.wg.Done()
		ctx, cancel := context.WithTimeoutCause(r.life, r.cfg.Deadline, errors.New("the helper takes too long; it goes on, and so may you, later"))
		defer cancel()
		err := r.runFlight(ctx, e.id, req)
		r.land(e, f, err)
	}()
	return f
}

// begin counts one more goroutine, unless the Refresher was stopped.
func (r *Refresher) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	r.wg.Add(1)
	return true
}

// land notes how a flight ended and frees the way for the next one.
func (r *Refresher) land(e *entry, f *flight, err error) {
	if err != nil && !errors.Is(err, errStopped) {
		r.log.Error("a refresh helper failed", "profile", e.id, "err", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flight = nil
	e.lastErr = err
	if err == nil {
		e.failures, e.notBefore = 0, time.Time{}
	} else {
		e.failures++
		e.notBefore = r.cfg.Now().Add(backoff(e.failures, r.cfg.Backoff, longestUnsent))
	}
	f.err = err
	close(f.done)
	select {
	case r.landed <- struct{}{}:
	default:
	}
}

// await waits for f as long as ctx lives. A flight's error is not the caller's
// while there is a token to serve: the next look at the state decides that.
func (r *Refresher) await(ctx context.Context, f *flight) error {
	select {
	case <-f.done:
		if errors.Is(f.err, errStopped) {
			return f.err
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// runFlight takes the profile's lock, looks whether another process has done the
// work meanwhile, and if not hands the lock to a helper and waits for it.
func (r *Refresher) runFlight(ctx context.Context, id hub.ProfileID, req request) error {
	p := placeOf(r.cfg.Dir, id)
	if err := p.make(); err != nil {
		return err
	}
	lock, err := takeLock(ctx, p.lock())
	if err != nil {
		return r.stoppedOr(err)
	}
	defer lock.Close()
	gen, err := r.cfg.Vault.Generation(ctx, id, hub.KindLogin)
	if err != nil {
		return fmt.Errorf("looking for the login: %w", err)
	}
	if gen > req.from && req.mode != modeRecover || req.mode == modeRecover && !p.leftovers() {
		return nil
	}
	return r.stoppedOr(r.runHelper(ctx, id, req, lock))
}

// stoppedOr says that the Refresher was stopped, if that is why err came.
func (r *Refresher) stoppedOr(err error) error {
	if err != nil && r.life.Err() != nil {
		return errStopped
	}
	return err
}

// runHelper starts a helper that owns lock from then on, and waits for its end.
// Nothing ties the helper to this process: no terminal, no pipe, no signal.
func (r *Refresher) runHelper(ctx context.Context, id hub.ProfileID, req request, lock *os.File) error {
	words, err := memoryFile()
	if err != nil {
		return err
	}
	defer words.Close()
	cmd := exec.Command(r.cfg.Command[0], append(r.cfg.Command[1:len(r.cfg.Command):len(r.cfg.Command)], req.args(id)...)...)
	cmd.Dir, cmd.Env = r.cfg.Dir, r.cfg.Environ
	cmd.Stdout, cmd.Stderr = words, words // a file, not a pipe
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the refresh helper: %w", err)
	}
	lock.Close() // the helper has its own copy
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // reaps it also when nobody waits any more
	select {
	case err := <-ended:
		return helperError(err, words)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// memoryFile returns a file that takes what a helper says in its last moments,
// also when the disk is full, and can't block or kill it as a pipe could.
func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("claude-hub-refresh", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "words"), nil
}

// helperError makes an error of a helper's exit and its words.
func helperError(err error, words io.ReaderAt) error {
	if err == nil {
		return nil
	}
	b := make([]byte, 4<<10)
	n, _ := words.ReadAt(b, 0)
	text := strings.TrimSpace(tidy(string(b[:n])))
	if text == "" {
		return fmt.Errorf("the refresh helper: %w", err)
	}
	return fmt.Errorf("the refresh helper: %s", text)
}

package refresh

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/door"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// tokenEndpoint is the one address that the door opens to.
const tokenEndpoint = "platform.claude.com:443"

// mayRefresh reports whether the generation's refresh token should and may be sent.
func (h *helper) mayRefresh(ctx context.Context, l *login, st state) (bool, error) {
	now := h.cfg.Now()
	switch {
	case l.gen > h.req.from: // done by somebody else, or by finishing what was left over
		return false, nil
	case l.moved != nil: // whatever the mode: another hub is its writer now
		h.log.Info("not refreshed: the login was handed over", "generation", l.gen, "to", l.moved.To)
		return false, nil
	case h.req.mode == modeForce:
		return true, nil
	case h.place.leftovers(): // what became of the refresh token is not known yet, or never will be
		return false, nil
	case st.Health == hub.HealthLoginRequired, l.ended(now), l.cred.RefreshToken.IsZero():
		return false, nil
	case now.Before(st.NotBefore):
		return false, nil
	case h.req.mode == modeDue && now.Before(l.advisory):
		return false, nil
	case h.early(l, st) > maxEarly && st.Failures == 0:
		return false, h.failed(st, "the platform refuses access tokens as soon as they are made", longestBackoff)
	case st.Doubt && now.Before(l.mandatory):
		return h.askAgain(ctx, l, st)
	}
	return true, nil
}

// askAgain asks once more whether a refresh without an answer was rotated, before
// the same refresh token is sent again.
func (h *helper) askAgain(ctx context.Context, l *login, st state) (bool, error) {
	accepted, err := h.cfg.Probe(ctx, l.cred.AccessToken)
	if err != nil {
		return false, h.failed(st, err.Error(), longestUnsent)
	}
	if !accepted {
		return false, h.lost(st)
	}
	return true, nil
}

// maxEarly is how many generations in a row may be refused young before that
// counts as a failure; else a platform that refuses everything would be made to
// rotate with every request.
const maxEarly = 10

// early returns how many generations in a row died young, l included.
func (h *helper) early(l *login, st state) int {
	young := min(10*time.Second, l.cred.ExpiresAt.Sub(l.created)/4)
	if h.req.mode != modeDead || h.cfg.Now().Sub(l.created) >= young {
		return 0
	}
	return st.Early + 1
}

// refresh sends l's refresh token and finishes with whatever comes of it.
func (h *helper) refresh(ctx context.Context, l *login, st state) error {
	a, err := h.prepare(ctx, l, st)
	if err != nil {
		err = fmt.Errorf("the refresh was not started: %w", err)
		if serr := h.failed(st, err.Error(), longestUnsent); serr != nil {
			return err // the parent keeps it in memory
		}
		return nil
	}
	h.log.Info("refreshing", "generation", l.gen, "mode", h.req.mode, "attempt", a.dir)
	if err := h.send(ctx, a, l); err != nil {
		h.log.Error("the CLI was not run to its end", "err", err)
		if werr := a.addWords(err.Error()); werr != nil {
			return errors.Join(err, werr)
		}
	}
	return h.finish(ctx, a)
}

// prepare proves that there is room and that the vault can be written, and leaves
// a durable intent in both places.
func (h *helper) prepare(ctx context.Context, l *login, st state) (*attempt, error) {
	if err := h.cfg.Failpoint("intent.before"); err != nil {
		return nil, err
	}
	for _, dir := range []string{h.place.dir, h.cfg.VaultDir} {
		if err := checkRoom(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	log := attemptLog{Profile: h.profile, Generation: l.gen, Started: h.cfg.Now(), Mode: h.req.mode, Early: h.early(l, st)}
	if err := h.commitIntent(ctx, log); err != nil {
		return nil, err
	}
	a, err := newAttempt(h.place, log)
	if err != nil {
		return nil, err
	}
	return a, h.cfg.Failpoint("intent.after")
}

func (h *helper) commitIntent(ctx context.Context, log attemptLog) error {
	prev, err := h.cfg.Vault.Generation(ctx, h.profile, hub.KindIntent)
	if err != nil {
		return fmt.Errorf("writing an intent to the vault: %w", err)
	}
	b, err := json.Marshal(log)
	if err != nil {
		return err
	}
	if _, err := h.cfg.Vault.Commit(ctx, h.profile, hub.KindIntent, prev, b); err != nil {
		return fmt.Errorf("writing an intent to the vault: %w", err)
	}
	return nil
}

// send runs the CLI behind the door until it has ended and its answer is durable.
// An error says why it could not be run; what may have been sent all the same is
// for finish to find out.
func (h *helper) send(ctx context.Context, a *attempt, l *login) error {
	if err := h.cfg.Failpoint("send.before"); err != nil {
		return err
	}
	d, err := h.openDoor(a)
	if err != nil {
		return err
	}
	defer d.Close()
	refresh, err := agent.RefreshCommand(h.cfg.Agent, a.home(), l.cred)
	if err != nil {
		return err
	}
	words, err := a.openWords()
	if err != nil {
		return err
	}
	defer words.Close()
	lock, err := takeLock(ctx, a.path("cli.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	cmd := exec.Command(refresh.Args[0], refresh.Args[1:]...)
	cmd.Dir = a.home()
	cmd.Env = refresh.Environ(h.cfg.Environ, map[string]string{"HTTPS_PROXY": d.URL(), "https_proxy": d.URL()})
	cmd.Stdout, cmd.Stderr = words, words
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the CLI: %w", err)
	}
	end := h.waitCLI(cmd)
	if err := h.cfg.Failpoint("answer.before"); err != nil {
		return err
	}
	if err := a.saveAnswer(end); err != nil {
		return fmt.Errorf("making the answer durable: %w", err)
	}
	return h.cfg.Failpoint("answer.after")
}

// maxCLIFile bounds each file that the CLI may write.
const maxCLIFile = 64 << 20

// waitCLI waits for the CLI's end, and for no longer than the patience. Then
// everything that it started is gone, too.
func (h *helper) waitCLI(cmd *exec.Cmd) cliEnd {
	limit := unix.Rlimit{Cur: maxCLIFile, Max: maxCLIFile}
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		h.log.Warn("the CLI's files are not bounded", "err", err)
	}
	group := -cmd.Process.Pid // it leads its own session
	var killed atomic.Bool
	timer := time.AfterFunc(h.cfg.Patience, func() {
		killed.Store(true)
		syscall.Kill(group, syscall.SIGKILL)
	})
	defer timer.Stop()
	err := cmd.Wait()
	syscall.Kill(group, syscall.SIGKILL) // children that stayed behind
	h.log.Info("the CLI has ended", "state", cmd.ProcessState, "killed", killed.Load(), "err", err)
	return cliEnd{Exit: cmd.ProcessState.ExitCode(), Killed: killed.Load(), Ended: h.cfg.Now()}
}

// openDoor starts the door of one attempt: the token endpoint only, once only.
func (h *helper) openDoor(a *attempt) (*door.Door, error) {
	upstream, err := h.cfg.Proxy(&http.Request{URL: tokenURL()})
	if err != nil {
		return nil, errors.New("HTTPS_PROXY is not the address of a proxy") // err quotes it, password and all
	}
	var used atomic.Bool
	d, err := door.New(door.Config{
		Allow:    []string{tokenEndpoint},
		Upstream: upstream,
		Password: rand.Text(),
		Connected: func(string) error {
			if used.Swap(true) {
				return errors.New("a second connection to the token endpoint")
			}
			return nil
		},
		Answered: func(string) error {
			if err := os.Remove(a.path("ballast")); err != nil {
				return fmt.Errorf("giving back the room for the answer: %w", err)
			}
			if err := a.markSent(); err != nil {
				return err
			}
			return h.cfg.Failpoint("send.after")
		},
		Log: h.log,
	})
	if err != nil {
		return nil, err
	}
	return d, d.Start()
}

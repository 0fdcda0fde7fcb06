package refresh

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

const (
	attemptPrefix = "attempt-"
	keptPrefix    = "kept-"
)

// attempt is the private directory of one refresh: the write-ahead log.
//
//	attempt.json   which generation's refresh token is being used; durable before the CLI starts
//	unsent → sent  an empty file. Renamed, durably, before the first byte from the platform reaches
//	               the CLI: a CLI behind TLS has not sent its request by then. Where it is still
//	               "unsent" when the CLI is gone, the refresh token never went out.
//	cli.lock       held by the CLI and whatever it started, as long as one of them lives
//	home/          the CLI's own; home/.claude/.credentials.json is the answer
//	words          what the CLI printed
//	answer.json    how the CLI ended
//	ballast        room on the disk, given back when the platform is reached
type attempt struct {
	dir string
	log attemptLog
}

// attemptLog is attempt.json.
type attemptLog struct {
	Format     int            `json:"format"`
	Profile    hub.ProfileID  `json:"profile"`
	Generation hub.Generation `json:"generation"` // whose refresh token is used
	Started    time.Time      `json:"started"`
	Mode       mode           `json:"mode"`
	Early      int            `json:"early_ends,omitempty"` // as in state, this generation included
}

// cliEnd is answer.json.
type cliEnd struct {
	Exit   int       `json:"exit"`   // -1: killed
	Killed bool      `json:"killed"` // by us, after the patience was up
	Ended  time.Time `json:"ended"`
}

const attemptFormat = 1

func (a *attempt) path(name string) string { return filepath.Join(a.dir, name) }
func (a *attempt) home() string            { return a.path("home") }
func (a *attempt) credentialFile() string  { return agent.CredentialPath(a.home()) }

// newAttempt makes the directory, with room for the answer, and everything in it
// durable.
func newAttempt(p place, log attemptLog) (*attempt, error) {
	log.Format = attemptFormat
	a := &attempt{dir: filepath.Join(p.dir, attemptPrefix+strings.ToLower(rand.Text()[:12])), log: log}
	if err := os.Mkdir(a.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the private directory: %w", err)
	}
	if err := a.fill(); err != nil {
		return nil, errors.Join(fmt.Errorf("making the private directory: %w", err), os.RemoveAll(a.dir))
	}
	return a, syncDir(p.dir)
}

func (a *attempt) fill() error {
	for _, dir := range []string{a.home(), filepath.Dir(a.credentialFile())} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	for _, name := range []string{"unsent", "cli.lock"} {
		if err := os.WriteFile(a.path(name), nil, 0o600); err != nil {
			return err
		}
	}
	if err := makeBallast(a.path("ballast")); err != nil {
		return err
	}
	b, err := json.Marshal(a.log)
	if err != nil {
		return err
	}
	return writeDurably(a.path("attempt.json"), b) // syncs the directory, too
}

// openAttempt reads a directory that was left over. A directory without a whole
// attempt.json was never used: its error is a hub.ErrNotFound.
func openAttempt(dir string) (*attempt, error) {
	b, err := readBounded(filepath.Join(dir, "attempt.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: a private directory that was never finished", hub.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	log, err := parseAttemptLog(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return &attempt{dir: dir, log: log}, nil
}

func parseAttemptLog(b []byte) (attemptLog, error) {
	var log attemptLog
	if err := json.Unmarshal(b, &log); err != nil {
		return attemptLog{}, fmt.Errorf("%w: attempt.json is not JSON of this shape", hub.ErrFormat)
	}
	if log.Format != attemptFormat || log.Generation == 0 {
		return attemptLog{}, hub.Hint(fmt.Errorf("%w: attempt.json has format %d", hub.ErrFormat, log.Format), "use the newest claude-hub of this machine")
	}
	return log, nil
}

// markSent notes durably that from here on the platform may have had the refresh
// token. It needs no room on the disk. If it fails, the token must not be sent.
func (a *attempt) markSent() error {
	err := os.Rename(a.path("unsent"), a.path("sent"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("marking the refresh as sent: %w", err)
	}
	if _, err := os.Stat(a.path("sent")); err != nil {
		return fmt.Errorf("marking the refresh as sent: %w", err)
	}
	return syncDir(a.dir)
}

// sent reports whether the platform may have had the refresh token; when in doubt it may.
func (a *attempt) sent() bool {
	_, err := os.Stat(a.path("unsent"))
	return err != nil
}

// saveAnswer makes all that the CLI left durable, before anybody thinks about it.
func (a *attempt) saveAnswer(end cliEnd) error {
	b, err := json.Marshal(end)
	if err != nil {
		return err
	}
	return errors.Join(
		syncFile(a.credentialFile()),
		syncDir(filepath.Dir(a.credentialFile())),
		syncDir(a.home()),
		writeDurably(a.path("answer.json"), b),
	)
}

// end returns how the CLI ended; not ok if nobody was there to see it.
func (a *attempt) end() (end cliEnd, ok bool) {
	b, err := readBounded(a.path("answer.json"))
	if err != nil || json.Unmarshal(b, &end) != nil {
		return cliEnd{Exit: -1}, false
	}
	return end, true
}

// words returns the beginning of what the CLI printed.
func (a *attempt) words() []byte {
	b, err := readBounded(a.path("words"))
	if err != nil {
		return nil
	}
	return b
}

func (a *attempt) openWords() (*os.File, error) {
	return os.OpenFile(a.path("words"), os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
}

// addWords says something in the CLI's place, after what it may have said itself.
func (a *attempt) addWords(s string) error {
	f, err := a.openWords()
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(s + "\n")
	return err
}

// waitCLI waits until the CLI and everything that it started are gone, but not
// longer than ctx lives: a child that stays behind must not lock everybody out.
func (a *attempt) waitCLI(ctx context.Context) {
	if lock, err := takeLock(ctx, a.path("cli.lock")); err == nil {
		lock.Close()
	}
}

// remove takes the directory away. attempt.json goes first, durably: without it
// the rest means nothing, and a removal that is interrupted is taken up again.
func (a *attempt) remove() error {
	err := os.Remove(a.path("attempt.json"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cleaning up a refresh: %w", err)
	}
	if err := syncDir(a.dir); err != nil {
		return err
	}
	if err := os.RemoveAll(a.dir); err != nil {
		return fmt.Errorf("cleaning up a refresh: %w", err)
	}
	return syncDir(filepath.Dir(a.dir))
}

// there reports whether the directory still waits to be finished.
func (a *attempt) there() bool {
	_, err := os.Stat(a.path("attempt.json"))
	return err == nil && strings.HasPrefix(filepath.Base(a.dir), attemptPrefix)
}

// keep sets the directory aside for a person.
func (a *attempt) keep() error {
	to := filepath.Join(filepath.Dir(a.dir), keptPrefix+strings.TrimPrefix(filepath.Base(a.dir), attemptPrefix))
	if err := os.Rename(a.dir, to); err != nil {
		return fmt.Errorf("keeping the answer: %w", err)
	}
	a.dir = to
	return syncDir(filepath.Dir(a.dir))
}

// maxSmallFile bounds what is read of the files in the directory: the CLI, a
// foreign program, wrote some of them.
const maxSmallFile = 64 << 10

// readBounded returns the first 64 KiB of a regular file.
func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSmallFile))
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

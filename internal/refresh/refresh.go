// Package refresh keeps every login fresh. It is the only writer of rotated
// credentials. A refresh token is good for one use: whoever sends it and loses
// the answer has lost the login. So:
//
//  1. A refresh runs in a helper process of its own session, which no death of
//     the asking process ends, with the profile's kernel lock held throughout.
//     At any time one process at most is at work on a profile's tokens.
//  2. Before the refresh token is sent, the vault has proved that it can be
//     written, the answer has room on the disk, and a private directory that
//     names the generation is durable. That directory is the write-ahead log.
//  3. A new generation is durable in the vault before anybody gets its access
//     token. It is committed by compare-and-swap on the generation that was sent;
//     if that is lost after the platform has answered, the profile stops.
//  4. A directory that was left over is finished by the function that finishes
//     the undisturbed case. A refresh token is sent again only where the door
//     proves that it never went out, the platform refused without rotating, or
//     the old access token is still accepted. What can't be known is said.
//  5. The platform's token endpoint is asked once per refresh, by the unmodified
//     CLI, and after a failure not before its back-off has passed.
//  6. While an access token lives, trouble with refreshing it is not the caller's.
//  7. A login that was handed over to another hub is neither refreshed nor served
//     here from then on, by no process and no flag, until a newer generation is
//     there or the owner takes it back. (A caller that has asked within the last
//     25 ms may get the old access token once more.) Serving it on would be no
//     service: the other hub's first refresh kills it.
//
// The door lets one tunnel through per refresh. A CLI that would send a second
// request (2.1.330 does, when the new token is near its expiry) can't.
package refresh

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// Config says where a Refresher works and how it starts its helpers.
type Config struct {
	// Vault holds the logins. Required.
	Vault *vault.Vault
	// Dir is the hub's directory, which must exist; the refresher works in its
	// subdirectory "refresh". It has to be on a disk that keeps what is synced.
	// Required.
	Dir string
	// Command is the program and the leading arguments of a process that calls
	// [HelperMain] with the remaining arguments. Required.
	Command []string
	// Environ is the helper's environment. Nil: this process's.
	Environ []string
	// Deadline bounds how long a flight waits for its helper, which goes on after
	// that. 0: 3 minutes, more than a helper ever takes.
	Deadline time.Duration
	// MaxWait is how long AccessToken waits for a back-off to pass before it
	// reports the trouble. 0: 20 s; negative: not at all.
	MaxWait time.Duration
	// Backoff is the wait after a helper that could not even leave a word in the
	// status file; it grows with every further one. 0: 1 s.
	Backoff time.Duration
	// Log gets what a person may want to know. Nil discards.
	Log *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Refresher serves access tokens and has them refreshed. Make it with [New].
// Its methods are safe for concurrent use.
type Refresher struct {
	cfg Config
	log *slog.Logger

	life   context.Context // ends with Stop; every flight and the sweep hang off it
	cancel context.CancelFunc
	wg     sync.WaitGroup // flights and the sweep
	landed chan struct{}  // holds one when a flight has ended since the sweep looked

	mu       sync.Mutex // guards what follows
	profiles map[hub.ProfileID]*entry
	started  bool
	stopped  bool
}

// New returns a Refresher that has started nothing yet. It works without Start,
// which adds the sweep of the daemon.
func New(cfg Config) (*Refresher, error) {
	if cfg.Vault == nil || len(cfg.Command) == 0 {
		return nil, fmt.Errorf("%w: a refresher needs a vault and a helper command", hub.ErrInvalid)
	}
	dir, err := hubDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = 3 * time.Minute
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = 20 * time.Second
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Refresher{cfg: cfg, log: cfg.Log, profiles: map[hub.ProfileID]*entry{}, landed: make(chan struct{}, 1)}
	r.life, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// hubDir returns the absolute path of a directory that exists: nothing is created
// by a mistyped name.
func hubDir(dir string) (string, error) {
	if dir == "" {
		return "", fmt.Errorf("%w: no hub directory", hub.ErrInvalid)
	}
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return "", hub.Hint(fmt.Errorf("%w: the hub directory %s", hub.ErrNotFound, dir), "create it with `claude-hub init`")
	}
	return filepath.Abs(dir)
}

// Stop ends the sweep and every wait for a helper, and returns when nothing of
// the Refresher runs any more. Helpers that are at work go on: their results are
// found by whoever asks next. It may be called twice, and without Start.
func (r *Refresher) Stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// entry is what the Refresher knows of one profile.
type entry struct {
	id hub.ProfileID

	mu     sync.Mutex     // guards what follows; never held during I/O
	login  *login         // the newest generation seen, decrypted; nil before the first look
	looked time.Time      // when the vault was last asked whether it is the newest, and still ours
	handed hub.Generation // of the newest handover record seen; login says what it means
	dead   hub.Generation // the newest that a caller reported
	flight *flight        // the one at work, if any
	// Of flights that could not even leave a word in the status file:
	failures  int
	notBefore time.Time
	lastErr   error
}

func (r *Refresher) entry(id hub.ProfileID) (*entry, error) {
	if err := checkProfileID(id); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.profiles[id]
	if e == nil {
		e = &entry{id: id}
		r.profiles[id] = e
	}
	return e, nil
}

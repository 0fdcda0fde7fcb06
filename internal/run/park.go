package run

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// ErrStopping is the cause of the context of a run that is ended because its
// process stops. One that may be parked is, and the next process goes on with it.
var ErrStopping = errors.New("the hub is stopping")

// The bounds of parking. Each attempt waits for something from outside, so that
// the first is only there to end at all; an interruption is a death of the
// process, which the run may well be the cause of.
const (
	maxAttempts      = 100
	maxInterruptions = 3
	maxParked        = 14 * 24 * time.Hour

	minAttempt = time.Minute // of its time that a resumed run has at least
)

// Logins says how the logins stand that parked runs wait for.
type Logins interface {
	// Login reports whether a request of the profile would be served now, and a
	// mark that changes with each sign-in. [hub.ErrNotFound] if the profile is gone.
	Login(ctx context.Context, profile hub.ProfileID) (serves bool, mark string, err error)

	// Allow returns a request that was parked as the rules of its profile allow it
	// now, with the profile's present name and plan. [hub.ErrNotFound] if the
	// profile is gone, [hub.ErrRefused] or [hub.ErrInvalid] if the rules say no.
	Allow(ctx context.Context, req Request) (Request, error)
}

// kept is what a run that may be parked leaves in its directory, readable by the
// owner alone, from before its row until its verdict: what is still to be done.
// There is no secret in it, but the whole prompt is.
type kept struct {
	Request Request
	Mark    string // of the login when the attempt began
	Settled int    `json:",omitempty"` // the last attempt whose use the request's limits are without
}

// maxKept bounds the file: a prompt of 2 MiB, each byte of which JSON may write
// as six.
const maxKept = 6*MaxPrompt + 1<<20

// keep writes the request down. A crash leaves the old one or the new one.
func (d *directory) keep(k kept) error {
	data, err := json.Marshal(k)
	if err == nil {
		err = renameio.WriteFile(d.in(requestFile), data, 0o600, renameio.WithStaticPermissions(0o600))
	}
	if err != nil {
		return fmt.Errorf("keeping the request: %w", err)
	}
	return nil
}

// readKept returns the request that a run has left. [hub.ErrNotFound] if it is
// not one that may be parked.
func readKept(dir string) (kept, error) {
	var k kept
	f, err := os.OpenFile(filepath.Join(dir, requestFile), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return k, fmt.Errorf("%w: the run's request", hub.ErrNotFound)
	}
	if err != nil {
		return k, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKept+1))
	if err != nil {
		return k, err
	}
	if len(data) > maxKept {
		return k, fmt.Errorf("%w: the run's request is too large", hub.ErrFormat)
	}
	// A field that is not known could be a limit: another version has written it.
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&k); err != nil {
		return k, fmt.Errorf("%w: the run's request: %w", hub.ErrFormat, err)
	}
	k.Request.Park = true
	return k, nil
}

func isKept(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, requestFile))
	return err == nil
}

// markOf returns the login's mark; "" if nobody knows.
func (r *Runner) markOf(ctx context.Context, profile hub.ProfileID) string {
	if r.cfg.Logins == nil {
		return ""
	}
	_, mark, err := r.cfg.Logins.Login(ctx, profile)
	if err != nil {
		r.cfg.Log.Warn("how the login stands could not be found out", "err", err)
	}
	return mark
}

// park returns what an ending is to be parked for, with what is left to be done
// written down; nil if it ends the run.
func (x *execution) park(e ending) *hub.Parking {
	if !x.req.Park || x.record.Attempts >= maxAttempts {
		return nil
	}
	p := e.parking()
	if p == nil {
		return nil
	}
	rest, ok := x.asked.rest(x.used, x.cfg.Now().Sub(x.began))
	if !ok {
		return nil
	}
	if err := x.dir.keep(kept{Request: rest, Mark: x.mark, Settled: x.record.Attempts}); err != nil {
		x.log.Error("a run could not be parked", "err", err)
		return nil
	}
	p.Since = x.cfg.Now().UTC()
	return p
}

// parking says what an ending waits for; nil if it is for good.
func (e ending) parking() *hub.Parking {
	switch v, reason, until := e.verdict(); {
	case v == hub.VerdictCancelled && errors.Is(e.cause, ErrStopping):
		return &hub.Parking{Cause: hub.ParkedForRestart, Reason: "the hub restarts"}
	case v == hub.VerdictLoginRequired:
		return &hub.Parking{Cause: hub.ParkedForLogin, Reason: reason}
	case v == hub.VerdictParked:
		return &hub.Parking{Cause: hub.ParkedForWindow, Reason: reason, Until: until}
	}
	return nil
}

// rest is the request, as it was asked for, without what has been used up of its
// limits and its time. It is not ok if nothing is left: a limit of zero would be none.
func (r Request) rest(u hub.Usage, took time.Duration) (rest Request, ok bool) {
	rest = r
	l := &rest.Limits
	requests, tokens, cost := int64(l.Requests), l.Tokens, int64(l.Cost)
	for _, b := range []struct {
		limit *int64
		used  int64
	}{{&requests, int64(u.Requests)}, {&tokens, u.Tokens()}, {&cost, int64(u.Cost)}} {
		if *b.limit == 0 {
			continue
		}
		if *b.limit -= b.used; *b.limit <= 0 {
			return rest, false
		}
	}
	l.Requests, l.Tokens, l.Cost = int(requests), tokens, hub.MicroUSD(cost)
	whole := cmp.Or(rest.Timeout, DefaultTimeout)
	rest.Timeout = max(min(whole, minAttempt), whole-took)
	return rest, true
}

// sum is the usage of a run's attempts together.
func sum(a, b hub.Usage) hub.Usage {
	b.Requests += a.Requests
	b.InputTokens += a.InputTokens
	b.OutputTokens += a.OutputTokens
	b.CacheReadTokens += a.CacheReadTokens
	b.CacheWriteTokens += a.CacheWriteTokens
	b.Cost += a.Cost
	b.Models = merged(a.Models, b.Models)
	return b
}

// overdue returns the verdict of a run that has been parked for too long.
func overdue(p *hub.Parking, now time.Time) (hub.Verdict, string, bool) {
	if now.Sub(p.Since) < maxParked {
		return "", "", false
	}
	verdict := map[hub.ParkCause]hub.Verdict{
		hub.ParkedForLogin: hub.VerdictLoginRequired, hub.ParkedForWindow: hub.VerdictParked,
	}[p.Cause]
	days := int(maxParked / (24 * time.Hour))
	return cmp.Or(verdict, hub.VerdictFailed), fmt.Sprintf("parked for more than %d days: %s", days, p.Reason), true
}

// finish gives a run its verdict that no process is running. The caller has its
// lock; dir is nil if there is no directory any more.
func (r *Runner) finish(ctx context.Context, dir *directory, record hub.Run, v hub.Verdict, reason string) (hub.Run, error) {
	if dir != nil { // first: without a verdict, the next one comes back for what is left
		if err := errors.Join(dir.clean(), removeIfThere(dir.in(controlFile))); err != nil {
			return record, err
		}
	}
	record.Verdict, record.Reason, record.Ended, record.Parked = v, line(reason), r.cfg.Now().UTC(), nil
	if err := r.cfg.Store.UpdateRun(ctx, record); err != nil || dir == nil {
		return record, err
	}
	return record, errors.Join(
		dir.append(Note{Subtype: NoteVerdict, Run: record.ID, Verdict: v, Text: record.Reason}),
		dir.settled(),
	)
}

// cancelParked gives a parked run its verdict. It is [hub.ErrLocked] while
// another process has it: it is about to go on, or has just been parked.
func (r *Runner) cancelParked(ctx context.Context, id hub.RunID) error {
	dir, err := takeOver(r.cfg.Dir, id)
	if err != nil {
		return err
	}
	defer dir.close()
	record, err := r.cfg.Store.Run(ctx, id)
	if err != nil {
		return err
	}
	if record.Parked == nil {
		return hasEnded(id)
	}
	_, err = r.finish(ctx, dir, record, hub.VerdictCancelled, errCancelled.Error())
	return err
}

func hasEnded(id hub.RunID) error {
	return hub.Hint(fmt.Errorf("%w: run %s has ended already", hub.ErrConflict, id), "see how with `claude-hub runs`")
}

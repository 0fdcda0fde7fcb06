package run

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// Resume goes on with a parked run, in its session if the CLI has left one, and
// returns when it has ended or is parked again; see [Runner.Run]. It is
// [hub.ErrConflict] if the run is not parked (any more), and [hub.ErrLocked] if
// another process has it, or a workspace in or around its own. A run whose request cannot be met any more ends with
// a verdict that says why.
func (r *Runner) Resume(ctx context.Context, id hub.RunID) (hub.Run, error) {
	if _, err := hub.ParseRunID(string(id)); err != nil {
		return hub.Run{}, err
	}
	if err := r.checkParts(); err != nil {
		return hub.Run{}, err
	}
	dir, err := takeOver(r.cfg.Dir, id)
	if err != nil && !errors.Is(err, hub.ErrNotFound) {
		return hub.Run{}, err
	}
	if dir != nil {
		defer dir.close()
	}
	record, gone := r.parkedRun(ctx, id)
	if dir == nil && gone == nil {
		return r.finish(ctx, nil, record, hub.VerdictFailed, "it could not go on: its directory is gone")
	}
	if err := errors.Join(err, gone); err != nil {
		return record, err
	}
	if isCancelled(dir.path) { // by somebody who met the last process at its death
		return r.finish(ctx, dir, record, hub.VerdictCancelled, errCancelled.Error())
	}
	asked, req, err := r.resumed(ctx, dir, record)
	if err != nil && !isFinal(err) {
		return record, err
	}
	if err != nil {
		verdict, reason, _ := unstarted(err)
		return r.finish(ctx, dir, record, verdict, "it could not go on: "+reason)
	}
	if err := r.checkOverlap(ctx, id, req.Dir); errors.Is(err, hub.ErrRefused) {
		return record, fmt.Errorf("%w: %w", hub.ErrLocked, err) // it stays parked until the other run has ended
	} else if err != nil {
		return record, err
	}
	if err := dir.reopen(); err != nil {
		return record, fmt.Errorf("opening the run's directory: %w", err)
	}
	mark := r.markOf(ctx, req.Profile.ID)
	record.Parked, record.Attempts = nil, record.Attempts+1
	if err := r.cfg.Store.UpdateRun(ctx, record); err != nil {
		return record, err
	}
	x := &execution{Runner: r, asked: asked, req: req, mark: mark, record: record, dir: dir, log: r.cfg.Log.With("run", id)}
	return x.run(ctx, nil)
}

// isFinal reports whether an error of a request will be there the next time, too.
func isFinal(err error) bool {
	return slices.ContainsFunc([]error{hub.ErrNotFound, hub.ErrInvalid, hub.ErrFormat, hub.ErrRefused, hub.ErrTooLarge},
		func(kind error) bool { return errors.Is(err, kind) })
}

// parkedRun returns a run that is parked; [hub.ErrConflict] if it is not.
func (r *Runner) parkedRun(ctx context.Context, id hub.RunID) (hub.Run, error) {
	record, err := r.cfg.Store.Run(ctx, id)
	if err == nil && record.Parked == nil {
		err = fmt.Errorf("%w: run %s is not parked", hub.ErrConflict, id)
	}
	return record, err
}

// resumed returns the request of a parked run as it was asked for, and as it is
// to be carried out now.
func (r *Runner) resumed(ctx context.Context, dir *directory, record hub.Run) (asked, req Request, err error) {
	k, err := readKept(dir.path)
	if err != nil {
		return asked, req, err
	}
	asked = k.Request
	req = asked
	if r.cfg.Logins != nil {
		if req, err = r.cfg.Logins.Allow(ctx, asked); err != nil {
			return asked, req, err
		}
	}
	if req, err = r.check(req); err != nil {
		return asked, req, err
	}
	if req.Dir != record.Dir {
		return asked, req, fmt.Errorf("%w: the workspace %s is another directory now", hub.ErrInvalid, record.Dir)
	}
	if record.AgentSession != "" && sessionName(record.AgentSession) {
		if left, err := hasSession(dir.path); left && err == nil {
			req.Resume, req.session, req.Prompt = record.ID, record.AgentSession, goOn
			return asked, req, nil
		}
	}
	return asked, req, r.findSession(ctx, &req)
}

// goOn is the prompt of a run that goes on in its session, where the task stands.
const goOn = "You were interrupted, and the interruption is over. Go on with the task where you left off, and finish it."

// reopen makes the directory of a run that nobody has ready for its next attempt.
func (d *directory) reopen() (err error) {
	if d.events, err = d.openEnd(); err != nil {
		return err
	}
	if err := errors.Join(d.clean(), removeIfThere(d.in(controlFile)), d.forgetSpent()); err != nil {
		return err
	}
	return d.openControl()
}

// openEnd opens the log for what comes next: a last line that was cut in its
// middle is ended first.
func (d *directory) openEnd() (_ *os.File, err error) {
	f, err := os.OpenFile(d.in(eventsFile), os.O_CREATE|os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	end, err := f.Seek(0, 2)
	if err != nil || end == 0 {
		return f, err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, end-1); err != nil {
		return nil, err
	}
	if last[0] != '\n' {
		_, err = f.Write([]byte{'\n'})
	}
	return f, err
}

// append adds a note to the log of a run that no process has.
func (d *directory) append(n Note) error {
	f, err := d.openEnd()
	if err != nil {
		return err
	}
	_, err = f.Write(append(n.line(), '\n'))
	return errors.Join(err, f.Close())
}

// rescueSession saves the session of a run whose process has died, and returns
// its name; "" if there is none to be found.
func (r *Runner) rescueSession(dir *directory, record hub.Run) string {
	session := lastSession(dir.in(eventsFile))
	if session == "" {
		return record.AgentSession
	}
	if err := keepSession(dir, session); err != nil {
		r.cfg.Log.Warn("the session of an interrupted run was not kept", "run", record.ID, "err", err)
	}
	return session
}

// maxSessionScan bounds how many lines of each attempt are searched: the CLI names
// its session in its first event.
const maxSessionScan = 1000

// resumedStart is how the note begins with which an attempt does. It can't come
// from the CLI: the recorder lets none of its lines pass for a note.
var resumedStart = []byte(`{"type":"` + NoteType + `","subtype":"` + NoteResumed + `"`)

// lastSession returns the session that the last attempt in a log names in its first
// events; if it names none, that of the one before, and so on. The log is read
// once, all of it; [Config.MaxLog] bounds it.
func lastSession(log string) string {
	f, err := os.OpenFile(log, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine+1)
	session := ""
	for n := 0; lines.Scan(); n++ {
		if bytes.HasPrefix(lines.Bytes(), resumedStart) {
			n = 0
		}
		if n >= maxSessionScan {
			continue
		}
		if e, err := agent.ParseEvent(lines.Bytes()); err == nil && sessionName(e.Session) {
			session = e.Session
		}
	}
	return session
}

// sessionName reports whether s is a name under which the CLI keeps a session.
func sessionName(s string) bool {
	return s != "" && agent.Invocation{Prompt: "-", Resume: s}.Check() == nil
}

// hasSession reports whether a run has left a session.
func hasSession(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, sessionDir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

package web

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// desk is where sign-ins are carried out: one at a time for a profile, whoever
// asks. A sign-in belongs to the desk and not to the request that started it: it
// goes on when the browser goes away.
type desk struct {
	hub  Hub
	now  func() time.Time
	log  *slog.Logger
	base context.Context // ended by close: the life of every sign-in
	stop context.CancelCauseFunc

	flights sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	signIns map[hub.ProfileName]*signIn // the newest of each profile
	changed chan struct{}               // closed, and replaced, with every change
}

// signIn is one sign-in. Its state is guarded by the desk's mu.
type signIn struct {
	state     api.SignIn
	seen      bool // somebody was shown its end
	code      chan secret.Text
	ended     chan struct{} // closed at its end
	cancelled context.CancelCauseFunc
}

// remembered is how long the end of a sign-in is shown to who comes later.
const remembered = 10 * time.Minute

var (
	errStopped   = fmt.Errorf("%w: the hub was stopped, and nothing was captured", hub.ErrCancelled)
	errTime      = fmt.Errorf("%w: no code came in time", hub.ErrCancelled)
	errCancelled = fmt.Errorf("%w: the sign-in was cancelled, and nothing was captured", hub.ErrCancelled)
)

func errExpired(after time.Duration) error {
	return hub.Hint(fmt.Errorf("%w, within %v", errTime, after), "start again when the browser is at hand")
}

func newDesk(h Hub, now func() time.Time, log *slog.Logger) *desk {
	d := &desk{hub: h, now: now, log: log, signIns: map[hub.ProfileName]*signIn{}, changed: make(chan struct{})}
	d.base, d.stop = context.WithCancelCause(context.Background())
	return d
}

// close cancels every sign-in and waits for their ends. It may be called twice.
func (d *desk) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.stop(errStopped)
	d.flights.Wait()
}

// start begins a sign-in and returns its ID. If one is under way for the profile,
// it returns that one's and false; if that is being cancelled, it waits for its
// end first.
func (d *desk) start(ctx context.Context, req Request) (id string, started bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		s := d.signIns[req.Profile]
		switch {
		case d.closed:
			return "", false, errStopped
		case s == nil || s.state.State.Ended():
			return d.beginLocked(req), true, nil
		case s.state.State != api.SignInStopping:
			return s.state.ID, false, nil
		}
		d.mu.Unlock()
		select {
		case <-s.ended:
		case <-ctx.Done():
		}
		d.mu.Lock()
		if ctx.Err() != nil {
			return "", false, context.Cause(ctx)
		}
	}
}

func (d *desk) beginLocked(req Request) (id string) {
	ctx, cancel := context.WithCancelCause(d.base)
	s := &signIn{code: make(chan secret.Text, 1), ended: make(chan struct{}), cancelled: cancel, state: api.SignIn{
		ID: rand.Text()[:12], Profile: req.Profile, State: api.SignInStarting, Step: 1, Expires: d.now().Add(req.Timeout).UTC(),
	}}
	d.signIns[req.Profile] = s
	d.changedLocked()
	d.flights.Go(func() {
		defer cancel(nil)
		ctx, cancel := context.WithTimeoutCause(ctx, req.Timeout, errExpired(req.Timeout))
		defer cancel()
		result, err := d.hub.SignIn(ctx, req, &owner{d, s})
		d.end(s, result, err, context.Cause(ctx))
	})
	return s.state.ID
}

// end keeps what has come of a sign-in. What the hub says counts: a sign-in that
// was cancelled too late is done.
func (d *desk) end(s *signIn, result Result, err, cause error) {
	defer close(s.ended)
	d.change(s, func(v *api.SignIn) {
		v.Ended, v.Link, v.Trouble = d.now().UTC(), "", ""
		if err == nil {
			v.State = api.SignInDone
			v.Plan, v.LoginExpires, v.Generation, v.Files, v.Warnings = result.Plan, result.LoginExpires, result.Generation, result.Files, result.Warnings
			return
		}
		cut := errors.Is(err, hub.ErrCancelled) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
		if cut && cause != nil {
			err = cause // it knows who wanted it
		}
		switch {
		case errors.Is(err, errTime):
			v.State = api.SignInExpired
		case errors.Is(err, hub.ErrCancelled):
			v.State = api.SignInCancelled
		default:
			v.State = api.SignInFailed
		}
		v.Error, _ = api.ErrorOf(err)
	})
	if err != nil && !errors.Is(err, hub.ErrCancelled) {
		d.log.Warn("a sign-in failed", "profile", s.state.Profile, "err", err)
	}
}

// state returns where the profile's sign-in stands, and what tells of a change.
func (d *desk) state(profile hub.ProfileName) (api.SignIn, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.signIns[profile]
	if s == nil || s.state.State.Ended() && d.now().Sub(s.state.Ended) > remembered {
		return api.SignIn{Profile: profile, State: api.SignInNone}, d.changed
	}
	return s.state, d.changed
}

// shown notes that somebody has been shown a state.
func (d *desk) shown(v api.SignIn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.signIns[v.Profile]; s != nil && s.state.ID == v.ID && v.State.Ended() && !s.seen {
		s.seen = true
		d.changedLocked()
	}
}

// seen reports whether the end of the profile's sign-in was shown to somebody.
func (d *desk) seen(profile hub.ProfileName) (bool, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.signIns[profile]
	return s != nil && s.seen, d.changed
}

// submit hands over what the owner pasted, for the sign-in of that ID.
func (d *desk) submit(profile hub.ProfileName, id string, code secret.Text) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.signIns[profile]
	switch {
	case s == nil || s.state.ID != id:
		return fmt.Errorf("%w: that sign-in is over", hub.ErrConflict)
	case s.state.State != api.SignInLink:
		return fmt.Errorf("%w: no code is awaited now", hub.ErrConflict)
	}
	s.code <- code // there is room: a code is awaited
	s.state.State, s.state.Trouble = api.SignInChecking, ""
	s.state.Step++
	d.changedLocked()
	return nil
}

// cancel ends the sign-in of that ID, if it is under way, and does not wait.
func (d *desk) cancel(profile hub.ProfileName, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.signIns[profile]
	if s == nil || s.state.ID != id || s.state.State.Ended() {
		return fmt.Errorf("%w: that sign-in is over", hub.ErrConflict)
	}
	s.cancelled(errCancelled)
	if s.state.State != api.SignInCapturing { // which it is too late for
		s.state.State = api.SignInStopping
		s.state.Step++
		d.changedLocked()
	}
	return nil
}

func (d *desk) change(s *signIn, do func(*api.SignIn)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do(&s.state)
	s.state.Step++
	d.changedLocked()
}

func (d *desk) changedLocked() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// owner is the UI of one sign-in.
type owner struct {
	desk   *desk
	signIn *signIn
}

// change shows something of a sign-in that is not being cancelled.
func (o *owner) change(do func(*api.SignIn)) {
	o.desk.change(o.signIn, func(v *api.SignIn) {
		if v.State != api.SignInStopping {
			do(v)
		}
	})
}

// ShowURL shows the link; the code is asked for next.
func (o *owner) ShowURL(url string) { o.change(func(v *api.SignIn) { v.Link = url }) }

// Code waits for the page's form.
func (o *owner) Code(ctx context.Context) (secret.Text, error) {
	o.change(func(v *api.SignIn) { v.State = api.SignInLink })
	select {
	case code := <-o.signIn.code:
		return code, nil
	case <-ctx.Done():
		return secret.Text{}, context.Cause(ctx)
	}
}

// Trouble shows why the code was not taken. Where that costs the link, the next
// one replaces it.
func (o *owner) Trouble(message string) {
	message = strings.TrimPrefix(message, hub.ErrInvalid.Error()+": ")
	o.change(func(v *api.SignIn) { v.State, v.Trouble = api.SignInStarting, message })
}

// Note shows a line beside the state.
func (o *owner) Note(text string) { o.change(func(v *api.SignIn) { v.Note = text }) }

// Capturing shows that the CLI has the login.
func (o *owner) Capturing() {
	o.desk.change(o.signIn, func(v *api.SignIn) { v.State, v.Trouble = api.SignInCapturing, "" })
}

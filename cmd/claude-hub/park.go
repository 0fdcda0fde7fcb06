package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/run"
	"github.com/claude-hub/claude-hub/internal/store"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// logins is how the logins stand, as parked runs see it.
type logins struct {
	vault     *vault.Vault
	refresher *refresh.Refresher
}

func (l logins) Allow(ctx context.Context, req run.Request) (run.Request, error) {
	p, err := l.vault.ProfileByID(ctx, req.Profile.ID)
	if err != nil {
		return req, err
	}
	asked, err := p.Allow(hub.Demand{Delivery: req.Delivery, Model: req.Model, Limits: req.Limits, Timeout: req.Timeout})
	if err != nil {
		return req, err
	}
	s, err := l.refresher.Status(ctx, p.ID)
	if err != nil {
		return req, err
	}
	req.Profile, req.Plan = p, run.Plan{Subscription: s.Plan, RateLimitTier: s.RateLimitTier}
	req.Delivery, req.Model, req.Limits, req.Timeout = asked.Delivery, asked.Model, asked.Limits, asked.Timeout
	return req, nil
}

func (l logins) Login(ctx context.Context, id hub.ProfileID) (bool, string, error) {
	if _, err := l.vault.ProfileByID(ctx, id); err != nil {
		return false, "", err
	}
	s, err := l.refresher.Status(ctx, id)
	if err != nil {
		return false, "", err
	}
	mark := fmt.Sprint(s.Generation)
	if s.Spare != nil {
		mark += fmt.Sprintf("+%d", s.Spare.Generation)
	}
	return s.Health == hub.HealthOK || s.ServedBySpare, mark, nil
}

// parkRuns makes the engine a daemon's: from here on runs are parked that wait
// for something, and go on by themselves. The function that it returns parks
// those that are under way, for the next daemon; it may be called twice.
func (e *local) parkRuns(log *slog.Logger) (stop func()) {
	stopping, cancel := context.WithCancel(context.Background())
	e.stopping = stopping
	resumer := run.NewResumer(e.runner, e.wake)
	if e.noAgent == nil {
		resumer.Start(context.WithoutCancel(stopping)) // its own end parks; that of a context cancels
	} else {
		log.Warn("parked runs can't go on", "err", e.noAgent)
	}
	return func() {
		cancel()
		resumer.Stop()
	}
}

// untilStopping returns a context for a run that ends, with the cause that parks
// the run, when the daemon stops.
func (e *local) untilStopping(ctx context.Context) (context.Context, func()) {
	if e.stopping == nil {
		return ctx, func() {}
	}
	until, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	end := func() {
		if e.stopping.Err() != nil { // it comes before the connections are cut
			cancel(run.ErrStopping)
		}
		cancel(context.Cause(ctx))
	}
	stopped, gone := context.AfterFunc(e.stopping, end), context.AfterFunc(ctx, end)
	return until, func() {
		stopped()
		gone()
		cancel(nil)
	}
}

// parkedRuns counts the runs that are parked; 0 also where that can't be said.
func (h *home) parkedRuns(ctx context.Context) int {
	s, err := store.Open(ctx, storePath(h.dir))
	if err != nil {
		return 0 // whoever needs the runs says why
	}
	defer s.Close()
	runs, err := s.Runs(ctx, store.Filter{Parked: true})
	if err != nil {
		return 0
	}
	return len(runs)
}

// signInHint says where to sign in: at the page of the hub, if it is known how
// browsers get there.
func (a *app) signInHint(profile hub.ProfileName) string {
	hint := a.forProfile("sign in with `claude-hub login --web`", string(profile))
	if link := a.signInLink(profile); link != "" {
		hint = "sign in at " + link
	}
	return hint
}

// signInLink is the address of a profile's sign-in page; "" if nobody has said
// how browsers get to it.
func (a *app) signInLink(profile hub.ProfileName) string {
	public := a.getenv("CLAUDE_HUB_PUBLIC_URL")
	if dir, err := a.hubDir(); err == nil {
		if c, err := readConfig(configPath(dir)); err == nil {
			public = cmp.Or(public, c.PublicURL)
		}
	}
	link, err := url.JoinPath(public, "signin", string(profile))
	if public == "" || err != nil {
		return ""
	}
	return link
}

// parkedHint says what has a parked run go on.
func (a *app) parkedHint(r hub.Run) string {
	switch p := r.Parked; {
	case p.Cause == hub.ParkedForLogin:
		return a.signInHint(r.Profile) + ": it goes on by itself then"
	case p.Cause == hub.ParkedForWindow && !p.Until.IsZero():
		return "it goes on by itself at " + clock(p.Until)
	case p.Cause == hub.ParkedForWindow:
		return "it goes on by itself when the window opens"
	}
	return "it goes on by itself with the next `claude-hub serve`"
}

func parkedText(r hub.Run) string {
	if p := r.Parked; p.Cause == hub.ParkedForWindow && !p.Until.IsZero() {
		return "parked until " + clock(p.Until)
	}
	return "parked: " + printable(r.Parked.Reason, 60)
}

// clock is a time of the next days, for people.
func clock(t time.Time) string {
	if t.Sub(now()) > 20*time.Hour {
		return t.Local().Format("2006-01-02 15:04")
	}
	return t.Local().Format("15:04")
}

// waiting follows a run from its connection into its parking, for --wait.
type waiting struct {
	mu    sync.Mutex
	lines int       // of its log that were shown
	id    hub.RunID // once it is known
}

// event counts a line, and finds the run's ID in it.
func (w *waiting) event(line []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines++
	if w.id != "" || !bytes.Contains(line, []byte(`"`+run.NoteType+`"`)) {
		return
	}
	var n run.Note
	if json.Unmarshal(line, &n) == nil && n.Type == run.NoteType {
		if id, err := hub.ParseRunID(string(n.Run)); err == nil {
			w.id = id
		}
	}
}

// wait shows the rest of a run until its verdict. The end of ctx leaves the run
// alone: it stays parked, or goes on.
func (a *app) wait(ctx context.Context, show *progress, w *waiting) (hub.Run, error) {
	runs, err := a.openRuns(ctx)
	if err != nil {
		return hub.Run{}, err
	}
	defer runs.Close()
	n := 0
	err = runs.logs(ctx, w.id, true, func(line []byte) {
		if n++; n > w.lines {
			show.event(line)
		}
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		return hub.Run{}, err
	}
	return runs.store.Run(context.WithoutCancel(ctx), w.id)
}

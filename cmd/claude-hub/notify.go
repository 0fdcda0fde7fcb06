package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/notify"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/store"
)

// serviceURLs are the services that a person is told through. Errors of reading
// them don't have their text.
type serviceURLs []secret.Text

// UnmarshalYAML takes one URL or a list of them.
func (u *serviceURLs) UnmarshalYAML(node *yaml.Node) error {
	items := []*yaml.Node{node}
	if node.Kind == yaml.SequenceNode {
		items = node.Content
	}
	for _, item := range items {
		if item.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: notify is a list of URLs, or of file:PATH or env:NAME", item.Line)
		}
		if item.Tag != "!!null" {
			*u = append(*u, secret.New(item.Value))
		}
	}
	return nil
}

// targets returns the services of the settings; those that are understood also
// beside an error.
func (a *app) targets(h *home) ([]notify.Target, error) {
	targets, err := notify.ParseTargets(h.config.Notify, a.getenv)
	if err != nil {
		err = fmt.Errorf("%s: %w", configPath(h.dir), err)
	}
	// Some of the library's services use the default client, and wait for ever.
	http.DefaultClient.Timeout = 30 * time.Second
	return targets, err
}

func (a *app) notifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "notify",
		Short: "Try the services that tell you of what needs you",
		Long: `Where claude-hub serve runs, it tells you what it can't mend by itself, once each:
that a login ends in 7, 3 and 1 days, that one needs a sign-in, that its refreshes
fail, that the setup token is in use, that somebody else refreshes a copy of it, and
that it is signed in again.

Name the services under notify in config.yaml: URLs of github.com/nicholas-fedor/
shoutrrr, such as ntfy://ntfy.sh/TOPIC, slack://…, smtp://…, generic+https://…
(a webhook). Such a URL is a secret: file:PATH and env:NAME name where it is.`,
	}
	c.AddCommand(&cobra.Command{
		Use:   "test",
		Short: "Send a message to each service, and say which took it",
		Args:  args(cobra.NoArgs),
		RunE:  func(c *cobra.Command, _ []string) error { return a.notifyTest(c.Context()) },
	})
	return c
}

// tried is what came of one service, as `notify test --json` prints it.
type tried struct {
	Name    string `json:"name"` // its position in the settings and its kind
	Service string `json:"service"`
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`
}

func (a *app) notifyTest(ctx context.Context) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	targets, bad := a.targets(h)
	if len(targets) == 0 && bad == nil {
		return hub.Hint(fmt.Errorf("%w: no service is named in %s", hub.ErrNotFound, configPath(h.dir)),
			"name some there under notify, such as file:/etc/claude-hub/ntfy-url")
	}
	results := sendAll(ctx, targets, notify.Message{
		Event: notify.EventTest, Title: "claude-hub: a test",
		Text: "This is what claude-hub will tell you through when it needs you.",
	})
	failed := bad != nil
	rows := [][]string{{"SERVICE", "RESULT"}}
	for _, r := range results {
		failed = failed || !r.OK
		rows = append(rows, []string{r.Name, cmp.Or(r.Error, a.style(a.stdout, green, "sent"))})
	}
	if a.json {
		err = a.printJSON(results)
	} else if len(results) > 0 {
		err = a.table(rows)
	}
	if err := errors.Join(err, bad); err != nil {
		return err
	}
	if failed {
		return exitStatus(exitError)
	}
	return nil
}

func sendAll(ctx context.Context, targets []notify.Target, m notify.Message) []tried {
	results := make([]tried, len(targets))
	var group sync.WaitGroup
	for i, t := range targets {
		group.Go(func() {
			results[i] = tried{Name: t.Name(), Service: t.Service(), OK: true}
			if err := t.Send(ctx, m); err != nil {
				results[i].OK, results[i].Error = false, err.Error()
			}
		})
	}
	group.Wait()
	return results
}

// How often the daemon looks for news, and how often it looks whether something
// is left to be delivered.
const (
	newsPeriod    = 15 * time.Second
	deliverPeriod = time.Minute
)

// teller has a person told of what is new, in a daemon.
type teller struct {
	home      *home
	refresher *refresh.Refresher
	store     *store.Store
	notifier  *notify.Notifier
	log       *slog.Logger
	wake      chan struct{}

	last    []notify.Condition // that were looked at
	at      time.Time          // when
	trouble string             // with the profiles that could not be looked at
}

// startTelling tells what is new until the function that it returns is called;
// wake has it look now.
func (a *app) startTelling(h *home, e *local, log *slog.Logger) (wake, stop func()) {
	targets, err := a.targets(h)
	if err != nil {
		log.Error("a service that tells you can't be used", "err", err, "hint", hub.HintOf(err))
	}
	if len(targets) == 0 {
		return func() {}, func() {}
	}
	t := &teller{
		home: h, refresher: e.refresher, store: e.store, log: log, wake: make(chan struct{}, 1),
		notifier: notify.New(notify.Config{Dir: h.dir, Targets: targets, Link: a.signInWords, Log: log}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { t.loop(ctx) })
	wake = func() {
		select {
		case t.wake <- struct{}{}:
		default: // it is going to look
		}
	}
	return wake, func() {
		cancel()
		wg.Wait()
	}
}

func (t *teller) loop(ctx context.Context) {
	tick := time.NewTicker(newsPeriod)
	defer tick.Stop()
	for {
		if err := t.runOnce(ctx); err != nil && ctx.Err() == nil {
			t.log.Error("nobody could be told what is new", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-t.wake:
		}
	}
}

// runOnce tells what is new, if anything has changed, and delivers every minute.
func (t *teller) runOnce(ctx context.Context) error {
	conditions, unreadable, err := t.conditions(ctx)
	if err != nil {
		return err
	}
	t.tell(unreadable)
	if reflect.DeepEqual(conditions, t.last) && now().Sub(t.at) < deliverPeriod {
		return nil
	}
	observe := t.notifier.Observe
	if unreadable != nil {
		observe = t.notifier.ObserveSome
	}
	if err := observe(ctx, conditions); err != nil {
		return err
	}
	t.last, t.at = conditions, now()
	return nil
}

// tell logs what is wrong with profiles when that is new.
func (t *teller) tell(unreadable error) {
	words := ""
	if unreadable != nil {
		words = unreadable.Error()
	}
	if words != "" && words != t.trouble {
		t.log.Error("of some profiles, nobody can be told what is new", "err", unreadable)
	}
	t.trouble = words
}

// conditions is how every profile stands that can be read; unreadable says what
// is wrong with the others.
func (t *teller) conditions(ctx context.Context) (all []notify.Condition, unreadable, err error) {
	parked, err := t.store.Runs(ctx, store.Filter{Parked: true})
	if err != nil {
		return nil, nil, err
	}
	waiting := map[hub.ProfileID]int{}
	for _, r := range parked {
		if r.Parked.Cause == hub.ParkedForLogin {
			waiting[r.ProfileID]++
		}
	}
	standing, unreadable := t.home.standing(ctx, t.refresher)
	for _, s := range standing {
		all = append(all, condition(s.profile, s.status, waiting[s.profile.ID]))
	}
	return all, unreadable, ctx.Err()
}

// standing is a profile with how its login stands.
type standing struct {
	profile hub.Profile
	status  refresh.Status
}

// standing returns the profiles that can be read, by name, each with how its login
// stands. The error says what is wrong with the others: one that is damaged is
// the trouble of nobody else.
func (h *home) standing(ctx context.Context, r *refresh.Refresher) ([]standing, error) {
	profiles, err := h.vault.Profiles(ctx)
	problems := []error{err}
	all := make([]standing, 0, len(profiles))
	for _, p := range profiles {
		s, err := r.Status(ctx, p.ID)
		if err != nil {
			problems = append(problems, fmt.Errorf("profile %q: %w", p.Name, err))
			continue
		}
		all = append(all, standing{p, s})
	}
	return all, errors.Join(problems...)
}

// condition is a status as package notify takes it. A login that its owner has
// moved to another hub is that one's to tell of.
func condition(p hub.Profile, s refresh.Status, parked int) notify.Condition {
	c := notify.Condition{Profile: p.ID, Name: p.Name, Login: s.Generation, Health: hub.HealthOK}
	if s.HandedOver != nil {
		return c
	}
	c.Health, c.Reason, c.LoginExpires = s.Health, s.Reason, s.LoginExpires
	c.SpareInUse, c.SecondWriter, c.Parked = s.ServedBySpare, s.SecondWriter, parked
	if s.Spare != nil {
		c.Spare, c.SpareExpires = s.Spare.Generation, s.Spare.Expires
	}
	return c
}

// signInWords says where to sign in: the address of the page, or the command.
func (a *app) signInWords(profile hub.ProfileName) string {
	return cmp.Or(a.signInLink(profile), a.forProfile("`claude-hub login --web`", string(profile)))
}

// parked wakes the teller where a run that it counts has been parked.
func (e *local) parked(r hub.Run, err error) (hub.Run, error) {
	if r.Parked != nil && e.wake != nil {
		e.wake()
	}
	return r, err
}

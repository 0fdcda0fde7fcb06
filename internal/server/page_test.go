package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/server"
)

// page is a stand-in whose sign-in goes through these states and then waits for its
// caller's end, or is none at all.
type page struct {
	states []api.SignIn
	err    error
	gone   chan struct{} // receives when a caller has gone
}

func (*page) URL() string { return "http://127.0.0.1:1" }

func (*page) Link(p hub.ProfileName) (api.OperatorLink, error) {
	return api.OperatorLink{URL: "http://127.0.0.1:1/operator/fake-" + string(p)}, nil
}

func (p *page) SignIn(ctx context.Context, req api.SignInRequest, each func(api.SignIn)) error {
	if p.err != nil {
		return p.err
	}
	for _, s := range p.states {
		s.Profile = req.Profile
		each(s)
		if s.State.Ended() {
			return nil
		}
	}
	<-ctx.Done()
	p.gone <- struct{}{}
	return nil
}

func startWithPage(t *testing.T, p *page) *api.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "hub.sock")
	s, err := server.New(server.Config{Socket: socket, Engine: &engine{}, Page: p, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c, err := api.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestDaemonWithoutAPageSaysSo(t *testing.T) {
	_, c, _ := start(t)
	if _, err := c.Operator(t.Context(), api.OperatorRequest{}); !errors.Is(err, hub.ErrNotFound) || hub.HintOf(err) == "" {
		t.Errorf("Operator: %v", err)
	}
	if _, err := c.SignIn(t.Context(), api.SignInRequest{Profile: "default"}, nil); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("SignIn: %v", err)
	}
	if d, err := c.Daemon(t.Context()); err != nil || d.Page != "" {
		t.Errorf("Daemon: %+v, %v", d, err)
	}
}

func TestOperatorLink(t *testing.T) {
	c := startWithPage(t, &page{})
	link, err := c.Operator(t.Context(), api.OperatorRequest{Profile: "staging"})
	if err != nil || link.URL != "http://127.0.0.1:1/operator/fake-staging" {
		t.Errorf("%+v, %v", link, err)
	}
	if _, err := c.Operator(t.Context(), api.OperatorRequest{Profile: "../x"}); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("a bad name: %v", err)
	}
	if d, err := c.Daemon(t.Context()); err != nil || d.Page != "http://127.0.0.1:1" {
		t.Errorf("Daemon: %+v, %v", d, err)
	}
}

func TestSignInStreamsItsStates(t *testing.T) {
	failed, _ := api.ErrorOf(hub.Hint(fmt.Errorf("%w: no", hub.ErrRefused), "again"))
	for _, last := range []api.SignIn{
		{State: api.SignInDone, Step: 2, Generation: 3},
		{State: api.SignInFailed, Step: 2, Error: failed},
	} {
		c := startWithPage(t, &page{states: []api.SignIn{{State: api.SignInStarting, Step: 1}, last}})
		var seen []api.SignInState
		got, err := c.SignIn(t.Context(), api.SignInRequest{Profile: "default"}, func(s api.SignIn) { seen = append(seen, s.State) })
		if len(seen) != 2 || seen[1] != last.State || got.State != last.State || got.Generation != last.Generation || got.Profile != "default" {
			t.Errorf("states %q, last %+v", seen, got)
		}
		if last.Error == nil && err != nil || last.Error != nil && (!errors.Is(err, hub.ErrRefused) || hub.HintOf(err) != "again") {
			t.Errorf("error %v (%s)", err, hub.HintOf(err))
		}
	}
}

func TestSignInThatIsNoneIsAnError(t *testing.T) {
	c := startWithPage(t, &page{err: fmt.Errorf("%w: too late", hub.ErrCancelled)})
	if _, err := c.SignIn(t.Context(), api.SignInRequest{Profile: "default"}, nil); !errors.Is(err, hub.ErrCancelled) {
		t.Errorf("error %v", err)
	}
	for _, name := range []hub.ProfileName{"", "A", "../x"} {
		if _, err := c.SignIn(t.Context(), api.SignInRequest{Profile: name}, nil); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("profile %q: %v", name, err)
		}
	}
}

// A client that goes away is noticed by the page, which ends what it has started.
func TestSignInEndsWithItsClient(t *testing.T) {
	p := &page{states: []api.SignIn{{State: api.SignInLink, Step: 1}}, gone: make(chan struct{})}
	c := startWithPage(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.SignIn(ctx, api.SignInRequest{Profile: "default"}, func(api.SignIn) { cancel() })
	if !errors.Is(err, hub.ErrCancelled) {
		t.Errorf("error %v", err)
	}
	<-p.gone
}

package login_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/login"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// These tests drive the real CLI against the simulator.

func platform(t *testing.T, cfg simulator.Config) *simulator.Simulator {
	t.Helper()
	sim, err := simulator.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return sim
}

// realDesk is a desk with the real CLI, whose way leads to sim.
func realDesk(t *testing.T, sim *simulator.Simulator) *desk {
	t.Helper()
	return newDesk(t, func(cfg *login.Config) {
		cfg.Agent = hubtest.Claude(t)
		cfg.Environ = append([]string{"PATH=" + os.Getenv("PATH")}, sim.Environ()...)
	})
}

// approving is an owner who does what the link asks for.
func approving(sim *simulator.Simulator) *owner {
	return &owner{code: sim.Approve}
}

func TestSignInCapturesTheLogin(t *testing.T) {
	sim := platform(t, simulator.Config{})
	d := realDesk(t, sim)
	ui := approving(sim)
	result, err := d.SignIn(t.Context(), d.profile, ui)
	if err != nil {
		t.Fatal(err)
	}
	record, creds := d.login()
	if result.Generation != 1 || record.Generation != 1 || result.Subscription != "max" || result.Files == 0 || len(result.Warnings) != 0 {
		t.Errorf("result = %+v", result)
	}
	if !result.LoginExpires.Equal(creds.LoginExpiresAt) || result.LoginExpires.Before(result.AccessExpires) || creds.RateLimitTier == "" || creds.AccountUUID == "" {
		t.Errorf("result = %+v of a login with %+v", result, creds)
	}
	if !sim.Live(creds.AccessToken.Reveal()) || creds.RefreshToken.IsZero() {
		t.Error("what was captured is no live login")
	}
	if names := tree(t, d.snapshot()); !strings.Contains(strings.Join(names, " "), ".claude.json") {
		t.Errorf("the snapshot holds %q; want .claude.json in it", names)
	}
	if a := d.account(); a.Email != "owner@example.com" || a.UUID != creds.AccountUUID || a.Name == "" {
		t.Errorf("account %+v of the login of %s", a, creds.AccountUUID)
	}
	if c := sim.Counters(); c.CodeExchanges != 1 || c.TokenRequests != 1 || len(ui.links) != 1 {
		t.Errorf("counters %+v after links %q", c, ui.links)
	}
	d.wantNoScratch()
}

// A second sign-in to the same profile becomes the next generation.
func TestSigningInAgainReplacesTheLogin(t *testing.T) {
	sim := platform(t, simulator.Config{})
	d := realDesk(t, sim)
	for range 2 {
		if _, err := d.SignIn(t.Context(), d.profile, approving(sim)); err != nil {
			t.Fatal(err)
		}
	}
	record, creds := d.login()
	if record.Generation != 2 || !sim.Live(creds.AccessToken.Reveal()) || d.generation(hub.KindSnapshot) != 2 {
		t.Errorf("generation %d, live %v", record.Generation, sim.Live(creds.AccessToken.Reveal()))
	}
}

// A wrong code costs a link; one that can't be right costs nothing.
func TestWrongCodeThenTheRightOne(t *testing.T) {
	sim := platform(t, simulator.Config{})
	d := realDesk(t, sim)
	asked := 0
	ui := &owner{code: func(ctx context.Context, link string) (string, error) {
		code, err := sim.Approve(ctx, link)
		switch asked++; asked {
		case 1:
			code, _, _ = strings.Cut(code, "#")
		case 2:
			code = "fake" + code
		}
		return code, err
	}}
	if _, err := d.SignIn(t.Context(), d.profile, ui); err != nil {
		t.Fatal(err)
	}
	if len(ui.links) != 2 || ui.links[0] == ui.links[1] {
		t.Errorf("links %q; want another for another code", ui.links)
	}
	if len(ui.troubles) != 2 || !strings.Contains(ui.troubles[0], "whole code") || !strings.Contains(ui.troubles[1], "wasn't accepted") {
		t.Errorf("troubles %q", ui.troubles)
	}
	if c := sim.Counters(); c.TokenRequests != 2 || c.CodeExchanges != 1 {
		t.Errorf("counters %+v; want one exchange in two requests", c)
	}
	d.login()
	d.wantNoScratch()
}

func TestWrongCodesEndTheSignIn(t *testing.T) {
	sim := platform(t, simulator.Config{})
	d := realDesk(t, sim)
	ui := &owner{code: func(ctx context.Context, link string) (string, error) {
		code, err := sim.Approve(ctx, link)
		return "fake" + code, err
	}}
	_, err := d.SignIn(t.Context(), d.profile, ui)
	if !errors.Is(err, hub.ErrRefused) || !strings.Contains(err.Error(), "after 3 codes") || hub.HintOf(err) == "" {
		t.Errorf("error = %v with hint %q", err, hub.HintOf(err))
	}
	d.wantNothing()
}

func TestPlatformTroubleIsToldInTheCLIsWords(t *testing.T) {
	sim := platform(t, simulator.Config{})
	sim.Inject(simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultServerError, Times: 1})
	d := realDesk(t, sim)
	ui := approving(sim)
	if _, err := d.SignIn(t.Context(), d.profile, ui); err != nil {
		t.Fatal(err)
	}
	if len(ui.troubles) != 1 || !strings.Contains(ui.troubles[0], "500") {
		t.Errorf("troubles %q; want the status", ui.troubles)
	}
}

// stages are the instants of a sign-in at which something may strike. Each calls
// strike once, from wherever the instant is seen.
var stages = []struct {
	name string
	at   simulator.Endpoint // "" is the prompt for the code
	// kind is a fault that keeps the CLI at that instant.
	kind simulator.FaultKind
}{
	{"at the prompt", "", ""},
	{"during the exchange", simulator.EndpointToken, simulator.FaultHang},
	{"exchanged, no answer yet", simulator.EndpointToken, simulator.FaultLostHang},
	{"before the file", simulator.EndpointProfile, simulator.FaultHang},
	{"around the file", simulator.EndpointOther, ""},
}

// A sign-in that is cancelled, or whose CLI is killed, at any stage leaves a
// complete capture or nothing, and says which.
func TestStrikesAreAllOrNothing(t *testing.T) {
	for _, stage := range stages {
		t.Run("cancelled "+stage.name, func(t *testing.T) {
			struck(t, realDesk, stage.at, stage.kind, false, func(_ *desk, cancel func()) { cancel() })
		})
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
			t.Run("CLI gets "+sig.String()+" "+stage.name, func(t *testing.T) {
				struck(t, realDesk, stage.at, stage.kind, false, func(*desk, func()) {
					for _, pid := range children(t) {
						syscall.Kill(pid, sig)
					}
				})
			})
		}
	}
}

func struck(t *testing.T, newDesk func(*testing.T, *simulator.Simulator) *desk, at simulator.Endpoint, kind simulator.FaultKind, fromOutside bool, strike func(d *desk, cancel func())) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var d *desk
	once := sync.OnceFunc(func() { strike(d, cancel) })
	sim := platform(t, simulator.Config{Observe: func(e simulator.Endpoint, _ *http.Request) {
		if at != "" && e == at {
			once()
		}
	}})
	if kind != "" {
		sim.Inject(simulator.Fault{Endpoint: at, Kind: kind})
	}
	d = newDesk(t, sim)
	ui := &owner{code: func(ctx context.Context, link string) (string, error) {
		if at == "" {
			once()
			<-ctx.Done()
			return "", ctx.Err()
		}
		return sim.Approve(ctx, link)
	}}
	result, err := d.SignIn(ctx, d.profile, ui)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, hub.ErrCancelled) {
			t.Errorf("error = %v; want ErrCancelled", err)
		}
		if strings.Contains(err.Error(), "from outside") != (ctx.Err() == nil && fromOutside) || hub.HintOf(err) == "" && ctx.Err() == nil {
			t.Errorf("error = %v with hint %q", err, hub.HintOf(err))
		}
		d.wantNothing()
		return
	}
	if at != simulator.EndpointOther {
		t.Error("the strike came before the login, but the sign-in succeeded")
	}
	record, creds := d.login()
	if result.Generation != record.Generation || !sim.Live(creds.AccessToken.Reveal()) || d.generation(hub.KindSnapshot) != 1 {
		t.Errorf("an incomplete capture: %+v", result)
	}
	d.wantNoScratch()
}

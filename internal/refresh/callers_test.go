package refresh_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// Before its end a token is served and refreshed behind the callers; shortly
// before, they wait.
func TestAdvisoryAndMandatoryWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	w.signIn(simulator.SignIn{AccessTTL: time.Hour})
	early := w.refresher(w.at(44 * time.Minute))
	if _, gen := w.token(early, 0); gen != 2 {
		t.Errorf("before the advisory window: generation %d", gen)
	}
	w.wantCounts(0, 0)

	w.failAt("send.before", "hold")
	advisory := w.refresher(w.at(50 * time.Minute))
	for range 3 { // while the refresh is held, everybody is served
		if _, gen := w.token(advisory, 0); gen != 2 {
			t.Errorf("in the advisory window: generation %d; want the old token", gen)
		}
	}
	w.holding()
	w.release()
	w.eventually("it is refreshed behind the callers", func() bool {
		_, gen, err := w.ask(advisory, 0)
		return err == nil && gen == 3
	})
	w.wantCounts(1, 1)

	w.signIn(simulator.SignIn{AccessTTL: time.Hour})
	mandatory := w.refresher(w.at(59*time.Minute + 30*time.Second))
	if _, gen := w.token(mandatory, 0); gen != 5 {
		t.Errorf("in the mandatory window: generation %d; want a new one", gen)
	}
	w.wantCounts(2, 2)
}

// Many callers in many processes report the same dead token: one token request.
func TestStorm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	storm(w, 3, 40, 2)
	w.wantCounts(2, 2)
}

// storm lets processes × callers ask for a token again and again, each round with
// the generation before reported dead. Every caller must get the same new one.
func storm(w *world, processes, callers, rounds int) {
	w.t.Helper()
	type asker struct {
		in  io.WriteCloser
		out *bufio.Scanner
		cmd *exec.Cmd
	}
	var askers []asker
	for range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVariable+"=asker", quickExit, "TEST_HUB="+w.dir, "TEST_PROFILE="+string(w.profile.ID), "TEST_CALLERS="+strconv.Itoa(callers))
		for i, kv := range w.environ {
			cmd.Env = append(cmd.Env, fmt.Sprintf("TEST_HELPER_%d=%s", i, kv))
		}
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			w.t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			w.t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			w.t.Fatal(err)
		}
		askers = append(askers, asker{in, bufio.NewScanner(out), cmd})
	}
	for round := 1; round <= rounds; round++ {
		w.sim.ExpireAccess()
		for _, a := range askers {
			fmt.Fprintln(a.in, round)
		}
		for _, a := range askers {
			if !a.out.Scan() || a.out.Text() != strconv.Itoa(round+1) {
				w.t.Errorf("round %d: a process got %q; want generation %d for every caller\n%s", round, a.out.Text(), round+1, w.helperLog())
			}
		}
	}
	for _, a := range askers {
		a.in.Close()
		if err := a.cmd.Wait(); err != nil {
			w.t.Error(err)
		}
	}
}

// playAsker reads a generation, has all its callers report that as dead at once,
// and prints the one generation that they all got.
func playAsker() error {
	dir := os.Getenv("TEST_HUB")
	v, err := openVault(dir)
	if err != nil {
		return err
	}
	callers, err := strconv.Atoi(os.Getenv("TEST_CALLERS"))
	if err != nil {
		return err
	}
	r, err := refresh.New(config(dir, v, helperEnviron()))
	if err != nil {
		return err
	}
	defer r.Stop()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		stale, err := strconv.ParseUint(in.Text(), 10, 64)
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		got := make([]hub.Generation, callers)
		errs := make([]error, callers)
		for i := range callers {
			wg.Go(func() {
				_, got[i], errs[i] = r.AccessToken(context.Background(), hub.ProfileID(os.Getenv("TEST_PROFILE")), hub.Generation(stale))
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for _, gen := range got {
			if gen != got[0] {
				return fmt.Errorf("callers got %v", got)
			}
		}
		fmt.Println(got[0])
	}
	return nil
}

// helperEnviron returns the helpers' environment, as handed to a test process.
func helperEnviron() []string {
	var env []string
	for i := 0; ; i++ {
		kv, ok := os.LookupEnv(fmt.Sprintf("TEST_HELPER_%d", i))
		if !ok {
			return env
		}
		env = append(env, kv)
	}
}

// A caller that gives up takes nobody else's flight with it.
func TestCallersCanLeave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher()
	w.failAt("send.before", "hold")
	ctx, cancel := context.WithCancelCause(t.Context())
	left := make(chan error, 1)
	go func() {
		_, _, err := r.AccessToken(ctx, w.profile.ID, 1)
		left <- err
	}()
	w.holding()
	reason := errors.New("the client has gone")
	cancel(reason)
	if err := <-left; !errors.Is(err, reason) {
		t.Errorf("the caller that left got %v", err)
	}
	w.release()
	if _, gen := w.token(r, 1); gen != 2 {
		t.Errorf("the others got generation %d; want 2", gen)
	}
	w.wantCounts(1, 1)
}

// The Refresher that asked is gone; its helper goes on, and another Refresher waits
// for it instead of sending anything itself.
func TestHelperOutlivesStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	first := w.refresher()
	w.failAt("answer.before", "hold")
	failed := make(chan error, 1)
	go func() {
		_, _, err := first.AccessToken(context.Background(), w.profile.ID, 1)
		failed <- err
	}()
	w.holding()
	first.Stop()
	first.Stop()
	if err := <-failed; !errors.Is(err, hub.ErrCancelled) {
		t.Errorf("the caller of a stopped refresher got %v; want ErrCancelled", err)
	}
	if _, _, err := w.ask(first, 1); !errors.Is(err, hub.ErrCancelled) {
		t.Errorf("a stopped refresher says %v; want ErrCancelled", err)
	}
	second, got := w.refresher(), make(chan hub.Generation, 1)
	go func() {
		_, gen, err := second.AccessToken(context.Background(), w.profile.ID, 1)
		if err != nil {
			t.Error(err)
		}
		got <- gen
	}()
	select {
	case gen := <-got:
		t.Errorf("while a helper is at work another one gave generation %d", gen)
	case <-time.After(100 * time.Millisecond): // it waits: the lock says so
	}
	w.release()
	if gen := <-got; gen != 2 {
		t.Errorf("generation %d; want 2", gen)
	}
	w.wantCounts(1, 1)
}

// With nobody asking, the sweep keeps a token of two seconds alive, finishes what
// was interrupted, and ends when told.
func TestSweepKeepsUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{AccessTTL: 2 * time.Second}, "")
	r := w.refresher()
	w.failAt("commit.before", "kill")
	for range 2 {
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("four rotations", func() bool { return w.sim.Counters().Rotations >= 4 })
	r.Stop()
	w.reap()
	w.failed()
	c := w.sim.Counters()
	w.wantCounts(c.Rotations, c.Rotations) // not one request in vain
	if err := r.Start(t.Context()); !errors.Is(err, hub.ErrCancelled) {
		t.Errorf("Start after Stop = %v; want ErrCancelled", err)
	}
}

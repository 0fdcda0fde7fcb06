package refresh_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// The answer of the token endpoint takes as long as one over a network does; the
// rotation is committed before that.
const networkTime = 60 * time.Millisecond

// The process that asks for refreshes, one after the other, is killed again and
// again at random instants.
func TestDaemonIsKilled(t *testing.T) {
	lost := killDaemons(newKillWorld(t, ""), 5)
	if lost != 0 {
		t.Errorf("%d logins lost", lost)
	}
}

// BenchmarkKill kills a daemon at a random instant of back-to-back refreshes, and
// beside it a client that does the same exchange in its own process and writes the
// result with fsync and rename. One operation is one kill of each. With
// CLAUDE_HUB_BENCH_CLI=real the hub's refreshes are done by the real CLI.
func BenchmarkKill(b *testing.B) {
	claude := ""
	if os.Getenv("CLAUDE_HUB_BENCH_CLI") == "real" {
		claude = hubtest.Claude(b)
	}
	w := newKillWorld(b, claude)
	b.ResetTimer()
	ours := killDaemons(w, b.N)
	naive := newKillWorld(b, "")
	theirs := killNaive(naive, b.N)
	b.ReportMetric(float64(ours), "lost-ours")
	b.ReportMetric(float64(theirs), "lost-naive")
	spent := w.sim.Counters().SpentReplays
	b.ReportMetric(float64(spent), "replays-ours")
	if b.N > 1 { // not the trial run
		hubtest.Row(fmt.Sprintf("logins lost, %d kills", b.N), strconv.Itoa(ours), "naive client", strconv.Itoa(theirs), 0)
		hubtest.Row(fmt.Sprintf("spent tokens sent, %d kills", b.N), strconv.Itoa(spent), "naive client", strconv.Itoa(naive.sim.Counters().SpentReplays), 0)
	}
}

// BenchmarkStorm lets 1,000 callers in four processes find their token dead at
// once. One operation is one such storm.
func BenchmarkStorm(b *testing.B) {
	w := newWorld(b, simulator.Config{}, "")
	b.ResetTimer()
	storm(w, 4, 250, b.N)
	c := w.sim.Counters()
	perRotation := float64(c.TokenRequests) / float64(c.Rotations)
	b.ReportMetric(perRotation, "token-requests/rotation")
	if b.N > 1 {
		hubtest.Row("token requests per rotation, 1,000 callers", fmt.Sprintf("%.2f", perRotation), "one", "1.00", perRotation)
	}
	w.wantCounts(b.N, b.N)
}

func newKillWorld(t testing.TB, claude string) *world {
	w := newWorld(t, simulator.Config{}, claude)
	w.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointToken, Kind: simulator.FaultSlow, Delay: networkTime})
	return w
}

// killDaemons kills a daemon n times and returns how many logins that cost.
func killDaemons(w *world, n int) (lost int) {
	w.t.Helper()
	for range n {
		if !w.killOnce("daemon") {
			lost++
			w.t.Logf("lost:\n%s", w.helperLog())
			w.signIn(simulator.SignIn{})
		}
	}
	w.reap() // the last helper is at work yet
	r := w.refresher()
	_, gen, err := w.ask(r, 0)
	if err != nil {
		w.t.Errorf("after %d kills: %v", n, err)
	}
	w.token(r, gen)
	c := w.sim.Counters()
	if c.SpentReplays != 0 || c.Rotations < 2*n {
		w.t.Errorf("%d kills: %d rotations, %d spent tokens sent; want refreshes to have been under way, and 0", n, c.Rotations, c.SpentReplays)
	}
	return lost
}

// killNaive does the same to the naive client.
func killNaive(w *world, n int) (lost int) {
	w.t.Helper()
	signIn := func() {
		if err := os.WriteFile(filepath.Join(w.dir, "naive.json"), w.sim.SignIn(simulator.SignIn{}).Credentials, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	signIn()
	for range n {
		if !w.killOnce("naive") { // it found its login lost, by the kill before
			lost++
			signIn()
			w.killOnce("naive")
		}
	}
	return lost
}

// killOnce starts a process of that role and kills it at a random instant within
// the time that two refreshes take. It reports false if the process could not
// refresh at all.
func (w *world) killOnce(role string) bool {
	w.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), w.sim.Environ()...), roleVariable+"="+role, quickExit, "TEST_HUB="+w.dir, "TEST_PROFILE="+string(w.profile.ID))
	for i, kv := range w.environ {
		cmd.Env = append(cmd.Env, fmt.Sprintf("TEST_HELPER_%d=%s", i, kv))
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	ok := lines.Scan() // the first refresh is done: from now on they come back to back
	start := time.Now()
	if ok = ok && lines.Scan(); ok {
		time.Sleep(rand.N(2*time.Since(start) + 1))
	}
	cmd.Process.Kill() // a process that could not refresh is gone
	io.Copy(io.Discard, out)
	cmd.Wait() // it was killed
	return ok
}

// playDaemon refreshes as fast as it can, and prints each generation.
func playDaemon() error {
	dir, id := os.Getenv("TEST_HUB"), hub.ProfileID(os.Getenv("TEST_PROFILE"))
	v, err := openVault(dir)
	if err != nil {
		return err
	}
	r, err := refresh.New(config(dir, v, helperEnviron()))
	if err != nil {
		return err
	}
	for {
		_, gen, err := r.AccessToken(context.Background(), id, 0)
		if err == nil {
			_, gen, err = r.AccessToken(context.Background(), id, gen)
		}
		if err != nil {
			return err
		}
		fmt.Println(gen)
	}
}

// playNaive does the exchange in its own process, and replaces the file as well as
// a file can be replaced.
func playNaive() error {
	file := filepath.Join(os.Getenv("TEST_HUB"), "naive.json")
	for {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		cred, err := agent.ParseCredentials(b)
		if err != nil {
			return err
		}
		next, err := naiveExchange(cred)
		if err != nil {
			return err
		}
		if err := naiveReplace(file, next); err != nil {
			return err
		}
		fmt.Println(cred.ExpiresAt)
	}
}

func naiveExchange(cred agent.Credentials) ([]byte, error) {
	b, err := json.Marshal(map[string]string{"grant_type": "refresh_token", "refresh_token": cred.RefreshToken.Reveal(), "client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e"})
	if err != nil {
		return nil, err
	}
	resp, err := http.Post("https://platform.claude.com/v1/oauth/token", "application/json", bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return credentialsOf(answer, cred.RefreshToken.Reveal())
}

func naiveReplace(file string, content []byte) error {
	f, err := os.Create(file + ".tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close(), os.Rename(f.Name(), file))
}

package refresh_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// script writes a CLI of our own.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "claude")
	hubtest.Script(t, path, "#!/bin/sh\n"+body)
	return path
}

// A CLI that misbehaves costs a failed refresh, and nothing else: it is bounded in
// time, words and files, its children go with it, and nothing was sent.
func TestMisbehavingCLI(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	for name, body := range map[string]string{
		"hangs":             "exec sleep 1000",
		"ignores SIGTERM":   "trap '' TERM HUP INT; while :; do sleep 1; done",
		"prints garbage":    "head -c 20000000 /dev/urandom; exit 3",
		"says nothing":      "exit 0",
		"forks":             "sleep 1000 & echo $! > " + pid + "; exit 1",
		"fills the disk":    "head -c 200000000 /dev/zero > \"$HOME/x\"",
		"does not exist":    "",
		"has no auth login": "echo \"error: unknown command 'auth'\"; exit 1",
		"writes nonsense":   "echo '{\"claudeAiOauth\":' > \"$CLAUDE_CONFIG_DIR/.credentials.json\"",
		"writes the old":    "", // see below
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := script(t, body)
			w := newWorld(t, simulator.Config{}, path)
			switch name {
			case "does not exist":
				os.Remove(path)
			case "writes the old":
				old := filepath.Join(t.TempDir(), "old")
				if err := os.WriteFile(old, w.login.Credentials, 0o600); err != nil {
					t.Fatal(err)
				}
				hubtest.Script(t, path, "#!/bin/sh\nexec cp "+old+" \"$CLAUDE_CONFIG_DIR/.credentials.json\"\n")
			}
			r := w.refresher(impatient, with("TEST_PATIENCE=1s", "TEST_BACKOFF=1h"))
			if _, gen, err := w.ask(r, 1); err == nil || errors.Is(err, hub.ErrLoginRequired) {
				t.Errorf("AccessToken = generation %d, %v; want trouble\n%s", gen, err, w.helperLog())
			}
			s := w.status(r)
			if s.Health != hub.HealthSuspect || s.Failures != 1 || s.Generation != 1 || len(s.LastError) > 600 {
				t.Errorf("status = %+v; want suspect", s)
			}
			if left := w.leftovers("attempt-"); len(left) > 0 {
				t.Errorf("left over: %q", left)
			}
			if name == "forks" {
				w.wantGone(pid)
			}
			w.wantCounts(0, 0)
		})
	}
}

// wantGone checks that the process whose number is in the file has been killed.
func (w *world) wantGone(file string) {
	w.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the child goes", func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || bytes.Contains(stat, []byte(") Z ")) // gone, or not yet reaped by whoever inherited it
	})
}

// While the CLI lives, its helper may be dead: whoever comes next waits for the
// CLI, and then finds its answer.
func TestCLIOutlivesItsHelper(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	started, goOn := filepath.Join(dir, "started"), filepath.Join(dir, "go")
	// The CLI has its answer, and dawdles before it writes that down.
	path := script(t, `tmp=$(mktemp -d); CLAUDE_CONFIG_DIR=$tmp '`+standIn(t)+`' "$@"
touch `+started+`; while [ ! -e `+goOn+` ]; do sleep 0.01; done
cp "$tmp/.credentials.json" "$CLAUDE_CONFIG_DIR/.credentials.json"; rm -r "$tmp"
`)
	w := newWorld(t, simulator.Config{}, path)
	first := w.refresher()
	go first.AccessToken(t.Context(), w.profile.ID, 1) // it fails with its helper
	w.eventually("the CLI has its answer", func() bool { _, err := os.Stat(started); return err == nil })
	w.killHelper()
	first.Stop()

	got := make(chan hub.Generation, 1)
	second := w.refresher()
	go func() {
		_, gen, err := second.AccessToken(t.Context(), w.profile.ID, 1)
		if err != nil {
			t.Error(err)
		}
		got <- gen
	}()
	select {
	case gen := <-got:
		t.Errorf("while the CLI is at work another one gave generation %d", gen)
	case <-time.After(300 * time.Millisecond): // it waits: the CLI's lock says so
	}
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if gen := <-got; gen != 2 {
		t.Errorf("generation %d; want 2\n%s", gen, w.helperLog())
	}
	w.wantCounts(1, 1)
}

// killHelper kills the process that holds the profile's lock.
func (w *world) killHelper() {
	w.t.Helper()
	pids := w.helpers()
	if len(pids) != 1 {
		w.t.Fatalf("%d helpers are at work", len(pids))
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
}

// helpers returns the processes that were started to refresh the profile.
func (w *world) helpers() []int {
	w.t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		w.t.Fatal(err)
	}
	var pids []int
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err == nil && bytes.Contains(b, []byte("--profile="+string(w.profile.ID))) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Polite signals do not stop a helper, and it has no terminal whose end could.
func TestHelperIgnoresSignals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher()
	w.failAt("answer.before", "hold")
	go r.AccessToken(t.Context(), w.profile.ID, 1) // asked again below
	w.holding()
	pids := w.helpers()
	if len(pids) != 1 {
		t.Fatalf("%d helpers are at work", len(pids))
	}
	if sid, err := sessionOf(pids[0]); err != nil || sid != pids[0] {
		t.Errorf("the helper is in session %d, %v; want its own", sid, err)
	}
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		syscall.Kill(pids[0], s)
	}
	w.release()
	if _, gen := w.token(r, 1); gen != 2 {
		t.Errorf("generation %d; want 2", gen)
	}
	w.wantCounts(1, 1)
	if log := w.helperLog(); strings.Contains(log, "interrupted") {
		t.Errorf("the helper died, and another one finished its work:\n%s", log)
	}
}

func sessionOf(pid int) (int, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return strconv.Atoi(fields[3]) // state, parent, group, session
}

// The CLI may hold locks, sessions and descriptors of its own only: a helper's lock
// is free when the helper is gone.
func TestCLIDoesNotHoldTheLock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, script(t, "ls -l /proc/self/fd; exit 1"))
	r := w.refresher(impatient)
	w.failAt("answer.after", "kill")
	w.ask(r, 1) // it fails
	words, err := filepath.Glob(filepath.Join(w.refreshDir(), "attempt-*", "words"))
	if err != nil || len(words) != 1 {
		t.Fatalf("words: %q, %v", words, err)
	}
	b, err := os.ReadFile(words[0])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte("cli.lock")) || bytes.Contains(b, []byte(string(w.profile.ID)+"/lock")) || bytes.Contains(b, []byte("helper.log")) {
		t.Errorf("the CLI's descriptors:\n%s", b)
	}
}

// Somebody commits another login while ours is at the platform.
func TestLostSwap(t *testing.T) {
	t.Parallel()
	arrange := func(t *testing.T) *world {
		w := newWorld(t, simulator.Config{}, "")
		w.failAt("commit.before", "hold")
		go w.refresher().AccessToken(t.Context(), w.profile.ID, 1) // asked again below
		w.holding()
		return w
	}
	t.Run("the owner signed in again", func(t *testing.T) {
		w := arrange(t)
		w.signIn(simulator.SignIn{})
		w.release()
		w.reap()
		r := w.refresher()
		if token, gen := w.token(r, 1); gen != 2 || token != w.login.AccessToken {
			t.Errorf("generation %d; want the new sign-in", gen)
		}
		if s := w.status(r); s.Health != hub.HealthOK || s.Interrupted || len(w.leftovers("kept-")) > 0 {
			t.Errorf("status = %+v; want ok", s)
		}
		if _, gen := w.token(r, 2); gen != 3 {
			t.Errorf("refreshed: generation %d; want 3", gen)
		}
		w.wantCounts(2, 2)
	})
	for name, prepare := range map[string]func(*world, simulator.Login){
		"the platform refuses a token past its time": func(w *world, l simulator.Login) { w.sim.RevokeAccess(l.AccessToken) },
		"the platform can't be asked about one": func(w *world, _ simulator.Login) {
			w.sim.Inject(simulator.Fault{Endpoint: simulator.EndpointProfile, Kind: simulator.FaultStatus, Times: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := arrange(t)
			w.signIn(simulator.SignIn{AccessTTL: time.Millisecond})
			prepare(w, w.login)
			w.release()
			w.reap()
			r := w.refresher()
			if _, gen := w.token(r, 0); gen != 3 {
				t.Errorf("generation %d; want the next of what the owner signed in with\n%s", gen, w.helperLog())
			}
			if s := w.status(r); s.Health != hub.HealthOK || s.SecondWriter || s.Interrupted {
				t.Errorf("status = %+v\n%s", s, w.helperLog())
			}
			if kept := w.leftovers("kept-"); len(kept) != 0 {
				t.Errorf("still kept after the login went on: %q", kept)
			}
			w.wantCounts(2, 2)
		})
	}
	t.Run("a second writer", func(t *testing.T) {
		w := arrange(t)
		other := w.sim.SignIn(simulator.SignIn{})
		w.sim.RevokeAccess(other.AccessToken)
		w.commit(hub.KindLogin, other.Credentials)
		w.release()
		w.reap()
		r := w.refresher()
		w.wantLoginRequired(r, 0, "two writers")
		w.wantLoginRequired(r, 2, "two writers")
		if kept := w.leftovers("kept-"); len(kept) != 1 {
			t.Errorf("kept: %q; want our answer", kept)
		}
		w.wantCounts(1, 1)
		w.signIn(simulator.SignIn{})
		if _, gen := w.token(r, 3); gen != 4 {
			t.Errorf("after a sign-in: generation %d; want 4", gen)
		}
		if kept := w.leftovers("kept-"); len(kept) != 0 {
			t.Errorf("still kept: %q", kept)
		}
	})
}

// No file but the vault's, no log, no argument and no error holds a token, while a
// refresh is interrupted or after it.
func TestTokensStayInTheVault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher()
	w.failAt("answer.before", "hold")
	go r.AccessToken(t.Context(), w.profile.ID, 1) // asked again below
	w.holding()
	for _, pid := range w.helpers() {
		for _, file := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
			if err != nil || bytes.Contains(b, []byte("sk-ant-")) {
				t.Errorf("the helper's %s holds a token (%v)", file, err)
			}
		}
	}
	w.wantPrivate()
	w.release()
	w.token(r, 1)
	w.sim.Inject(fault(simulator.FaultStatus, 1))
	w.token(r, 2)
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("sk-ant-")) {
			t.Errorf("%s holds a token", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// wantPrivate checks that nothing below the refresh directory is open to others.
func (w *world) wantPrivate() {
	w.t.Helper()
	err := filepath.WalkDir(filepath.Join(w.dir, "refresh"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			w.t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}

// A CLI that sends the same refresh token twice does not get through twice.
func TestOneTunnelPerRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, script(t, `'`+standIn(t)+`' "$@"; CLAUDE_CONFIG_DIR="$HOME" '`+standIn(t)+`' "$@"`))
	if _, gen := w.token(w.refresher(), 1); gen != 2 {
		t.Errorf("generation %d; want 2", gen)
	}
	w.wantCounts(1, 1)
	if !strings.Contains(w.helperLog(), "a second connection") {
		t.Error("the second connection is not in the log")
	}
}

// Nobody else on the machine gets through the door while it stands open.
func TestDoorHasAPassword(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	proxy, done := filepath.Join(dir, "proxy"), filepath.Join(dir, "done")
	w := newWorld(t, simulator.Config{}, script(t, `echo "$HTTPS_PROXY" > `+proxy+`.tmp; mv `+proxy+`.tmp `+proxy+`
while [ ! -e `+done+` ]; do sleep 0.01; done; exec '`+standIn(t)+`' "$@"`))
	r := w.refresher()
	go r.AccessToken(t.Context(), w.profile.ID, 1) // asked again below
	w.eventually("the door is open", func() bool { _, err := os.Stat(proxy); return err == nil })
	b, err := os.ReadFile(proxy)
	if err != nil {
		t.Fatal(err)
	}
	door, err := url.Parse(strings.TrimSpace(string(b)))
	if err != nil || door.Hostname() != "127.0.0.1" || door.User == nil {
		t.Fatalf("the CLI's proxy is %q, %v", b, err)
	}
	door.User = nil
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(door), DisableKeepAlives: true}}
	if _, err := client.Get("https://platform.claude.com/"); err == nil || !strings.Contains(err.Error(), "Authentication Required") {
		t.Errorf("a stranger at the door: %v; want it asked for the password", err)
	}
	if err := os.WriteFile(done, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, gen := w.token(r, 1); gen != 2 {
		t.Errorf("generation %d; want 2", gen)
	}
	w.wantCounts(1, 1)
}

// The room for an answer is taken before the CLI starts and given back before the
// answer comes.
func TestBallast(t *testing.T) {
	t.Parallel()
	seen := filepath.Join(t.TempDir(), "seen")
	w := newWorld(t, simulator.Config{}, script(t, `ls -s "$HOME/../ballast" > `+seen+`; '`+standIn(t)+`' "$@"; ls "$HOME/.." >> `+seen))
	w.token(w.refresher(), 1)
	b, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(string(b), "\n")
	if blocks, err := strconv.Atoi(strings.Fields(before)[0]); err != nil || blocks < 4096 || strings.Contains(after, "ballast") {
		t.Errorf("before the answer %q (%v), after it %q; want 4 MiB, and nothing", before, err, after)
	}
}

// A status file that nobody can read must not lead to sending a token; a login that
// works goes on working, and the hint helps.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	r := w.refresher(impatient)
	if err := os.MkdirAll(w.refreshDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	status := filepath.Join(w.refreshDir(), "status.json")
	if err := os.WriteFile(status, []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, gen := w.token(r, 0); gen != 1 {
		t.Errorf("generation %d; want the token that lives", gen)
	}
	if _, _, err := w.ask(r, 1); !errors.Is(err, hub.ErrFormat) || hub.HintOf(err) == "" {
		t.Errorf("AccessToken = %v; want ErrFormat with a hint", err)
	}
	w.wantCounts(0, 0)
	os.Remove(status)

	attempt := filepath.Join(w.refreshDir(), "attempt-fake")
	if err := os.Mkdir(attempt, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(attempt, "attempt.json"), []byte(`{"format":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.ask(r, 1); err == nil || !strings.Contains(err.Error(), "format 99") {
		t.Errorf("AccessToken beside an attempt of a newer format = %v; want that said", err)
	}
	w.wantCounts(0, 0)
	os.Remove(filepath.Join(attempt, "attempt.json")) // then it was never used
	w.eventually("the refresh goes on", func() bool { _, gen, err := w.ask(r, 1); return err == nil && gen == 2 })
	w.wantCounts(1, 1)
}

// The helper refuses what no Refresher would ask for.
func TestHelperArguments(t *testing.T) {
	t.Parallel()
	w := newWorld(t, simulator.Config{}, "")
	good := "--profile=" + string(w.profile.ID)
	for _, args := range [][]string{
		{}, {good}, {good, "--mode=all"}, {"--profile=../x", "--mode=due"}, {good, "--mode=due", "--from=x"}, {good, "--mode=due", "--lock-fd=x"}, {good, "--mode=due", "--what"},
	} {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = w.environ
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("a helper with arguments %q did something: %s", args, out)
		}
	}
	cmd := exec.Command(os.Args[0], good, "--mode=force", "--from=1", "--lock-fd=3") // by hand: no lock there
	cmd.Env = w.environ
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("a helper by hand: %v, %s", err, out)
	}
	w.wantCounts(1, 1)
	rec, err := w.vault.Latest(t.Context(), w.profile.ID, hub.KindLogin)
	if err != nil || rec.Generation != 2 {
		t.Errorf("after that: %v, %v", rec, err)
	}
	if _, err := agent.ParseCredentials(rec.Payload); err != nil {
		t.Error(err)
	}
}

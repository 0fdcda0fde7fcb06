package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/lease"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

type demoOptions struct {
	runs     int
	parallel int
	ttl      time.Duration
	keep     bool
}

func (a *app) demoCommand() *cobra.Command {
	var o demoOptions
	c := &cobra.Command{
		Use:   "demo",
		Short: "Watch it all work against a stand-in platform, without an account",
		Long: `Starts a stand-in platform on loopback, signs in to it with the real claude CLI,
and carries out runs while access tokens die every few seconds. Then it does the
same work by copying the captured directory, as people do without a hub.

Nothing of it touches your own hub, your own login or the network.`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return a.demo(c.Context(), o) },
	}
	c.Flags().IntVarP(&o.runs, "runs", "n", 12, "how many runs, each way")
	c.Flags().IntVar(&o.parallel, "parallel", 2, "how many of the hub's runs at once")
	c.Flags().DurationVar(&o.ttl, "token-life", 3*time.Second, "how long an access token lives")
	c.Flags().BoolVar(&o.keep, "keep", false, "leave the demo's directory behind, to look at")
	return c
}

// demo is one demonstration, in a directory of its own.
type demo struct {
	a       *app
	o       demoOptions
	dir     string
	self    string // this program
	claude  string
	environ []string // of every program that it starts; there is nothing of the user's login in it
	sim     *simulator.Simulator
}

// side is what came of one way of working.
type side struct {
	Runs            int           `json:"runs"`
	Done            int           `json:"done"`
	LoginsAsked     int           `json:"logins_asked"`
	Rotations       int           `json:"rotations"`
	SpentReplays    int           `json:"spent_tokens_replayed"`
	TokensInSandbox int           `json:"runs_that_saw_a_token"`
	Took            time.Duration `json:"took_ns"`
}

type demoReport struct {
	Hub         side          `json:"hub"`
	Copying     side          `json:"copying"`
	OverheadP50 time.Duration `json:"gateway_overhead_p50_ns"`
	OverheadP99 time.Duration `json:"gateway_overhead_p99_ns"`
}

func (a *app) demo(ctx context.Context, o demoOptions) error {
	if o.runs < 1 || o.parallel < 1 || o.ttl < time.Second {
		return fmt.Errorf("%w: give at least one run, one at once, and a second of life", hub.ErrInvalid)
	}
	d, err := a.newDemo(o)
	if err != nil {
		return err
	}
	defer d.close()
	report, err := d.play(ctx)
	if err != nil {
		return err
	}
	if err := d.show(report); err != nil {
		return err
	}
	if h := report.Hub; h.Done != h.Runs || h.LoginsAsked != 0 || h.TokensInSandbox != 0 || h.SpentReplays != 0 {
		return errors.New("the demo did not show what it promises")
	}
	return nil
}

func (a *app) newDemo(o demoOptions) (*demo, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	own, err := a.hubDir()
	if err != nil {
		return nil, err
	}
	claude, err := agent.Find(own)
	if err != nil {
		return nil, hub.Hint(err, "make it available on PATH, or with `claude-hub init` and `claude-hub agent install`")
	}
	dir, err := os.MkdirTemp("", "claude-hub-demo-")
	if err != nil {
		return nil, fmt.Errorf("making the demo's directory: %w", err)
	}
	d := &demo{a: a, o: o, dir: dir, self: self, claude: claude}
	if d.sim, err = simulator.Start(simulator.Config{AccessTTL: o.ttl}); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	d.environ = append([]string{
		"HOME=" + dir, "CLAUDE_HUB_DIR=" + d.hubDir(), "CLAUDE_HUB_LISTEN=off", "PATH=" + filepath.Dir(claude) + ":" + a.getenv("PATH"), "LANG=C.UTF-8",
	}, d.sim.Environ()...)
	return d, nil
}

func (d *demo) hubDir() string { return filepath.Join(d.dir, "hub") }

func (d *demo) close() {
	d.sim.Close()
	if d.o.keep {
		fmt.Fprintf(d.a.stderr, "The demo's directory is %s.\n", d.dir)
		return
	}
	os.RemoveAll(d.dir)
}

func (d *demo) play(ctx context.Context) (demoReport, error) {
	var r demoReport
	d.say("A stand-in platform runs on loopback. Its access tokens live %s, and refresh tokens work once.", d.o.ttl)
	if err := d.signIn(ctx); err != nil {
		return r, err
	}
	var err error
	d.say("%d runs with claude-hub, half of them through its daemon:", d.o.runs)
	if r.Hub, err = d.withHub(ctx); err != nil {
		return r, err
	}
	d.say("The same %d runs by copying the captured directory to each job, one at a time, so that they don't even race:", d.o.runs)
	if r.Copying, err = d.byCopying(ctx); err != nil {
		return r, err
	}
	r.OverheadP50, r.OverheadP99, err = d.overhead(ctx)
	return r, err
}

// say prints one line of the story.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.a.stderr, "\n%s %s\n", d.a.style(d.a.stderr, green, "▸"), fmt.Sprintf(format, args...))
}

// hub runs this program as a user would and returns what it prints.
func (d *demo) hub(ctx context.Context, args ...string) ([]byte, error) {
	cmd := d.command(ctx, d.self, args...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(out) == 0 {
		return nil, fmt.Errorf("claude-hub %s: %w: %s", args[0], err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

func (d *demo) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = d.environ
	cmd.Dir = d.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

var linkPattern = regexp.MustCompile(`https://[^\s\x1b\x07]+`)

// signIn goes through the CLI's own sign-in: the demo plays the owner, who opens
// the link, approves, and pastes the code.
func (d *demo) signIn(ctx context.Context) error {
	if _, err := d.hub(ctx, "init"); err != nil {
		return err
	}
	if err := d.signInWith(ctx); err != nil {
		return err
	}
	d.say("Signed in with the claude CLI's own sign-in. The login is encrypted in the vault.")
	return nil
}

// signInWith is a sign-in with those flags.
func (d *demo) signInWith(ctx context.Context, flags ...string) error {
	cmd := d.command(ctx, d.self, append([]string{"login"}, flags...)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the sign-in: %w", err)
	}
	said, err := d.approve(ctx, stderr, stdin)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return fmt.Errorf("signing in: %w: %s", err, said)
	}
	return nil
}

// approve reads what the sign-in says, opens the first link in it, and hands the
// code over. It returns what was said.
func (d *demo) approve(ctx context.Context, said io.Reader, code io.WriteCloser) (string, error) {
	defer code.Close()
	var all strings.Builder
	lines := bufio.NewScanner(said)
	approved := false
	for lines.Scan() {
		fmt.Fprintln(&all, lines.Text())
		link := linkPattern.FindString(lines.Text())
		if link == "" || approved {
			continue
		}
		approved = true
		answer, err := d.sim.Approve(ctx, link)
		if err != nil {
			return all.String(), err
		}
		fmt.Fprintln(code, answer)
	}
	return all.String(), lines.Err()
}

// prompt is a job's work: it looks everywhere for tokens, then writes a file.
const prompt = `Look around, then write the answer.
simulate: bash "{ env; cat /proc/*/environ /proc/*/cmdline; find \"$HOME\" /run /tmp /var/tmp -xdev -type f -size -1000k -exec cat {} +; } > seen.txt 2>/dev/null; true"
simulate: write answer.txt "42\n"
simulate: say "The answer is in answer.txt."
`

// withHub carries the runs out with claude-hub, the second half through the daemon.
func (d *demo) withHub(ctx context.Context) (side, error) {
	before := d.sim.Counters()
	started := time.Now()
	half := d.o.runs / 2
	s, err := d.batch(ctx, "hub", 0, d.o.runs-half, d.o.parallel, d.hubRun)
	if err != nil || half == 0 {
		return d.finish(s, before, started), err
	}
	stop, err := d.serve(ctx)
	if err != nil {
		return s, err
	}
	second, err := d.batch(ctx, "hub", d.o.runs-half, half, d.o.parallel, d.hubRun)
	s.add(second)
	return d.finish(s, before, started), errors.Join(err, stop())
}

func (s *side) add(o side) {
	s.Runs += o.Runs
	s.Done += o.Done
	s.LoginsAsked += o.LoginsAsked
	s.TokensInSandbox += o.TokensInSandbox
}

func (d *demo) finish(s side, before simulator.Counters, started time.Time) side {
	after := d.sim.Counters()
	s.Rotations = after.Rotations - before.Rotations
	s.SpentReplays = after.SpentReplays - before.SpentReplays
	s.Took = time.Since(started)
	fmt.Fprintln(d.a.stderr)
	return s
}

// outcome is how one run ended.
type outcome struct{ done, loginAsked bool }

// batch carries out n runs in workspaces of their own, a few at once, and draws a
// mark for each.
func (d *demo) batch(ctx context.Context, name string, first, n, parallel int, run func(ctx context.Context, workspace string) (outcome, error)) (side, error) {
	var mu sync.Mutex // guards s and the line of marks
	s := side{Runs: n}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range n {
		group.Go(func() error {
			workspace := filepath.Join(d.dir, "work", fmt.Sprintf("%s-%03d", name, first+i))
			if err := os.MkdirAll(workspace, 0o700); err != nil {
				return err
			}
			o, err := run(ctx, workspace)
			if err != nil {
				return err
			}
			saw, err := d.tokenIn(workspace)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			s.tally(o, saw)
			fmt.Fprint(d.a.stderr, d.mark(o))
			return nil
		})
	}
	return s, group.Wait()
}

func (s *side) tally(o outcome, sawToken bool) {
	if o.done {
		s.Done++
	}
	if o.loginAsked {
		s.LoginsAsked++
	}
	if sawToken {
		s.TokensInSandbox++
	}
}

func (d *demo) mark(o outcome) string {
	if o.done {
		return d.a.style(d.a.stderr, green, " ✓")
	}
	return d.a.style(d.a.stderr, red, " ✗")
}

// tokenIn reports whether any token that the platform has ever made is in a file
// of the workspace, where the job has put all that it could read.
func (d *demo) tokenIn(workspace string) (bool, error) {
	files, err := filepath.Glob(filepath.Join(workspace, "*"))
	if err != nil {
		return false, err
	}
	minted := d.sim.Minted()
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		for _, token := range minted {
			if bytes.Contains(data, []byte(token)) {
				return true, nil
			}
		}
	}
	return false, nil
}

func (d *demo) hubRun(ctx context.Context, workspace string) (outcome, error) {
	out, err := d.hub(ctx, "run", "--json", "--dir", workspace, prompt)
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var last struct{ Run hub.Run }
	if json.Unmarshal(lines[len(lines)-1], &last) != nil || last.Run.Verdict == "" {
		return outcome{}, fmt.Errorf("a run ended without a verdict: %w", err)
	}
	if last.Run.Verdict != hub.VerdictDone {
		fmt.Fprintf(d.a.stderr, " [%s: %s] ", last.Run.Verdict, printable(last.Run.Reason, 200))
	}
	if seen, err := os.ReadFile(filepath.Join(workspace, "seen.txt")); last.Run.Verdict == hub.VerdictDone && !bytes.Contains(seen, []byte(lease.TokenPrefix)) {
		return outcome{}, fmt.Errorf("the job that looked for tokens did not even find its placeholder: %w", err)
	}
	return outcome{
		done:       last.Run.Verdict == hub.VerdictDone && worked(workspace),
		loginAsked: last.Run.Verdict == hub.VerdictLoginRequired,
	}, nil
}

// worked reports whether the job has done its work.
func worked(workspace string) bool {
	data, err := os.ReadFile(filepath.Join(workspace, "answer.txt"))
	return err == nil && string(data) == "42\n"
}

// serve starts the daemon and returns when it answers.
func (d *demo) serve(ctx context.Context) (stop func() error, err error) {
	cmd := d.command(ctx, d.self, "serve")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the daemon: %w", err)
	}
	lines := bufio.NewScanner(stderr)
	serving := false
	for !serving && lines.Scan() {
		serving = strings.Contains(lines.Text(), "serving")
	}
	if !serving {
		return nil, fmt.Errorf("the daemon did not start: %w", cmd.Wait())
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(io.Discard, stderr) //nolint:errcheck // it ends with the daemon
	}()
	return func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		<-drained
		return errors.Join(err, cmd.Wait())
	}, nil
}

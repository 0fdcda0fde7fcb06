package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/gateway"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// byCopying does the work the way it is done without a hub: a login is captured,
// every job gets a copy of it, and the copy is thrown away.
func (d *demo) byCopying(ctx context.Context) (side, error) {
	captured := filepath.Join(d.dir, "captured")
	if err := os.Mkdir(captured, 0o700); err != nil {
		return side{}, err
	}
	login := d.sim.SignIn(simulator.SignIn{})
	if err := os.WriteFile(filepath.Join(captured, agent.CredentialFile), login.Credentials, 0o600); err != nil {
		return side{}, err
	}
	before := d.sim.Counters()
	started := time.Now()
	s, err := d.batch(ctx, "copy", 0, d.o.runs, 1, func(ctx context.Context, workspace string) (outcome, error) {
		return d.copyRun(ctx, captured, workspace)
	})
	return d.finish(s, before, started), err
}

// copyRun copies the captured directory, runs the CLI on the copy with the same
// flags as in a sandbox, and discards the copy.
func (d *demo) copyRun(ctx context.Context, captured, workspace string) (outcome, error) {
	home, err := os.MkdirTemp(d.dir, "home-")
	if err != nil {
		return outcome{}, err
	}
	defer os.RemoveAll(home)
	config := filepath.Join(home, ".claude")
	if err := os.CopyFS(config, os.DirFS(captured)); err != nil {
		return outcome{}, err
	}
	cmd := d.command(ctx, d.claude, agent.Invocation{}.Args()...)
	cmd.Env = append(agent.RunEnviron(d.environ, home, d.a.getenv("PATH"), "", nil), d.sim.Environ()...)
	cmd.Dir = workspace
	cmd.Stdin = strings.NewReader(prompt)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return outcome{}, fmt.Errorf("running the claude CLI: %w", err)
	}
	return outcome{done: err == nil && worked(workspace), loginAsked: err != nil && asksForLogin(out)}, nil
}

// asksForLogin reports whether the CLI's last event is about its login.
func asksForLogin(out []byte) bool {
	for line := range bytes.Lines(out) {
		e, err := agent.ParseEvent(bytes.TrimSpace(line))
		if err == nil && e.Result != nil && e.Result.IsError {
			text := strings.ToLower(e.Result.Text)
			return e.Result.APIStatus == http.StatusUnauthorized || strings.Contains(text, "login") || strings.Contains(text, "authenticate")
		}
	}
	return false
}

// overhead measures what the gateway adds to a small request, against the same
// request sent directly, in turns.
func (d *demo) overhead(ctx context.Context) (p50, p99 time.Duration, err error) {
	d.sim.SetAccessTTL(time.Hour)
	token := secret.New(d.sim.SignIn(simulator.SignIn{}).AccessToken)
	g, err := gateway.New(gateway.Config{Upstream: d.sim.Direct(), Tokens: fixedToken{token}})
	if err != nil {
		return 0, 0, err
	}
	defer g.Close()
	e, err := g.Open(ctx, gateway.Request{Run: hub.NewRunID(now()), Profile: "p-demo", Limits: hub.Limits{Lifetime: time.Hour}})
	if err != nil {
		return 0, 0, err
	}
	const rounds = 400
	direct, through := make([]time.Duration, 0, rounds), make([]time.Duration, 0, rounds)
	for range rounds {
		a, err := timeRequest(ctx, d.sim.Direct().String(), token)
		if err != nil {
			return 0, 0, err
		}
		b, err := timeRequest(ctx, e.URL(), e.Token())
		if err != nil {
			return 0, 0, err
		}
		direct, through = append(direct, a), append(through, b)
	}
	return percentile(through, 50) - percentile(direct, 50), percentile(through, 99) - percentile(direct, 99), nil
}

// fixedToken is a gateway's source of one token that never changes.
type fixedToken struct{ token secret.Text }

func (f fixedToken) AccessToken(context.Context, hub.ProfileID, hub.Generation) (secret.Text, hub.Generation, error) {
	return f.token, 1, nil
}

func timeRequest(ctx context.Context, base string, token secret.Text) (time.Duration, error) {
	const body = `{"model":"claude-sonnet-4-5","messages":[{"role":"user","content":"hello"}]}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+"/v1/messages/count_tokens", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	req.Header.Set("Anthropic-Beta", "oauth-2025-04-20")
	req.Header.Set("Anthropic-Version", "2023-06-01")
	req.Header.Set("Content-Type", "application/json")
	started := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("measuring the gateway: the answer was %s", resp.Status)
	}
	return time.Since(started), err
}

// percentile returns the p-th percentile of d, which it sorts.
func percentile(d []time.Duration, p int) time.Duration {
	slices.Sort(d)
	return d[(len(d)-1)*p/100]
}

func (d *demo) show(r demoReport) error {
	if d.a.json {
		return d.a.printJSON(r)
	}
	row := func(name string, f func(side) any) []string {
		return []string{name, fmt.Sprint(f(r.Hub)), fmt.Sprint(f(r.Copying))}
	}
	fmt.Fprintln(d.a.stdout)
	return d.a.table([][]string{
		{"", "CLAUDE-HUB", "COPYING ~/.claude"},
		row("runs", func(s side) any { return s.Runs }),
		row("… that did their work", func(s side) any { return s.Done }),
		row("… that asked for a login", func(s side) any { return s.LoginsAsked }),
		row("… that could read a token", func(s side) any { return s.TokensInSandbox }),
		row("token rotations", func(s side) any { return s.Rotations }),
		row("spent tokens replayed", func(s side) any { return s.SpentReplays }),
		row("took", func(s side) any { return s.Took.Round(100 * time.Millisecond) }),
		{"gateway adds, p50", fmt.Sprintf("%.2f ms", ms(r.OverheadP50)), "–"},
		{"gateway adds, p99", fmt.Sprintf("%.2f ms", ms(r.OverheadP99)), "–"},
	})
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

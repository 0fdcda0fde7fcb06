package run_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
)

// BenchmarkRunAgainstBareCLI runs the same prompt with the bare CLI and with the
// hub, in turn, and reports both and their ratio.
func BenchmarkRunAgainstBareCLI(b *testing.B) {
	f, sim, l := real(b)
	login, _ := l.current()
	prompt := `simulate: say "done"`
	call := agent.Invocation{Prompt: prompt}
	bare := func() {
		home := b.TempDir()
		cmd := exec.Command(hubtest.Claude(b), call.Args()...)
		cmd.Dir, cmd.Stdin = f.workspace, call.Stdin()
		cmd.Env = append(agent.RunEnviron(nil, home, os.Getenv("PATH"), "", map[string]string{"CLAUDE_CODE_OAUTH_TOKEN": login.AccessToken}), sim.Environ()...)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "done") {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	hubs := func() {
		if r, err := f.Run(b.Context(), f.request(prompt), nil); err != nil || r.Verdict != hub.VerdictDone {
			b.Fatalf("%+v, %v", r, err)
		}
	}
	bare() // both warm
	hubs()
	var bareTime, hubTime time.Duration
	for b.Loop() {
		start := time.Now()
		bare()
		middle := time.Now()
		hubs()
		bareTime += middle.Sub(start)
		hubTime += time.Since(middle)
	}
	b.ReportMetric(bareTime.Seconds()*1000/float64(b.N), "bare-ms/op")
	b.ReportMetric(hubTime.Seconds()*1000/float64(b.N), "hub-ms/op")
	b.ReportMetric(hubTime.Seconds()/bareTime.Seconds(), "ratio")
}

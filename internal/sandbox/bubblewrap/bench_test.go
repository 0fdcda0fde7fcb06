package bubblewrap_test

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
)

// BenchmarkTrue runs /bin/true plainly, in a sandbox, and in one with every
// limit, in turn, so that what else the machine does hits all three. It reports
// the medians in microseconds, and the sandboxes' as multiples of the plain run.
func BenchmarkTrue(b *testing.B) {
	d := newDriver(b, bubblewrap.Config{})
	home := b.TempDir()
	inSandbox := func(limits sandbox.Limits) func() error {
		spec := sandbox.Spec{Args: []string{"/bin/true"}, Home: home, Limits: limits}
		return func() error {
			s, err := d.Start(b.Context(), spec)
			if err != nil {
				return err
			}
			_, err = s.Wait()
			return err
		}
	}
	kinds := []struct {
		name string
		run  func() error
		took []time.Duration
	}{
		{name: "plain", run: func() error { return exec.Command("/bin/true").Run() }},
		{name: "sandbox", run: inSandbox(sandbox.Limits{})},
		{name: "limited", run: inSandbox(sandbox.Limits{
			Memory: 1 << 30, Processes: 100, Time: time.Minute, Output: 1 << 20, FileSize: 1 << 30, MinFree: 1,
		})},
	}
	for b.Loop() {
		for i := range kinds {
			k := &kinds[i]
			began := time.Now()
			if err := k.run(); err != nil {
				b.Fatal(err)
			}
			k.took = append(k.took, time.Since(began))
		}
	}
	var plain float64
	for _, k := range kinds {
		slices.Sort(k.took)
		median := float64(k.took[len(k.took)/2].Nanoseconds()) / 1000
		if k.name == "plain" {
			plain = median
		}
		b.ReportMetric(median, k.name+"-µs")
		b.ReportMetric(median/plain, k.name+"/plain")
	}
}

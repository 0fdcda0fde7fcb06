package bubblewrap_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
)

// BenchmarkTrue runs /bin/true plainly, in a sandbox, and in one with every
// limit, in turn, so that what else the machine does hits all three.
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
		{name: "sandbox start", run: inSandbox(sandbox.Limits{})},
		{name: "sandbox start, with every limit", run: inSandbox(sandbox.Limits{
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
	plain := hubtest.Median(kinds[0].took)
	for _, k := range kinds[1:] {
		median := hubtest.Median(k.took)
		hubtest.Row(k.name, hubtest.Milliseconds(median), "fork and exec", hubtest.Milliseconds(plain), float64(median)/float64(plain))
	}
}

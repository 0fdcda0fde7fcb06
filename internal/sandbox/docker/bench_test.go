package docker_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
)

var benchDead = flag.Int("dead", 500, "dead containers in BenchmarkSweep, each way")

// quiet has no word of the driver's between the rows.
func quiet(c *docker.Config) { c.Log = slog.New(slog.NewTextHandler(io.Discard, nil)) }

// BenchmarkTrue runs /bin/true with the engine's own client and with the driver,
// without a network, in turn, so that what else the machine does hits all.
func BenchmarkTrue(b *testing.B) {
	for _, kind := range []string{docker.KindDocker, docker.KindPodman} {
		b.Run(kind, func(b *testing.B) { benchTrue(b, kind) })
	}
}

func benchTrue(b *testing.B, kind string) {
	warm := newDriver(b, kind, quiet)
	if err := warm.Check(b.Context()); err != nil {
		b.Fatal(err)
	}
	home, other := b.TempDir(), b.TempDir()
	in := func(d *docker.Driver, limits sandbox.Limits) error {
		s, err := d.Start(b.Context(), sandbox.Spec{Args: []string{"/bin/true"}, Home: home, Limits: limits})
		if err != nil {
			return err
		}
		_, err = s.Wait()
		return err
	}
	all := sandbox.Limits{Memory: 1 << 30, Processes: 100, Time: time.Minute, Output: 1 << 20, FileSize: 1 << 30, MinFree: 1}
	// Docker's client speaks to both engines.
	plain := []string{"-H", warm.Address(), "run", "--rm", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", hubtest.BaseImage, "/bin/true"}
	kinds := []struct {
		name string
		run  func() error
		took []time.Duration
	}{
		{name: "plain", run: func() error { return exec.Command("docker", plain...).Run() }},
		{name: "container, " + kind, run: func() error { return in(warm, sandbox.Limits{}) }},
		{name: "container with every limit, " + kind, run: func() error { return in(warm, all) }},
		{name: "container of a new process, " + kind, run: func() error {
			d, err := docker.New(docker.Config{Kind: kind, Host: warm.Address(), Dir: other, Image: hubtest.BaseImage})
			if err != nil {
				return err
			}
			defer d.Close()
			return in(d, all)
		}},
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
	base := hubtest.Median(kinds[0].took)
	for _, k := range kinds[1:] {
		median := hubtest.Median(k.took)
		hubtest.Row(k.name, hubtest.Milliseconds(median), "docker run", hubtest.Milliseconds(base), float64(median)/float64(base))
	}
}

// BenchmarkSweep removes dead containers, by the driver and by the engine's own
// client.
func BenchmarkSweep(b *testing.B) {
	for _, kind := range []string{docker.KindDocker, docker.KindPodman} {
		d := newDriver(b, kind, quiet)
		if err := d.Check(b.Context()); err != nil {
			b.Fatal(err)
		}
		c, err := docker.Dial(b.Context(), kind, d.Address(), []string{})
		if err != nil {
			b.Fatal(err)
		}
		ids := makeDead(b, c, map[string]string{"io.claude-hub.bench": "1"}, *benchDead)
		began := time.Now()
		if out, err := exec.Command("docker", append([]string{"-H", d.Address(), "rm", "-f", "-v"}, ids...)...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %.500s", err, out)
		}
		theirs := time.Since(began)
		makeDead(b, c, d.DeadLabels(b), *benchDead)
		began = time.Now()
		n, err := d.Sweep(b.Context())
		if err != nil || n != *benchDead {
			b.Fatalf("a sweep removed %d of %d: %v", n, *benchDead, err)
		}
		ours := time.Since(began)
		c.Close()
		hubtest.Row(fmt.Sprintf("sweep of %d dead containers, %s", n, kind), hubtest.Milliseconds(ours), "docker rm", hubtest.Milliseconds(theirs), float64(ours)/float64(theirs))
	}
}

// makeDead makes containers that never ran.
func makeDead(b *testing.B, c *client.Client, labels map[string]string, n int) []string {
	ids := make([]string, n)
	all, ctx := errgroup.WithContext(context.Background())
	all.SetLimit(8)
	for i := range ids {
		all.Go(func() error {
			r, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{
				Config:     &container.Config{Image: hubtest.BaseImage, Cmd: strings.Fields("/bin/true"), Labels: labels},
				HostConfig: &container.HostConfig{NetworkMode: "none"},
			})
			ids[i] = r.ID
			return err
		})
	}
	if err := all.Wait(); err != nil {
		b.Fatal(err)
	}
	return ids
}

package image_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker/image"
)

// BenchmarkBuild builds both images with nothing of earlier builds, beside a build
// in which nothing is new; and says how large they are beside the CLI in them.
func BenchmarkBuild(b *testing.B) {
	for _, kind := range kinds {
		b.Run(kind, func(b *testing.B) { benchmarkBuild(b, kind) })
	}
}

func benchmarkBuild(b *testing.B, kind string) {
	engine, err := docker.Dial(b.Context(), kind, hubtest.Engine(b, kind), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	both := func(fresh bool) time.Duration {
		start := time.Now()
		for _, k := range image.Kinds() {
			err := image.Build(b.Context(), engine, k, image.Options{
				CLI: hubtest.Claude(b), Version: agent.TestedVersion, HubVersion: "v0.0.0-test", Fresh: fresh,
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(start)
	}
	var fresh, cached time.Duration
	for b.Loop() {
		fresh, cached = both(true), both(false)
	}
	hubtest.Row(kind+": both images, every layer anew", hubtest.Milliseconds(fresh), "nothing new", hubtest.Milliseconds(cached), float64(fresh)/float64(cached))
	for _, k := range image.Kinds() {
		i, err := engine.ImageInspect(b.Context(), image.Name(k, agent.TestedVersion))
		if err != nil {
			b.Fatal(err)
		}
		base, err := engine.ImageInspect(b.Context(), image.DefaultBase)
		if err != nil {
			b.Fatal(err)
		}
		hubtest.Row(kind+": size of the image "+string(k), fmt.Sprintf("%.0f MB", float64(i.Size)/1e6), "the base alone", fmt.Sprintf("%.0f MB", float64(base.Size)/1e6), float64(i.Size)/float64(base.Size))
	}
}

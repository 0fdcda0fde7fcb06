package docker_test

import (
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/sandboxtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
)

func TestMain(m *testing.M) {
	if shim.Wanted(os.Args) {
		syscall.Exit(shim.Main(os.Args)) // os.Exit takes a second under the race detector
	}
	sandboxtest.Main(os.Args)
	if len(os.Args) > 2 && os.Args[1] == hubArg {
		os.Exit(hubMain(os.Args))
	}
	if len(os.Args) > 2 && os.Args[1] == replacedArg {
		os.Exit(replacedMain(os.Args))
	}
	goleak.VerifyTestMain(m)
}

func newDriver(t testing.TB, kind string, change ...func(*docker.Config)) *docker.Driver {
	t.Helper()
	cfg := docker.Config{
		Kind: kind, Dir: t.TempDir(), Image: hubtest.BaseImage, Host: hubtest.Engine(t, kind), Environ: []string{}, Grace: 3 * time.Second,
	}
	for _, c := range change {
		c(&cfg)
	}
	d, err := docker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func TestContractOnDocker(t *testing.T) { sandboxtest.Run(t, newDriver(t, docker.KindDocker)) }
func TestContractOnPodman(t *testing.T) { sandboxtest.Run(t, newDriver(t, docker.KindPodman)) }

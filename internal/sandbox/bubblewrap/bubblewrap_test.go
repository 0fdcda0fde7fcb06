package bubblewrap_test

import (
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
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
	goleak.VerifyTestMain(m)
}

func newDriver(t testing.TB, cfg bubblewrap.Config) *bubblewrap.Driver {
	t.Helper()
	if cfg.Grace == 0 {
		cfg.Grace = 3 * time.Second
	}
	d, err := bubblewrap.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestContractWithControlGroups(t *testing.T) {
	d := newDriver(t, bubblewrap.Config{})
	if !d.Cgroup() {
		t.Log("this user can't make control groups here; the driver counts instead")
	}
	sandboxtest.Run(t, d)
}

func TestLimitsWithCounting(t *testing.T) {
	sandboxtest.RunLimits(t, newDriver(t, bubblewrap.Config{NoCgroup: true, Interval: 20 * time.Millisecond}))
}

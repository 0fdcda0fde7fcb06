package run_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
)

// This binary is also the fake CLI (see fakecli_test.go) and one more process
// with a runner (see processes_test.go).
func TestMain(m *testing.M) {
	if shim.Wanted(os.Args) {
		os.Exit(shim.Main(os.Args))
	}
	if os.Getenv(cliHome) != "" {
		os.Exit(fakeCLI())
	}
	if dir := os.Getenv(processHub); dir != "" {
		os.Exit(process(dir))
	}
	goleak.VerifyTestMain(m)
}

package run_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// This binary is also the fake CLI (see fakecli_test.go) and one more process
// with a runner (see processes_test.go).
func TestMain(m *testing.M) {
	if os.Getenv(cliHome) != "" {
		os.Exit(fakeCLI())
	}
	if dir := os.Getenv(processHub); dir != "" {
		os.Exit(process(dir))
	}
	goleak.VerifyTestMain(m)
}

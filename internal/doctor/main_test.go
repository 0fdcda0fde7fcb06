package doctor_test

import (
	"os"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
)

// TestMain also plays process 1 of a sandbox, and the parts of tests that need a
// mount namespace of their own.
func TestMain(m *testing.M) {
	if shim.Wanted(os.Args) {
		os.Exit(shim.Main(os.Args))
	}
	if os.Getenv(mountsVariable) != "" {
		os.Exit(inNamespace(m))
	}
	os.Exit(m.Run())
}

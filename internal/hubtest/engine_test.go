package hubtest_test

import (
	"testing"

	"github.com/claude-hub/claude-hub/internal/hubtest"
)

// TestEngine: `make setup` leaves both engines ready.
func TestEngine(t *testing.T) {
	for _, kind := range []string{"docker", "podman"} {
		t.Log(hubtest.Engine(t, kind))
	}
}

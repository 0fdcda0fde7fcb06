package shim_test

import (
	"os"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
)

func TestMainRefusesTheOutside(t *testing.T) {
	for _, args := range [][]string{{"claude-hub", boot.Arg}, {"claude-hub"}} {
		if code := shim.Main(args); code == 0 {
			t.Errorf("Main(%q) outside of a sandbox is a success", args)
		}
	}
	if shim.Wanted(os.Args) || shim.Wanted([]string{"claude-hub", "run"}) || !shim.Wanted([]string{"x", boot.Arg}) {
		t.Error("Wanted takes other commands for the shim")
	}
}

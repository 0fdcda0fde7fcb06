// Package hubtest is what tests of several packages share: the real parts they
// run against. Nothing outside of tests imports it.
package hubtest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Claude returns the path of the pinned claude CLI. The test fails, and says how
// to get it, if it is not installed.
func Claude(t testing.TB) string {
	t.Helper()
	path := filepath.Join(Root(t), ".cache", "agent", "node_modules", ".bin", "claude")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the pinned claude CLI is not installed (run `make setup`): %v", err)
	}
	return path
}

// Root returns the directory of the checkout.
func Root(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("no caller information")
	}
	return filepath.Join(filepath.Dir(file), "..", "..")
}

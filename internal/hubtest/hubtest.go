// Package hubtest is what tests of several packages share: the real parts they
// run against. Nothing outside of tests imports it.
package hubtest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
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

// Row prints one line of `make bench`: what was measured, the value, and what it
// is measured against in the same run. A ratio of zero is left out. The mark at
// its start is for scripts/bench, which takes it off.
func Row(name, value, baseline, baselineValue string, ratio float64) {
	last := ""
	if ratio != 0 {
		last = fmt.Sprintf("%.2f", ratio)
	}
	fmt.Printf("\nrow: "+RowFormat, name, value, baseline, baselineValue, last)
}

// RowFormat is the format of a row's five texts.
const RowFormat = "%-46s %12s   %-22s %12s %8s\n"

// Milliseconds and Microseconds give a duration as a row has it.
func Milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

// Microseconds is like Milliseconds.
func Microseconds(d time.Duration) string { return fmt.Sprintf("%.0f µs", float64(d)/1e3) }

// Median returns the middle of d, which it sorts.
func Median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// Script writes a program that a test starts. No process is forked while the file
// is open for writing: a child that inherited it would keep the kernel from
// starting the program ("text file busy").
func Script(t testing.TB, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

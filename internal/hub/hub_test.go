package hub_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

func TestParseProfileName(t *testing.T) {
	for _, ok := range []string{"default", "a", "9", "alice-2_b", strings.Repeat("x", 40)} {
		if got, err := hub.ParseProfileName(ok); err != nil || string(got) != ok {
			t.Errorf("ParseProfileName(%q) = %q, %v; want it accepted", ok, got, err)
		}
	}
	bad := []string{
		"", "../x", "a/b", ".", "..", "a.b", "A", "-rf", "_x", "%2f", "a\nb", "a\x00b", "a b",
		"\u0430lice", // Cyrillic a
		"ali\u200dce", strings.Repeat("x", 41), strings.Repeat("x", 300), "\xff",
	}
	for _, s := range bad {
		_, err := hub.ParseProfileName(s)
		if !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("ParseProfileName(%q) error = %v; want ErrInvalid", s, err)
		}
		if hub.HintOf(err) == "" {
			t.Errorf("ParseProfileName(%q) gives no hint", s)
		}
	}
}

func FuzzParseProfileName(f *testing.F) {
	f.Add("default")
	f.Add("../x")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := hub.ParseProfileName(s); err == nil && strings.ContainsAny(s, "./\\\x00 \n%") {
			t.Errorf("accepted %q", s)
		}
	})
}

func TestRunIDsSortByTime(t *testing.T) {
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	last := hub.RunID("")
	for range 2000 {
		now = now.Add(37 * time.Millisecond)
		id := hub.NewRunID(now)
		if id <= last {
			t.Fatalf("%q was made after %q but does not sort after it", id, last)
		}
		if _, err := hub.ParseRunID(string(id)); err != nil {
			t.Fatalf("ParseRunID of a fresh ID: %v", err)
		}
		last = id
	}
	for _, s := range []string{"", "r-", "x-222", "r-../a", "r-ABC", "r-" + strings.Repeat("a", 60)} {
		if _, err := hub.ParseRunID(s); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("ParseRunID(%q) error = %v; want ErrInvalid", s, err)
		}
	}
}

func TestHint(t *testing.T) {
	if hub.Hint(nil, "x") != nil {
		t.Error("a hint on nil is an error")
	}
	err := fmt.Errorf("opening: %w", hub.Hint(hub.ErrNotFound, "run init"))
	if !errors.Is(err, hub.ErrNotFound) || hub.HintOf(err) != "run init" || strings.Contains(err.Error(), "init") {
		t.Errorf("Hint: Is, HintOf or Error is wrong for %v", err)
	}
}

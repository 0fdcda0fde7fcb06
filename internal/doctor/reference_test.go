package doctor_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/doctor"
	"github.com/claude-hub/claude-hub/internal/hubtest"
)

var update = flag.Bool("update", false, "write docs/DOCTOR.md anew")

// The marks between which docs/DOCTOR.md has the catalog.
const (
	tableStart = "<!-- catalog: written by go test ./internal/doctor -run Reference -update -->\n"
	tableEnd   = "<!-- end of catalog -->\n"
)

// TestReference holds docs/DOCTOR.md to what the doctor finds.
func TestReference(t *testing.T) {
	path := filepath.Join(hubtest.Root(t), "docs", "DOCTOR.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableStart)
	had, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no catalog", path)
	}
	want := table()
	if *update {
		if err := os.WriteFile(path, []byte(before+tableStart+want+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, had); diff != "" {
		t.Errorf("docs/DOCTOR.md is out of date (go test ./internal/doctor -run Reference -update):\n%s", diff)
	}
}

func table() string {
	var b strings.Builder
	group := ""
	for _, e := range doctor.Catalog() {
		if e.Group() != group {
			group = e.Group()
			fmt.Fprintf(&b, "\n### %s\n\n| ID | worst | `--fix` | what it means |\n|---|---|---|---|\n", group)
		}
		fix := ""
		if e.Fixable {
			fix = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", e.ID, e.Level, fix, e.Meaning)
	}
	return b.String() + "\n"
}

// TestIDsAreUnique: an ID stands for one thing.
func TestIDsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range doctor.Catalog() {
		if seen[e.ID] || e.Group() == "" || len(e.Meaning) < 20 {
			t.Errorf("%+v", e)
		}
		seen[e.ID] = true
	}
}

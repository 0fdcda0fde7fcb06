package boot_test

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestImportsNextToNothing holds the package to what lets Go initialise it first.
// Package strings and all that need it, for instance, come after hundreds of
// others in a binary of this size.
func TestImportsNextToNothing(t *testing.T) {
	allowed := []string{"errors", "io", "strconv", "syscall", "unsafe"}
	files, _ := filepath.Glob("*.go")
	if len(files) < 3 {
		t.Fatalf("only %v were found", files)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s; allowed are %v", name, path, allowed)
			}
		}
	}
}

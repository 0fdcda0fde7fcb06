package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documented matches a command line of this program in a document: at the start
// of a line, after a prompt, or in a code span.
var documented = regexp.MustCompile("(?m)(?:^(?:\\$ )?|`)claude-hub ([^`\\n|#]*)")

// TestDocumentedCommandsExist keeps the documents to commands and flags that are
// there.
func TestDocumentedCommandsExist(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	found := 0
	for _, path := range append(files, "../../README.md", "../../SECURITY.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range documented.FindAllStringSubmatch(string(text), -1) {
			found++
			words := strings.Fields(strings.NewReplacer("[", " ", "]", " ", ",", " ").Replace(match[1]))
			c, rest, err := (&app{}).rootCommand().Find(words)
			if err != nil || !c.HasParent() {
				t.Errorf("%s: `claude-hub %s` is no command", path, match[1])
				continue
			}
			for _, word := range rest {
				if word == "--" {
					break
				}
				if name, ok := strings.CutPrefix(word, "--"); ok && c.Flags().Lookup(name) == nil && c.InheritedFlags().Lookup(name) == nil {
					t.Errorf("%s: `claude-hub %s` has no flag --%s", path, match[1], name)
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d command lines were found: does the pattern still match?", found)
	}
}

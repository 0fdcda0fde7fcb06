package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker/image"
)

// TestSeed runs the scripts behind docs/from-the-seed.md on each engine, with runs
// and sign-ins in containers of our images.
func TestSeed(t *testing.T) {
	variables := map[string]string{docker.KindDocker: "DOCKER_HOST", docker.KindPodman: "CONTAINER_HOST"}
	for kind := range variables {
		t.Run(kind, func(t *testing.T) {
			host := hubtest.Engine(t, kind)
			buildImages(t, kind, host)
			params := scriptParams(t, "testdata/seed")
			setup := params.Setup
			params.Setup = func(env *testscript.Env) error {
				for other, variable := range variables {
					env.Setenv(variable, "unix:///nowhere/"+other+".sock")
				}
				env.Setenv(variables[kind], host)
				env.Setenv("ENGINE", kind)
				env.Setenv("CLAUDE_HUB_SANDBOX", kind)
				return setup(env)
			}
			testscript.Run(t, params)
		})
	}
}

func buildImages(t *testing.T, kind, host string) {
	t.Helper()
	engine, err := docker.Dial(t.Context(), kind, host, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	for _, k := range image.Kinds() {
		if err := image.Build(t.Context(), engine, k, image.Options{CLI: hubtest.Claude(t), Version: agent.TestedVersion, HubVersion: version()}); err != nil {
			t.Fatal(err)
		}
	}
}

// seedRow is a line of a table in docs/from-the-seed.md: what the seed has, what does
// it now, and the file whose test does that.
var seedRow = regexp.MustCompile("(?m)^\\| (.+?) \\| (.+?) \\| \\[?`?([^`|\\]]+?)`?(?:\\]\\([^)]*\\))? \\|$")

// TestFromTheSeed holds the tables to the scripts: each command in a row is carried
// out by the row's script, and no line of the seed's shell examples is left out.
func TestFromTheSeed(t *testing.T) {
	text, err := os.ReadFile("../../docs/from-the-seed.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, commands := 0, 0
	var seed strings.Builder
	for _, row := range seedRow.FindAllStringSubmatch(string(text), -1) {
		if strings.HasPrefix(row[1], "-") || !strings.Contains(row[3], ".") {
			continue // a head
		}
		rows++
		seed.WriteString(strings.ReplaceAll(row[1], `\|`, "|") + "\n")
		done := carriedOut(t, row[3])
		for _, match := range documented.FindAllStringSubmatch(row[2], -1) {
			commands++
			if want := strings.Fields(match[1]); !slices.ContainsFunc(done, func(words []string) bool { return does(words, want) }) {
				t.Errorf("%s does not run `claude-hub %s`, which stands beside %s", row[3], match[1], row[1])
			}
		}
	}
	if rows < 30 || commands < 35 {
		t.Errorf("only %d rows with %d commands were found: does the pattern still match?", rows, commands)
	}
	lines, err := os.ReadFile("testdata/seed/shell-lines")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		if line = strings.TrimSpace(line); !strings.Contains(seed.String(), "`"+line+"`") {
			t.Errorf("the seed's line %q is in no row", line)
		}
	}
}

// carriedOut returns the command lines of claude-hub that a test file carries out,
// each as its words: a script's, or the literals of a Go test.
func carriedOut(t *testing.T, name string) [][]string {
	t.Helper()
	path := filepath.Join("testdata", name)
	if strings.HasSuffix(name, ".go") {
		path = name
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	for line := range strings.Lines(string(text)) {
		if call := goCall.FindStringSubmatch(line); call != nil {
			all = append(all, strings.Fields(strings.NewReplacer(`"`, "", ",", " ").Replace(call[1])))
		}
		words := strings.Fields(strings.NewReplacer("'", "", "!", "").Replace(line))
		switch {
		case len(words) > 2 && words[0] == "exec" && words[1] == "claude-hub":
			all = append(all, words[2:])
		case len(words) > 2 && words[0] == "exits":
			all = append(all, words[2:])
		case len(words) > 0 && words[0] == "signin":
			all = append(all, append([]string{"login", "--profile"}, words[1:]...))
		}
	}
	return all
}

// goCall matches how install_test.go runs the program.
var goCall = regexp.MustCompile(`o\.hub\((.*?)\)[;)]?`)

// does reports whether the words of a command line are those of a documented one,
// in which capitals stand for anything, and flags may be anywhere.
func does(words, documented []string) bool {
	for i, word := range documented {
		placeholder := word == strings.ToUpper(word) && word != strings.ToLower(word)
		switch {
		case placeholder && !strings.HasPrefix(word, "-"):
		case !slices.Contains(words, word), i == 0 && words[0] != word:
			return false
		}
	}
	return len(words) >= len(documented)
}

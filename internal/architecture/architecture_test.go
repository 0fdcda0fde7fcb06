// Package architecture holds the code against docs/ARCHITECTURE.md: its layers,
// its forbidden edges, its package comments, and the places where a secret is
// revealed. The files are parsed in this process, so that the test cache notices
// every change.
package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/claude-hub/claude-hub/"
	root   = "../.."
	doc    = "docs/ARCHITECTURE.md"
)

// source is one parsed file of the product, tests left out.
type source struct {
	path string // from the root, with slashes
	pkg  string // "vault" for internal/vault and all below it; "cmd" for cmd
	file *ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && path != root || d.Name() == "testdata" || d.Name() == "tools") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		parts := strings.Split(rel, "/")
		pkg := parts[0]
		if pkg == "internal" {
			pkg = parts[1]
		}
		all = append(all, source{rel, pkg, file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d files found: the test looks in the wrong place", len(all))
	}
	return all
}

func documentText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, doc))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var tableRow = regexp.MustCompile("(?m)^\\| ([0-9–]) \\| `([a-z]+)` \\|")

// layers reads the table; packages outside of the layers have layer "–".
func layers(t *testing.T) map[string]string {
	t.Helper()
	table := map[string]string{}
	for _, row := range tableRow.FindAllStringSubmatch(documentText(t), -1) {
		table[row[2]] = row[1]
	}
	if len(table) < 5 {
		t.Fatalf("the layer table of %s was not understood", doc)
	}
	return table
}

// ours returns the names of the internal packages that a file imports.
func ours(s source) []string {
	var names []string
	for _, spec := range s.file.Imports {
		if name, ok := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module+"internal/"); ok {
			names = append(names, strings.Split(name, "/")[0])
		}
	}
	return names
}

func TestImportsRunDownward(t *testing.T) {
	table := layers(t)
	for _, s := range sources(t) {
		for _, imported := range ours(s) {
			if imported == s.pkg {
				continue
			}
			if problem := forbidden(table, s.pkg, imported); problem != "" {
				t.Errorf("%s imports %s: %s", s.path, imported, problem)
			}
		}
	}
}

// forbidden says why pkg may not import imported, or nothing if it may.
func forbidden(table map[string]string, pkg, imported string) string {
	from, to := table[pkg], table[imported]
	keepsApart := slices.Contains([]string{"gateway", "run", "sandbox", "server"}, pkg)
	switch {
	case pkg == "cmd":
		if imported == "hubtest" {
			return "test support is not part of the product"
		}
		return ""
	case to == "":
		return "it is not in the table of " + doc
	case keepsApart && (imported == "vault" || imported == "refresh"):
		return "the security argument forbids it"
	case pkg == "hub" || pkg == "secret":
		return "layer 0 imports the standard library only"
	case from == "–" && to != "0":
		return "it may import layer 0 only"
	case from != "–" && (to == "–" || to >= from):
		return "layer " + from + " may not import layer " + to
	}
	return ""
}

func TestRuleRefusesViolations(t *testing.T) {
	table := map[string]string{"hub": "0", "secret": "0", "vault": "1", "agent": "1", "refresh": "2", "gateway": "2", "simulator": "–"}
	for _, edge := range [][2]string{
		{"vault", "agent"}, {"vault", "refresh"}, {"gateway", "vault"}, {"gateway", "refresh"},
		{"hub", "secret"}, {"simulator", "vault"}, {"refresh", "simulator"}, {"refresh", "unheard"}, {"cmd", "hubtest"},
	} {
		if forbidden(table, edge[0], edge[1]) == "" {
			t.Errorf("%s may import %s", edge[0], edge[1])
		}
	}
	if got := forbidden(table, "refresh", "vault"); got != "" {
		t.Errorf("refresh may not import vault: %s", got)
	}
}

func TestEveryPackageIsInTheTable(t *testing.T) {
	table := layers(t)
	there := map[string]bool{}
	for _, s := range sources(t) {
		if strings.HasPrefix(s.path, "internal/") {
			there[s.pkg] = true
		}
	}
	for name := range there {
		if table[name] == "" {
			t.Errorf("internal/%s is not in the table of %s", name, doc)
		}
	}
	for name := range table {
		if !there[name] {
			t.Errorf("%s names %s, which does not exist", doc, name)
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	said := map[string]bool{}
	for _, s := range sources(t) {
		dir := filepath.Dir(s.path)
		said[dir] = said[dir] || s.file.Doc != nil && len(s.file.Doc.Text()) > 60
	}
	for dir, ok := range said {
		if !ok {
			t.Errorf("%s has no package comment that says what it guarantees", dir)
		}
	}
}

// revealList is the part of the document that lists who may reveal a secret.
var revealList = regexp.MustCompile("(?s)## Where secrets are revealed\n(.*?)(\n## |$)")

func TestSecretsAreRevealedWhereTheDocumentSays(t *testing.T) {
	found := map[string]bool{}
	for _, s := range sources(t) {
		if s.pkg != "secret" && reveals(s.file) {
			found[s.path] = true
		}
	}
	listed := map[string]bool{}
	section := revealList.FindStringSubmatch(documentText(t))
	if section == nil {
		t.Fatalf("%s has no list of the places that reveal secrets", doc)
	}
	for _, m := range regexp.MustCompile("(?m)^- `([^`]+)`: .{10,}").FindAllStringSubmatch(section[1], -1) {
		listed[m[1]] = true
	}
	for _, path := range slices.Sorted(maps.Keys(found)) {
		if !listed[path] {
			t.Errorf("%s reveals a secret and is not in the list of %s", path, doc)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(listed)) {
		if !found[path] {
			t.Errorf("%s lists %s, which reveals nothing", doc, path)
		}
	}
}

func reveals(file *ast.File) bool {
	found := false
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Reveal" {
			found = true
		}
		return !found
	})
	return found
}

package archive

import (
	"fmt"
	"io/fs"
	"strings"
	"unicode"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// checkName is the one rule for names, in both directions: relative, clean,
// UTF-8, no control characters, bounded.
func checkName(name string, l Limits) error {
	switch {
	case len(name) > l.Path:
		return fmt.Errorf("%w: a name of %d bytes (%d are allowed): %.40q…", hub.ErrTooLarge, len(name), l.Path, name)
	case name == "." || !fs.ValidPath(name): // refuses "", "..", "/x", "x//y", "x/", bad UTF-8
		return fmt.Errorf("%w: the name %q is not a clean relative path", hub.ErrRefused, name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%w: the name %q has a control character", hub.ErrRefused, name)
	case strings.Contains(name, `\`):
		return fmt.Errorf("%w: the name %q has a backslash", hub.ErrRefused, name)
	}
	elements := strings.Split(name, "/")
	if len(elements) > l.Depth {
		return fmt.Errorf("%w: %.40q… is %d directories deep (%d are allowed)", hub.ErrTooLarge, name, len(elements), l.Depth)
	}
	for _, e := range elements {
		if len(e) > 255 {
			return fmt.Errorf("%w: the name %.40q… has an element of %d bytes (255 are allowed)", hub.ErrTooLarge, name, len(e))
		}
	}
	return nil
}

// nameSet finds names that are the same file on some file system: given twice, or
// differing only in case.
type nameSet map[string]string

// add returns the name that was there before and clashes with name, or "".
func (s nameSet) add(name string) (clash string) {
	folded := strings.Map(fold, name)
	if before, ok := s[folded]; ok {
		return before
	}
	s[folded] = name
	return ""
}

// fold maps all runes that differ only in case to one of them.
func fold(r rune) rune {
	least := r
	for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
		least = min(least, o)
	}
	return least
}

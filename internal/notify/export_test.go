package notify

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Rewrite reads a file of what was told, whatever is in it, and goes on with it.
func Rewrite(t *testing.T, data []byte) {
	b, err := parseBook(data)
	if err != nil {
		return
	}
	c := Condition{Profile: "p-1", Name: "default", Login: 1, Health: hub.HealthLoginRequired}
	b.forget([]Condition{c})
	for _, m := range b.of(c.Profile).news(c, "there", time.Now()) {
		b.post(m, []Target{{name: "1-generic"}}, time.Now())
	}
	for _, p := range b.due("1-generic", time.Now()) {
		p.tried(nil, time.Now())
	}
	b.dropSent()
	path := filepath.Join(t.TempDir(), "notify.json")
	if err := b.write(path); err != nil {
		t.Fatal(err)
	}
	if _, err := readBook(path); err != nil {
		t.Fatal(err)
	}
}

package login_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// Whatever the file that names the account looks like, the login is captured,
// and another account's name does not stay.
func TestAccountIsOnlyAName(t *testing.T) {
	const owner = `{"oauthAccount":{"emailAddress":"owner@example.com"}}`
	for name, c := range map[string]struct {
		spoil func(path string)
		want  string
	}{
		"beside": {func(path string) { write(t, path, owner, 0o600) }, "owner@example.com"},
		"inside": {func(path string) {
			write(t, filepath.Join(filepath.Dir(path), ".claude", ".claude.json"), owner, 0o600)
		}, "owner@example.com"},
		"missing":  {func(path string) { os.Remove(path) }, ""},
		"not JSON": {func(path string) { write(t, path, "{", 0o600) }, ""},
		"nobody's": {func(path string) { write(t, path, `{"oauthAccount":null}`, 0o600) }, ""},
		"too long": {func(path string) { write(t, path, strings.ReplaceAll(owner, "owner", strings.Repeat("o", 400)), 0o600) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, nil)
			before := []byte(`{"oauthAccount":{"emailAddress":"other@example.com"}}`)
			if _, err := d.vault.Commit(t.Context(), d.profile.ID, hub.KindAccount, 0, before); err != nil {
				t.Fatal(err)
			}
			dir := signedIn(t)
			c.spoil(filepath.Join(filepath.Dir(dir), ".claude.json"))
			if _, err := d.Import(t.Context(), d.profile, dir); err != nil {
				t.Fatal(err)
			}
			d.login()
			if got := d.account(); got != (agent.Account{Email: c.want}) {
				t.Errorf("account %+v; want %q", got, c.want)
			}
		})
	}
}

func TestAccountThatCannotBeKeptDoesNotLoseTheLogin(t *testing.T) {
	d, f := failingDesk(t)
	dir := signedIn(t)
	write(t, filepath.Join(filepath.Dir(dir), ".claude.json"), `{"oauthAccount":{"emailAddress":"owner@example.com"}}`, 0o600)
	f.word, f.times = string(hub.KindAccount), 1000
	if _, err := d.Import(t.Context(), d.profile, dir); err != nil || f.failed == 0 {
		t.Fatalf("error = %v after %d failures", err, f.failed)
	}
	d.login()
}

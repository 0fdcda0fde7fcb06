package login_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
)

// signedIn makes a config directory as the CLI leaves it.
func signedIn(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), ".claude")
	write(t, filepath.Join(dir, ".credentials.json"), fakeLogin, 0o600)
	write(t, filepath.Join(dir, "settings.local.json"), `{"theme":"dark"}`, 0o644)
	write(t, filepath.Join(dir, "projects", "p", "a.jsonl"), "{}\n", 0o600)
	write(t, filepath.Join(filepath.Dir(dir), ".claude.json"), `{"userID":"fake"}`, 0o600)
	return dir
}

// snapshot unpacks the committed snapshot and returns its directory.
func (d *desk) snapshot() string {
	d.t.Helper()
	r, err := d.vault.Latest(context.Background(), d.profile.ID, hub.KindSnapshot)
	if err != nil {
		d.t.Fatalf("there is no snapshot: %v", err)
	}
	dir := filepath.Join(d.t.TempDir(), "snapshot")
	if _, err := archive.Unpack(bytes.NewReader(r.Payload), dir, archive.Limits{}); err != nil {
		d.t.Fatalf("unpacking the snapshot: %v", err)
	}
	return dir
}

// snapshotFile returns a file of the committed snapshot.
func (d *desk) snapshotFile(name string) string {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.snapshot(), name))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// tree lists the files below dir, and fails on one that holds a token.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("sk-ant-o")) {
			t.Errorf("%s holds a token", path)
		}
		name, _ := filepath.Rel(dir, path)
		names = append(names, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestImportAdoptsEachLayout(t *testing.T) {
	plain := func(dir string) string { return dir }
	for name, place := range map[string]func(dir string) string{
		"config directory": plain,
		"its home":         filepath.Dir,
		"a link to it": func(dir string) string {
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			return link
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, nil)
			dir := signedIn(t)
			result, err := d.Import(t.Context(), d.profile, place(dir))
			if err != nil {
				t.Fatal(err)
			}
			if result.Generation != 1 || result.Files != 3 || result.Subscription != "max" || result.Kind != hub.KindLogin {
				t.Errorf("result = %+v", result)
			}
			record, _ := d.login()
			if string(record.Payload) != fakeLogin {
				t.Errorf("the login was changed: %s", record.Payload)
			}
			want := ".claude.json projects/p/a.jsonl settings.local.json"
			if got := strings.Join(tree(t, d.snapshot()), " "); got != want {
				t.Errorf("the snapshot holds %s; want %s", got, want)
			}
			warnings := strings.Join(result.Warnings, "\n")
			if !strings.Contains(warnings, "two writers") || !strings.Contains(warnings, filepath.Join(dir, ".credentials.json")) || !strings.Contains(warnings, "don't sign out there") {
				t.Errorf("the second writer is not explained: %s", warnings)
			}
		})
	}
}

func TestImportOfTheOldLayoutLeavesTheHubsOwnFilesOut(t *testing.T) {
	d := newDesk(t, nil)
	if login.DetectOld(d.dir) {
		t.Error("a new hub directory is taken for the older project's")
	}
	write(t, filepath.Join(d.dir, ".credentials.json"), fakeLogin, 0o600)
	write(t, filepath.Join(d.dir, "settings.json"), "{}", 0o600)
	write(t, filepath.Join(d.dir, "backups", ".credentials.json.old"), fakeLogin, 0o600)
	write(t, filepath.Join(d.dir, ".credentials.json.tmp.0badcafe"), fakeLogin, 0o600)
	write(t, filepath.Join(d.dir, ".claude.json.lock", "x"), "", 0o600)
	if !login.DetectOld(d.dir) {
		t.Fatal("the older project's layout is not recognised")
	}
	if _, err := d.Import(t.Context(), d.profile, d.dir); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(tree(t, d.snapshot()), " "); got != "settings.json" {
		t.Errorf("the snapshot holds %s; want settings.json alone", got)
	}
}

func TestImportRefuses(t *testing.T) {
	with := func(content string, mode os.FileMode) func(t *testing.T) string {
		return func(t *testing.T) string {
			dir := signedIn(t)
			write(t, filepath.Join(dir, ".credentials.json"), content, mode)
			return dir
		}
	}
	edit := func(old, new string) func(t *testing.T) string {
		return with(strings.ReplaceAll(fakeLogin, old, new), 0o600)
	}
	type refusal struct {
		name          string
		dir           func(t *testing.T) string
		kind          error
		message, hint string
	}
	cases := []refusal{
		{"empty", with("", 0o600), hub.ErrInvalid, "is empty", "sign in again"},
		{"truncated", with(fakeLogin[:90], 0o600), hub.ErrInvalid, "not JSON", "claude-hub login"},
		{"blanked", edit("sk-ant-oat01-fake-access", ""), hub.ErrInvalid, "blanked", "sign in again"},
		{"NUL bytes", with("\x00\x00\x00", 0o600), hub.ErrInvalid, "NUL", "claude-hub login"},
		{"10 MB", with(strings.Repeat("x", 10<<20), 0o600), hub.ErrTooLarge, "more than", "claude-hub login"},
		{"scopes null", edit(`["user:inference","user:profile"]`, "null"), hub.ErrInvalid, "scopes", "sign in again"},
		{"seconds", edit("4102444800000", "4102444800"), hub.ErrInvalid, "in seconds", "milliseconds"},
		{"world-readable", with(fakeLogin, 0o644), hub.ErrInvalid, "open to other users", "chmod 600 "},
		{"no refresh token", edit(`"refreshToken":"sk-ant-ort01-fake-refresh",`, ""), hub.ErrInvalid, "no refresh token", "claude-hub login"},
		{"past its cap", edit(`"refreshTokenExpiresAt":4102444800000`, `"refreshTokenExpiresAt":1700000000000`), hub.ErrLoginRequired, "ended on 14 November 2023", "claude-hub login"},
		{"no login", func(t *testing.T) string { return t.TempDir() }, hub.ErrNotFound, ".credentials.json", "claude-hub login"},
		{"no directory", func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, hub.ErrNotFound, "none", "~/.claude"},
		{"an archive", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "claude-auth.tar.gz")
			write(t, path, "fake", 0o600)
			return path
		}, hub.ErrInvalid, "not a directory", "unpack the archive"},
		{"the file itself", func(t *testing.T) string { return filepath.Join(signedIn(t), ".credentials.json") }, hub.ErrInvalid, "not a directory", "name the directory"},
	}
	if os.Geteuid() == 0 {
		cases = append(cases, refusal{"foreign-owned", foreign, hub.ErrInvalid, "belongs to user", "chown "})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t, nil)
			_, err := d.Import(t.Context(), d.profile, c.dir(t))
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.message) || !strings.Contains(hub.HintOf(err), c.hint) {
				t.Errorf("error = %v with hint %q; want %v, %q with hint %q", err, hub.HintOf(err), c.kind, c.message, c.hint)
			}
			if strings.Contains(err.Error(), "sk-ant") {
				t.Errorf("the error holds a token: %v", err)
			}
			d.wantNothing()
			if g := d.generation(hub.KindSnapshot); g != 0 {
				t.Errorf("a snapshot of generation %d is left", g)
			}
		})
	}
}

// foreign gives the credential file to somebody else, which only root can; for
// other users, package agent has the test.
func foreign(t *testing.T) string {
	dir := signedIn(t)
	if err := os.Chown(filepath.Join(dir, ".credentials.json"), 12345, -1); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImportStopsWhenCancelled(t *testing.T) {
	d := newDesk(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Import(ctx, d.profile, signedIn(t)); !errors.Is(err, hub.ErrCancelled) {
		t.Errorf("error = %v; want ErrCancelled", err)
	}
	d.wantNothing()
}

func TestImportSaysWhenTheEndIsNotKnown(t *testing.T) {
	d := newDesk(t, nil)
	dir := signedIn(t)
	write(t, filepath.Join(dir, ".credentials.json"), strings.Replace(fakeLogin, `"refreshTokenExpiresAt":4102444800000,`, "", 1), 0o600)
	result, err := d.Import(t.Context(), d.profile, dir)
	if err != nil || !strings.Contains(strings.Join(result.Warnings, "\n"), "30 days after") {
		t.Errorf("warnings = %q, error = %v; want one about the 30 days", result.Warnings, err)
	}
}

// A new login replaces the old one together with what the refresher knew of it.
func TestNewLoginForgetsTheOldOnesRefreshes(t *testing.T) {
	d := newDesk(t, nil)
	state := filepath.Join(d.dir, "refresh", string(d.profile.ID))
	write(t, filepath.Join(state, "status.json"), `{"health":"login-required"}`, 0o600)
	write(t, filepath.Join(state, "attempt-1", ".credentials.json"), fakeLogin, 0o600)
	write(t, filepath.Join(state, "kept-1", ".credentials.json"), fakeLogin, 0o600)
	write(t, filepath.Join(state, "other"), "", 0o600)
	if _, err := d.Import(t.Context(), d.profile, signedIn(t)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(tree(t, state), " "); got != "lock other" {
		t.Errorf("the refresher's folder holds %q; want its lock and what is not ours", got)
	}
}

// waitLog calls waiting when the login waits for the refresh's lock.
type waitLog struct {
	slog.Handler
	waiting func()
}

func (h waitLog) Enabled(context.Context, slog.Level) bool { return true }

func (h waitLog) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "waiting for a refresh") {
		h.waiting()
	}
	return nil
}

// A refresh that is under way ends before the new login is committed, and then
// the new login wins, though it was started from an older generation.
func TestNewLoginWaitsForALiveRefreshAndWins(t *testing.T) {
	waiting := make(chan struct{})
	d := newDesk(t, func(c *login.Config) {
		c.Log = slog.New(waitLog{slog.DiscardHandler, sync.OnceFunc(func() { close(waiting) })})
	})
	state := filepath.Join(d.dir, "refresh", string(d.profile.ID))
	write(t, filepath.Join(state, "lock"), "", 0o600)
	held, err := os.Open(filepath.Join(state, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := d.Import(context.Background(), d.profile, signedIn(t))
		done <- err
	}()
	select {
	case <-waiting:
	case err := <-done:
		t.Fatalf("the import did not wait: %v", err)
	}
	rotated := strings.ReplaceAll(fakeLogin, "fake-refresh", "fake-rotated")
	if _, err := d.vault.Commit(t.Context(), d.profile.ID, hub.KindLogin, 0, []byte(rotated)); err != nil {
		t.Fatalf("the refresh could not commit under its own lock: %v", err)
	}
	held.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r, _ := d.login(); r.Generation != 2 || string(r.Payload) != fakeLogin {
		t.Errorf("generation %d is the latest; want the new login as generation 2", r.Generation)
	}
}

func TestSeveralImportsAtOnceAllLand(t *testing.T) {
	d := newDesk(t, nil)
	const n = 8
	dir := signedIn(t)
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if _, err := d.Import(t.Context(), d.profile, dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if g := d.generation(hub.KindLogin); g != n {
		t.Errorf("generation %d after %d imports", g, n)
	}
}

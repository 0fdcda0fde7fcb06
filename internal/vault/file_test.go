package vault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
	"github.com/claude-hub/claude-hub/internal/vault/vaulttest"
)

func newFileBackend(t testing.TB) *vault.FileBackend {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "vault")
	must(t, vault.Init(dir))
	return openFile(t, dir)
}

func openFile(t testing.TB, dir string) *vault.FileBackend {
	t.Helper()
	b, err := vault.Open(dir)
	must(t, err)
	return b
}

func TestFileBackendKeepsTheContract(t *testing.T) {
	vaulttest.Run(t, func(t *testing.T) func() vault.Backend {
		dir := filepath.Join(t.TempDir(), "vault")
		must(t, vault.Init(dir))
		return func() vault.Backend { return openFile(t, dir) }
	})
}

func TestVaultFilesArePrivateWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o777} {
		dir := filepath.Join(privateDir(t), "new", "vault")
		withUmask(mask, func() {
			must(t, vault.Init(dir))
			must(t, openFile(t, dir).Create(t.Context(), "a/b/c", []byte("x")))
		})
		must(t, filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
			must(t, err)
			want := fs.FileMode(0o600)
			if d.IsDir() {
				want = 0o700 | fs.ModeDir
			}
			if m := mode(t, path); m != want {
				t.Errorf("umask %03o: %s has mode %v; want %v", mask, path, m, want)
			}
			return nil
		}))
	}
}

// TestStepsAreInTheOrderThatMakesThemDurable holds the order of the comment on
// disk.create; TestPowerLoss shows what it is good for.
func TestStepsAreInTheOrderThatMakesThemDurable(t *testing.T) {
	b := newFileBackend(t)
	must(t, b.Create(t.Context(), "a/b/1", nil))
	var steps []string
	b.SetHook(func(when, step, _ string) error {
		if when == "after" {
			steps = append(steps, step)
		}
		return nil
	})
	must(t, b.Create(t.Context(), "a/b/2", []byte("x")))
	if want := []string{"create", "write", "sync", "link", "unlink", "syncdir"}; !slices.Equal(steps, want) {
		t.Errorf("steps are %v; want %v", steps, want)
	}
	steps = nil
	if err := b.Create(t.Context(), "a/b/2", []byte("y")); !errors.Is(err, hub.ErrExists) || !slices.Equal(steps, []string{"syncdir"}) {
		t.Errorf("the loser: %v after %v; want ErrExists after syncdir", err, steps)
	}
	steps = nil
	must(t, b.Create(t.Context(), "c/d/1", nil))
	if want := []string{"mkdir", "syncdir", "mkdir", "syncdir", "create"}; !slices.Equal(steps[:5], want) {
		t.Errorf("with new directories the steps are %v; want %v first", steps, want)
	}
	steps = nil
	must(t, b.Delete(t.Context(), "a/b/1", "a/b/2", "c/d/1"))
	if want := []string{"delete", "delete", "delete", "syncdir", "syncdir"}; !slices.Equal(steps, want) {
		t.Errorf("steps of a removal are %v; want %v", steps, want)
	}
}

// failAtEachStep calls try with hooks that fail with ENOSPC at one step after the
// other, before and after it. What try returns must then succeed.
func failAtEachStep(t *testing.T, try func(t *testing.T, hook vault.Hook) (again func() error)) {
	t.Helper()
	failed := true
	for n := 0; failed; n++ {
		failed = false
		var at string
		count := 0
		again := try(t, func(when, step, _ string) error {
			if count++; count-1 == n {
				failed, at = true, fmt.Sprintf("%s %s (point %d)", when, step, n)
				return fmt.Errorf("at %s: %w", at, syscall.ENOSPC)
			}
			return nil
		})
		if err := again(); err != nil {
			t.Errorf("after a failure %s, again: %v", at, err)
		}
		if n > 200 {
			t.Fatal("this does not end")
		}
	}
}

func TestADiskThatFailsAtAnyStepLeavesNothingHalfDone(t *testing.T) {
	key := newKey(t)
	failAtEachStep(t, func(t *testing.T, hook vault.Hook) func() error {
		b := newFileBackend(t)
		v, err := vault.New(b, key, vault.Options{})
		must(t, err)
		commits(t, v, alice, hub.KindLogin, 0, 1)
		calls := 0
		b.SetHook(func(when, step, path string) error { // the step fails for good
			err := hook(when, step, path)
			if err != nil {
				calls++
			}
			return err
		})
		_, commitErr := v.Commit(t.Context(), alice, hub.KindLogin, 1, []byte("2"))
		b.SetHook(nil)
		if calls == 0 && commitErr != nil {
			t.Errorf("nothing failed, but: %v", commitErr)
		}
		gen, err := v.Generation(t.Context(), alice, hub.KindLogin)
		must(t, err)
		if gen != 1 && gen != 2 || commitErr == nil && gen != 2 {
			t.Errorf("generation %d after %v", gen, commitErr)
		}
		mustLatest(t, v, alice, hub.KindLogin, gen, fmt.Sprint(gen))
		return func() error {
			_, err := v.Commit(t.Context(), alice, hub.KindLogin, 1, []byte("2"))
			mustLatest(t, v, alice, hub.KindLogin, 2, "2")
			return err
		}
	})
}

func TestADiskThatStaysFullIsSaid(t *testing.T) {
	b := newFileBackend(t)
	v, err := vault.New(b, newKey(t), vault.Options{})
	must(t, err)
	commits(t, v, alice, hub.KindLogin, 0, 1)
	for _, step := range []string{"create", "write", "sync", "link"} {
		b.SetHook(func(when, s, _ string) error {
			if when == "before" && s == step {
				return syscall.ENOSPC
			}
			return nil
		})
		_, err := v.Commit(t.Context(), alice, hub.KindLogin, 1, []byte("2"))
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(hub.HintOf(err), "make room") {
			t.Errorf("full at %s: %v, hint %q", step, err, hub.HintOf(err))
		}
		b.SetHook(nil)
		mustLatest(t, v, alice, hub.KindLogin, 1, "1")
		if left := temps(t, b); len(left) != 0 {
			t.Errorf("full at %s left %v", step, left)
		}
	}
	commits(t, v, alice, hub.KindLogin, 1, 1) // without a restart
}

// temps returns the temporary files below a backend's directory.
func temps(t testing.TB, b *vault.FileBackend) []string {
	t.Helper()
	var found []string
	must(t, filepath.WalkDir(b.Dir(), func(path string, d fs.DirEntry, err error) error {
		if strings.HasPrefix(d.Name(), ".tmp-") {
			found = append(found, path)
		}
		return err
	}))
	return found
}

func TestInitThatFailsCanBeRunAgain(t *testing.T) {
	failAtEachStep(t, func(t *testing.T, hook vault.Hook) func() error {
		dir := filepath.Join(privateDir(t), "new", "vault")
		first := vault.InitWithHook(hook, dir)
		if _, err := vault.Open(dir); err != nil && (!errors.Is(err, hub.ErrNotFound) || first == nil) {
			t.Errorf("Init: %v, then Open: %v", first, err)
		}
		return func() error {
			if err := vault.Init(dir); err != nil && !errors.Is(err, hub.ErrExists) {
				return err
			}
			_, err := vault.Open(dir)
			return err
		}
	})
}

func TestInitTouchesNothingThatIsThere(t *testing.T) {
	dir := filepath.Join(privateDir(t), "vault")
	must(t, vault.Init(dir))
	must(t, openFile(t, dir).Create(t.Context(), "a/b", []byte("x")))
	if err := vault.Init(dir); !errors.Is(err, hub.ErrExists) || hub.HintOf(err) == "" {
		t.Errorf("Init of a vault: %v; want ErrExists with a hint", err)
	}
	if _, err := openFile(t, dir).Get(t.Context(), "a/b", 1); err != nil {
		t.Errorf("after that: %v", err)
	}
	home := privateDir(t)
	must(t, os.WriteFile(filepath.Join(home, "thesis.txt"), nil, 0o600))
	if err := vault.Init(home); !errors.Is(err, hub.ErrRefused) {
		t.Errorf("Init of a directory in use: %v; want ErrRefused", err)
	}
	orphaned := filepath.Join(privateDir(t), "vault") // its format file was lost
	must(t, vault.Init(orphaned))
	must(t, openFile(t, orphaned).Create(t.Context(), "a/b", []byte("x")))
	must(t, os.Remove(filepath.Join(orphaned, "format")))
	if err := vault.Init(orphaned); !errors.Is(err, hub.ErrRefused) {
		t.Errorf("Init over records: %v; want ErrRefused", err)
	}
	for name, path := range map[string]string{"another's": foreignDir(t), "open": openDir(t), "a link": linkDir(t)} {
		if err := vault.Init(path); !errors.Is(err, hub.ErrRefused) {
			t.Errorf("Init of a directory that is %s: %v; want ErrRefused", name, err)
		}
	}
}

func openDir(t *testing.T) string {
	dir := privateDir(t)
	must(t, os.Chmod(dir, 0o770))
	return dir
}

func linkDir(t *testing.T) string {
	link := filepath.Join(privateDir(t), "link")
	must(t, os.Symlink(privateDir(t), link))
	return link
}

func TestOpenCreatesNothingAndSaysWhatIsWrong(t *testing.T) {
	write := func(text string) string {
		dir := privateDir(t)
		must(t, os.WriteFile(filepath.Join(dir, "format"), []byte(text), 0o600))
		return dir
	}
	missing := filepath.Join(privateDir(t), "typo")
	link := filepath.Join(privateDir(t), "link")
	must(t, os.Symlink(newFileBackend(t).Dir(), link))
	formatLink := privateDir(t)
	must(t, os.Symlink(filepath.Join(newFileBackend(t).Dir(), "format"), filepath.Join(formatLink, "format")))
	for name, tc := range map[string]struct {
		dir  string
		kind error
		text string // in error or hint
	}{
		"no directory":     {missing, hub.ErrNotFound, "claude-hub init"},
		"no vault":         {privateDir(t), hub.ErrNotFound, "claude-hub init"},
		"a newer format":   {write("claude-hub-vault 2\n"), hub.ErrFormat, "newer claude-hub"},
		"a much newer one": {write("claude-hub-vault 17\nwith: more\n"), hub.ErrFormat, "newer claude-hub"},
		"another format":   {write("restic\n"), hub.ErrFormat, "restic"},
		"an empty format":  {write(""), hub.ErrFormat, "backup"},
		"an endless one":   {write(strings.Repeat("x", 1000)), hub.ErrTooLarge, "1000"},
		"a link":           {link, hub.ErrRefused, "name the directory itself"},
		"a linked format":  {formatLink, hub.ErrRefused, "link"},
		"open to others":   {openDir(t), hub.ErrRefused, "chmod 0700"},
		"another's":        {foreignDir(t), hub.ErrRefused, "chown"},
		"a file":           {filepath.Join(newFileBackend(t).Dir(), "format"), hub.ErrInvalid, "not a directory"},
	} {
		_, err := vault.Open(tc.dir)
		if !errors.Is(err, tc.kind) || !strings.Contains(fmt.Sprint(err, hub.HintOf(err)), tc.text) {
			t.Errorf("%s: %v, hint %q; want %v with %q", name, err, hub.HintOf(err), tc.kind, tc.text)
		}
	}
	if _, err := os.Lstat(missing); err == nil {
		t.Error("Open made the directory")
	}
}

func TestRecordsThatAreNoFilesAreRefused(t *testing.T) {
	b := newFileBackend(t)
	must(t, b.Create(t.Context(), "a/real", []byte("x")))
	must(t, os.Symlink("real", filepath.Join(b.Dir(), "a/link")))
	must(t, syscall.Mkfifo(filepath.Join(b.Dir(), "a/pipe"), 0o600))
	for _, key := range []string{"a/link", "a/pipe"} {
		if _, err := b.Get(t.Context(), key, 10); !errors.Is(err, hub.ErrRefused) {
			t.Errorf("Get(%s): %v; want ErrRefused", key, err)
		}
	}
	if keys, err := b.List(t.Context(), ""); err != nil || !slices.Equal(keys, []string{"a/real"}) {
		t.Errorf("List = %v, %v", keys, err)
	}
	for _, err := range []error{b.Create(t.Context(), "format", nil), b.Delete(t.Context(), "format")} {
		if !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("the format file as a record: %v; want ErrInvalid", err)
		}
	}
}

func TestOpenSweepsWhatDeadWritersLeft(t *testing.T) {
	b := newFileBackend(t)
	must(t, b.Create(t.Context(), "a/b", nil))
	dead := []string{filepath.Join(b.Dir(), "a", ".tmp-dead"), filepath.Join(b.Dir(), ".tmp-dead")}
	for _, path := range dead {
		must(t, os.WriteFile(path, []byte("half"), 0o600))
	}
	// A living writer is stopped while it writes; Open comes meanwhile.
	other := openFile(t, b.Dir())
	for _, path := range dead {
		must(t, os.WriteFile(path, []byte("half"), 0o600))
	}
	other.SetHook(func(when, step, path string) error {
		if when == "before" && step == "link" {
			openFile(t, b.Dir())
			if _, err := os.Lstat(dead[0]); err == nil {
				t.Error("Open left the file of a dead writer")
			}
			if len(temps(t, b)) != 1 {
				t.Error("Open took the file of a living writer")
			}
		}
		return nil
	})
	must(t, other.Create(t.Context(), "a/c", []byte("x")))
	if left := temps(t, b); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestASweepBetweenCreateAndLockIsSurvived(t *testing.T) {
	b := newFileBackend(t)
	swept := 0
	b.SetHook(func(when, step, path string) error {
		if when == "after" && step == "create" && swept < 3 {
			swept++
			return vault.Sweep(b.Dir())
		}
		return nil
	})
	must(t, b.Create(t.Context(), "a", []byte("x")))
	if data, err := b.Get(t.Context(), "a", 10); err != nil || string(data) != "x" || swept != 3 {
		t.Errorf("Get = %q, %v after %d sweeps", data, err, swept)
	}
}

package vault_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// privateDir is a t.TempDir that is 0700, whatever the umask.
func privateDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "private")
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Chmod(dir, 0o700))
	return dir
}

func mode(t testing.TB, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info.Mode()
}

// withUmask runs do with a umask that takes nothing away.
func withUmask(mask int, do func()) {
	defer syscall.Umask(syscall.Umask(mask))
	do()
}

func TestKeyComesBack(t *testing.T) {
	path := filepath.Join(privateDir(t), "new", "hub", "key")
	var created vault.Key
	withUmask(0, func() {
		var err error
		created, err = vault.CreateKey(path)
		must(t, err)
	})
	if m := mode(t, path); m != 0o600 {
		t.Errorf("the key has mode %v", m)
	}
	for dir := filepath.Dir(path); filepath.Base(dir) != "private"; dir = filepath.Dir(dir) {
		if m := mode(t, dir); m.Perm() != 0o700 {
			t.Errorf("%s has mode %v", dir, m)
		}
	}
	read, err := vault.ReadKey(path)
	must(t, err)
	if read.Recipient() != created.Recipient() || !strings.HasPrefix(read.Recipient(), "age1") {
		t.Errorf("read %s, created %s", read.Recipient(), created.Recipient())
	}
}

func TestCreateKeyNeverReplaces(t *testing.T) {
	dir := privateDir(t)
	path := filepath.Join(dir, "key")
	must(t, os.WriteFile(path, []byte("mine"), 0o644))
	if _, err := vault.CreateKey(path); !errors.Is(err, hub.ErrExists) || hub.HintOf(err) == "" {
		t.Errorf("over a file: %v; want ErrExists with a hint", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "mine" {
		t.Errorf("the file has %q", text)
	}
	must(t, os.Remove(path))
	must(t, os.Symlink(filepath.Join(dir, "elsewhere"), path))
	if _, err := vault.CreateKey(path); !errors.Is(err, hub.ErrExists) {
		t.Errorf("over a dangling link: %v; want ErrExists", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("the key went through the link")
	}
}

func TestCreateKeyRefusesADirectoryThatIsNotPrivate(t *testing.T) {
	real := privateDir(t)
	link := filepath.Join(privateDir(t), "link")
	must(t, os.Symlink(real, link))
	open := privateDir(t)
	must(t, os.Chmod(open, 0o755))
	for name, tc := range map[string]struct{ dir, hint string }{
		"open to others": {open, "chmod 0700"},
		"a link":         {link, real},
		"another's":      {foreignDir(t), "chown"},
	} {
		path := filepath.Join(tc.dir, "key")
		_, err := vault.CreateKey(path)
		if !errors.Is(err, hub.ErrRefused) || !strings.Contains(hub.HintOf(err), tc.hint) {
			t.Errorf("%s: %v, hint %q; want ErrRefused with %q", name, err, hub.HintOf(err), tc.hint)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s: there is a key", name)
		}
	}
}

// foreignDir returns a directory of another user: root makes one, others take
// the root directory.
func foreignDir(t *testing.T) string {
	if os.Geteuid() != 0 {
		return "/"
	}
	dir := privateDir(t)
	must(t, os.Chown(dir, 65534, 65534))
	return dir
}

func TestReadKeyRefusesWhatIsNotPrivateOrNoKey(t *testing.T) {
	good := filepath.Join(privateDir(t), "key")
	_, err := vault.CreateKey(good)
	must(t, err)
	text, err := os.ReadFile(good)
	must(t, err)
	write := func(mode fs.FileMode, text string) string {
		path := filepath.Join(privateDir(t), "key")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		must(t, os.Chmod(path, mode))
		return path
	}
	link := filepath.Join(privateDir(t), "key")
	must(t, os.Symlink(good, link))
	pipe := filepath.Join(privateDir(t), "key")
	must(t, syscall.Mkfifo(pipe, 0o600))
	secret := strings.TrimSpace(string(text[strings.LastIndex(strings.TrimSpace(string(text)), "\n")+1:]))

	for name, tc := range map[string]struct {
		path string
		kind error
		hint string
	}{
		"missing":              {filepath.Join(privateDir(t), "key"), hub.ErrNotFound, "claude-hub init"},
		"group-readable":       {write(0o640, string(text)), hub.ErrRefused, "chmod 0600"},
		"world-readable":       {write(0o604, string(text)), hub.ErrRefused, "chmod 0600"},
		"group-writable":       {write(0o620, string(text)), hub.ErrRefused, "chmod 0600"},
		"a link":               {link, hub.ErrRefused, "the file itself"},
		"another's":            {foreignFile(t), hub.ErrRefused, "run as"},
		"a pipe":               {pipe, hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"a directory":          {privateDir(t), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"empty":                {write(0o600, ""), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"comments only":        {write(0o600, "# nothing\n"), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"cut off":              {write(0o600, string(text[:len(text)-9])), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"two keys":             {write(0o600, string(text)+string(text)), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"the public key":       {write(0o600, "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqs"), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"10 MB":                {write(0o600, strings.Repeat("#\n", 5<<20)), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"NUL":                  {write(0o600, secret+"\x00"), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"something after it":   {write(0o600, secret+" extra"), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
		"a passphrase instead": {write(0o600, "hunter2"), hub.ErrInvalid, "AGE-SECRET-KEY-1"},
	} {
		_, err := vault.ReadKey(tc.path)
		if !errors.Is(err, tc.kind) || !strings.Contains(hub.HintOf(err), tc.hint) {
			t.Errorf("%s: %v, hint %q; want %v with %q", name, err, hub.HintOf(err), tc.kind, tc.hint)
		}
		if shown := fmt.Sprint(err, hub.HintOf(err)); strings.Contains(shown, secret[20:40]) || strings.Contains(shown, "hunter2") {
			t.Errorf("%s: the error shows what the file has: %v", name, err)
		}
	}
}

// foreignFile returns a file of another user, as foreignDir does.
func foreignFile(t *testing.T) string {
	if os.Geteuid() != 0 {
		return "/etc/passwd"
	}
	path := filepath.Join(privateDir(t), "key")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Chown(path, 65534, 65534))
	return path
}

func TestAKeyIsThereWholeOrNotAtAll(t *testing.T) {
	failAtEachStep(t, func(t *testing.T, hook vault.Hook) (again func() error) {
		path := filepath.Join(privateDir(t), "hub", "key")
		_, first := vault.CreateKeyWithHook(hook, path)
		if _, err := vault.ReadKey(path); err != nil && !errors.Is(err, hub.ErrNotFound) {
			t.Errorf("CreateKey failed with %v, and left: %v", first, err)
		}
		return func() error {
			if _, err := vault.CreateKey(path); err != nil && !errors.Is(err, hub.ErrExists) {
				return err
			}
			_, err := vault.ReadKey(path)
			return err
		}
	})
}

func FuzzParseKey(f *testing.F) {
	path := filepath.Join(privateDir(f), "key")
	_, err := vault.CreateKey(path)
	must(f, err)
	text, err := os.ReadFile(path)
	must(f, err)
	f.Add(text)
	f.Add([]byte("# x\n\nAGE-SECRET-KEY-1FAKE\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if key, err := vault.ParseKey(text); err == nil && !strings.HasPrefix(key.Recipient(), "age1") {
			t.Errorf("accepted as %q", key.Recipient())
		}
	})
}

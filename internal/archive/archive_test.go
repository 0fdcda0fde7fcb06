package archive_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// file is what a test expects of one name in a tree.
type file struct {
	Mode fs.FileMode
	Text string
}

// captured is a tree like the one that a sign-in leaves.
var captured = map[string]file{
	"settings.local.json":              {0o600, `{"theme":"dark"}`},
	"projects":                         {fs.ModeDir | 0o755, ""},
	"projects/-home-fake":              {fs.ModeDir | 0o700, ""},
	"projects/-home-fake/0b6f.jsonl":   {0o640, strings.Repeat(`{"type":"user"}`+"\n", 5000)},
	"todos":                            {fs.ModeDir | 0o755, ""},
	"todos/empty":                      {fs.ModeDir | 0o500, ""},
	"statsig":                          {fs.ModeDir | 0o755, ""},
	"statsig/statsig.stable_id.123456": {0o644, ""},
	"package.json":                     {0o666, "{}"},
	"bin":                              {fs.ModeDir | 0o777, ""},
	"bin/hook.sh":                      {0o755, "#!/bin/sh\n"},
	"ünïcode name.txt":                 {0o400, "x"},
}

// plant makes the tree below dir, with exactly these modes.
func plant(t testing.TB, dir string, tree map[string]file) {
	t.Helper()
	for name, f := range tree {
		path := filepath.Join(dir, name)
		if f.Mode.IsDir() {
			must(t, os.MkdirAll(path, 0o700))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(f.Text), 0o600))
	}
	for name, f := range tree {
		path := filepath.Join(dir, name)
		must(t, os.Chmod(path, f.Mode.Perm()))
		t.Cleanup(func() { os.Chmod(path, 0o700) }) // so that it can be removed
	}
}

// survey reads a whole tree.
func survey(t testing.TB, dir string) map[string]file {
	t.Helper()
	tree := map[string]file{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := file{Mode: info.Mode()}
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			f.Text = string(text)
		}
		name, err := filepath.Rel(dir, path)
		tree[name] = f
		return err
	}))
	return tree
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pack(t testing.TB, dir string, opts archive.Options) ([]byte, archive.Manifest) {
	t.Helper()
	var out bytes.Buffer
	m, err := archive.Pack(&out, dir, opts)
	if err != nil {
		t.Fatalf("Pack: %v", err)
	}
	return out.Bytes(), m
}

func unpack(t testing.TB, packed []byte) (string, archive.Manifest) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	m, err := archive.Unpack(bytes.NewReader(packed), dir, archive.Limits{})
	if err != nil {
		t.Fatalf("Unpack: %v", err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "todos/empty"), 0o700) })
	return dir, m
}

func TestTreeComesBackWithItsModes(t *testing.T) {
	// With a umask that hides nothing and one that takes all away.
	for _, umask := range []int{0, 0o777} {
		t.Run(fmt.Sprintf("umask %03o", umask), func(t *testing.T) {
			src := t.TempDir()
			plant(t, src, captured)
			packed, packedManifest := pack(t, src, archive.Options{})
			to := filepath.Join(t.TempDir(), "out")

			before := syscall.Umask(umask)
			manifest, err := archive.Unpack(bytes.NewReader(packed), to, archive.Limits{})
			syscall.Umask(before)
			must(t, err)
			want := map[string]file{}
			for name, f := range captured {
				if f.Mode.IsDir() {
					f.Mode |= 0o700 // the owner must be able to remove it
				}
				want[name] = f
			}
			if diff := cmp.Diff(want, survey(t, to)); diff != "" {
				t.Errorf("tree differs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(packedManifest, manifest); diff != "" {
				t.Errorf("the manifests of Pack and Unpack differ (-pack +unpack):\n%s", diff)
			}
			if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("the directory has mode %v, %v; want 0700", info.Mode(), err)
			}
		})
	}
}

func TestManifestListsNamesModesSizesAndSums(t *testing.T) {
	src := t.TempDir()
	plant(t, src, captured)
	_, m := pack(t, src, archive.Options{})
	got := map[string]file{}
	for _, e := range m.Entries {
		got[e.Name] = file{Mode: e.Mode}
		text := captured[e.Name].Text
		sum := sha256.Sum256([]byte(text))
		if !e.Mode.IsDir() && (e.Size != int64(len(text)) || e.SHA256 != hex.EncodeToString(sum[:])) {
			t.Errorf("%s has size %d and sum %s in the manifest", e.Name, e.Size, e.SHA256)
		}
	}
	want := map[string]file{}
	for name, f := range captured {
		want[name] = file{Mode: f.Mode}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("manifest differs from tree (-want +got):\n%s", diff)
	}
	if e, ok := m.Find("package.json"); !ok || e.Size != 2 {
		t.Errorf("Find = %v, %v", e, ok)
	}
	if _, ok := m.Find("nothing"); ok || m.Size() == 0 {
		t.Error("Find finds what is not there, or Size is 0")
	}
}

func TestFileTimesComeBack(t *testing.T) {
	src := t.TempDir()
	plant(t, src, map[string]file{"a.jsonl": {0o600, "x"}})
	when := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	must(t, os.Chtimes(filepath.Join(src, "a.jsonl"), when, when))
	packed, _ := pack(t, src, archive.Options{})
	to, _ := unpack(t, packed)
	if info, err := os.Stat(filepath.Join(to, "a.jsonl")); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("time is %v, %v; want %v", info.ModTime(), err, when)
	}
}

func TestUnchangedTreeGivesTheSameBytes(t *testing.T) {
	src := t.TempDir()
	plant(t, src, captured)
	one, _ := pack(t, src, archive.Options{})
	two, _ := pack(t, src, archive.Options{})
	if !bytes.Equal(one, two) {
		t.Error("packed twice, the bytes differ")
	}
}

func TestExcludedNamesStayOut(t *testing.T) {
	src := t.TempDir()
	plant(t, src, map[string]file{
		".credentials.json":     {0o600, "sk-ant-ort01-fake-canary"},
		"sub":                   {fs.ModeDir | 0o700, ""},
		"sub/.credentials.json": {0o600, "kept: only the one at the top is named"},
		"debug":                 {fs.ModeDir | 0o700, ""},
		"debug/log":             {0o600, "x"},
		"settings.json":         {0o600, "{}"},
	})
	packed, m := pack(t, src, archive.Options{Exclude: []string{".credentials.json", "debug/"}})
	to, _ := unpack(t, packed)
	got := survey(t, to)
	if len(got) != 3 || got["sub/.credentials.json"].Text == "" || got["settings.json"].Text == "" {
		t.Errorf("unpacked %v", got)
	}
	if len(m.Skipped) != 0 {
		t.Errorf("what the caller excluded is noted as skipped: %v", m.Skipped)
	}
}

func TestExtraFilesAreTakenAndWin(t *testing.T) {
	src, home := t.TempDir(), t.TempDir()
	plant(t, src, map[string]file{".claude.json": {0o644, "old"}})
	plant(t, home, map[string]file{".claude.json": {0o600, "new"}})
	packed, m := pack(t, src, archive.Options{Extra: map[string]string{
		".claude.json": filepath.Join(home, ".claude.json"), "absent.json": filepath.Join(home, "absent"),
	}})
	to, _ := unpack(t, packed)
	want := map[string]file{".claude.json": {0o600, "new"}}
	if diff := cmp.Diff(want, survey(t, to)); diff != "" {
		t.Errorf("tree differs (-want +got):\n%s", diff)
	}
	if len(m.Skipped) != 2 {
		t.Errorf("skipped %v; want the old .claude.json and the absent file", m.Skipped)
	}
	for _, name := range []string{"../x", "a/b", "", "/x"} {
		_, err := archive.Pack(io.Discard, src, archive.Options{Extra: map[string]string{name: home}})
		if !errors.Is(err, hub.ErrRefused) && !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("an extra file named %q: %v", name, err)
		}
	}
}

func TestPackSkipsWhatIsNoFile(t *testing.T) {
	src, outside := t.TempDir(), t.TempDir()
	plant(t, outside, map[string]file{"secret": {0o600, "canary"}})
	plant(t, src, map[string]file{"debug": {fs.ModeDir | 0o700, ""}, "debug/1.txt": {0o600, "log"}, "Same": {0o600, "1"}, "same": {0o600, "2"}})
	must(t, os.Symlink("1.txt", filepath.Join(src, "debug/latest")))
	must(t, os.Symlink(outside, filepath.Join(src, "out")))
	must(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(src, "leak")))
	must(t, syscall.Mkfifo(filepath.Join(src, "pipe"), 0o600))
	must(t, os.WriteFile(filepath.Join(src, "bad\xffname"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(src, "new\nline"), nil, 0o600))
	t.Chdir(src) // socket paths are short
	l, err := net.Listen("unix", "sock")
	must(t, err)
	defer l.Close()

	packed, m := pack(t, src, archive.Options{})
	got := map[string]string{}
	for _, s := range m.Skipped {
		got[s.Name] = s.Reason
	}
	for name, part := range map[string]string{
		"debug/latest": "symbolic link", "out": "symbolic link", "leak": "symbolic link", "pipe": "named pipe", "sock": "socket",
		"same": "case", `"bad\xffname"`: "clean relative path", `"new\nline"`: "control",
	} {
		if !strings.Contains(got[name], part) {
			t.Errorf("skipped %s because %q; want %q", name, got[name], part)
		}
	}
	to, _ := unpack(t, packed)
	if tree := survey(t, to); len(tree) != 3 || tree["debug/1.txt"].Text != "log" || tree["Same"].Text != "1" {
		t.Errorf("unpacked %v", tree)
	}
}

func TestPackOfATreeInUse(t *testing.T) {
	const name = "a.jsonl"
	// Each change happens once, or each time that the file is looked at.
	for _, tc := range []struct {
		name    string
		stage   string
		always  bool
		do      func(t *testing.T, path string)
		want    string // the text in the archive
		changed bool
		skipped string
	}{
		{name: "grows", stage: "opened", do: appendTo, want: "0123456789+"},
		{name: "grows again and again", stage: "opened", always: true, do: appendTo, want: "0123456789++", changed: true},
		{name: "shrinks", stage: "opened", do: truncate, want: "01"},
		{name: "vanishes before it is opened", stage: "found", do: remove, skipped: "vanished"},
		{name: "vanishes after it is opened", stage: "opened", do: remove, want: "0123456789"},
		{name: "becomes a link", stage: "found", do: becomeLink, skipped: "symbolic link"},
		{name: "becomes a link to outside", stage: "found", do: becomeOutsideLink, skipped: "symbolic link"},
		{name: "becomes a pipe", stage: "found", do: becomePipe, skipped: "named pipe"},
		{name: "is replaced", stage: "found", do: replace, want: "other"},
		{name: "is replaced again and again", stage: "found", always: true, do: replace, skipped: "again and again"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src := t.TempDir()
			plant(t, src, map[string]file{name: {0o600, "0123456789"}, "target": {0o600, "another"}})
			done := false
			opts := archive.WithHook(archive.Options{}, func(stage, file string) {
				if file == name && stage == tc.stage && (tc.always || !done) {
					done = true
					tc.do(t, filepath.Join(src, name))
				}
			})
			packed, m := pack(t, src, opts)
			to, _ := unpack(t, packed)
			got, there := survey(t, to)[name]
			entry, _ := m.Find(name)
			if tc.skipped == "" && (got.Text != tc.want || entry.Changed != tc.changed) {
				t.Errorf("archive has %q, changed %v; want %q, %v", got.Text, entry.Changed, tc.want, tc.changed)
			}
			if tc.skipped != "" && (there || len(m.Skipped) != 1 || !strings.Contains(m.Skipped[0].Reason, tc.skipped)) {
				t.Errorf("packed: %v, skipped: %v; want it skipped as %q", there, m.Skipped, tc.skipped)
			}
		})
	}
}

func appendTo(t *testing.T, path string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("+")
	must(t, err)
}

func truncate(t *testing.T, path string) { must(t, os.Truncate(path, 2)) }
func remove(t *testing.T, path string)   { must(t, os.Remove(path)) }

func becomeLink(t *testing.T, path string) {
	remove(t, path)
	must(t, os.Symlink("target", path))
}

func becomeOutsideLink(t *testing.T, path string) {
	remove(t, path)
	must(t, os.Symlink("/etc/passwd", path))
}

func becomePipe(t *testing.T, path string) {
	remove(t, path)
	must(t, syscall.Mkfifo(path, 0o600))
}

func replace(t *testing.T, path string) {
	must(t, os.WriteFile(path+".new", []byte("other"), 0o600))
	must(t, os.Rename(path+".new", path))
}

func TestPackKeepsToItsLimits(t *testing.T) {
	src := t.TempDir()
	plant(t, src, map[string]file{"a": {0o600, strings.Repeat("x", 1000)}, "b": {0o600, strings.Repeat("y", 1000)}, "c": {0o600, ""}})
	for name, l := range map[string]archive.Limits{
		"bytes": {Bytes: 1999}, "file": {File: 999}, "entries": {Entries: 2},
	} {
		if _, err := archive.Pack(io.Discard, src, archive.Options{Limits: l}); !errors.Is(err, hub.ErrTooLarge) || hub.HintOf(err) == "" {
			t.Errorf("%s: error = %v, hint %q; want ErrTooLarge with a hint", name, err, hub.HintOf(err))
		}
	}
	if _, err := archive.Pack(io.Discard, src, archive.Options{Limits: archive.Limits{Bytes: 2000, File: 1000, Entries: 3}}); err != nil {
		t.Errorf("at the limits: %v", err)
	}
}

func TestPackRefusesARatioThatUnpackWould(t *testing.T) {
	src := t.TempDir()
	zeros := filepath.Join(src, "zeros")
	plant(t, src, map[string]file{"zeros": {0o600, ""}})
	must(t, os.Truncate(zeros, 65<<20))
	if _, err := archive.Pack(io.Discard, src, archive.Options{}); !errors.Is(err, hub.ErrTooLarge) {
		t.Errorf("65 MiB of zeros: %v; want ErrTooLarge", err)
	}
	must(t, os.Truncate(zeros, 63<<20))
	packed, _ := pack(t, src, archive.Options{})
	unpack(t, packed)
}

func TestPackTakesADirectoryOnly(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, map[string]file{"file": {0o600, ""}, "real": {fs.ModeDir | 0o700, ""}})
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	for name, kind := range map[string]error{"absent": hub.ErrNotFound, "file": hub.ErrInvalid, "link": hub.ErrInvalid} {
		if _, err := archive.Pack(io.Discard, filepath.Join(dir, name), archive.Options{}); !errors.Is(err, kind) {
			t.Errorf("%s: %v; want %v", name, err, kind)
		}
	}
}

func TestPackReportsAFailingWriter(t *testing.T) {
	src := t.TempDir()
	plant(t, src, captured)
	if _, err := archive.Pack(brokenWriter{}, src, archive.Options{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error = %v; want ENOSPC", err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

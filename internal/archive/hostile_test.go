package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// member is one entry of a hostile archive.
type member struct {
	tar.Header
	text string
}

func reg(name string) member { return regText(name, "evil") }
func regText(name, text string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: "files/" + name, Mode: 0o600, Size: int64(len(text))}, text}
}
func dir(name string) member {
	return member{Header: tar.Header{Typeflag: tar.TypeDir, Name: "files/" + name + "/", Mode: 0o700}}
}
func link(flag byte, name, to string) member {
	return member{Header: tar.Header{Typeflag: flag, Name: "files/" + name, Linkname: to, Mode: 0o777}}
}
func manifest(m any) member {
	text, _ := json.Marshal(m)
	return member{tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Mode: 0o600, Size: int64(len(text))}, string(text)}
}

// craft packs members as they are, with no check.
func craft(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	must(t, err)
	w := tar.NewWriter(z)
	for _, m := range members {
		must(t, w.WriteHeader(&m.Header))
		_, err := io.WriteString(w, m.text)
		must(t, err)
	}
	must(t, w.Close())
	must(t, z.Close())
	return out.Bytes()
}

// world is a directory with things that must not change, and a place to unpack
// to in their midst.
type world struct {
	dir, to string
	before  map[string]file
}

func newWorld(t testing.TB) *world {
	w := &world{dir: t.TempDir()}
	w.to = filepath.Join(w.dir, "out")
	plant(t, w.dir, map[string]file{"secret": {0o600, "canary"}, "other": {fs.ModeDir | 0o755, ""}, "other/file": {0o644, "kept"}})
	w.before = survey(t, w.dir)
	return w
}

// mustRefuse unpacks r and holds that it is refused with kind, and that nothing
// has changed, inside or outside.
func (w *world) mustRefuse(t testing.TB, r io.Reader, l archive.Limits, kind error) error {
	t.Helper()
	_, err := archive.Unpack(r, w.to, l)
	if !errors.Is(err, kind) {
		t.Errorf("Unpack: %v; want %v", err, kind)
	}
	if diff := cmp.Diff(w.before, survey(t, w.dir)); diff != "" {
		t.Errorf("the tree changed (-before +after):\n%s", diff)
	}
	return err
}

func TestHostileEntriesAreRefused(t *testing.T) {
	long := strings.Repeat("a/", 2047) + "ab" // 4,096 characters
	deep := strings.TrimSuffix(strings.Repeat("d/", 65), "/")
	for name, tc := range map[string]struct {
		members []member
		kind    error
	}{
		"dot dot":                      {[]member{reg("../secret")}, hub.ErrRefused},
		"dot dot inside":               {[]member{dir("a"), reg("a/../../secret")}, hub.ErrRefused},
		"absolute":                     {[]member{{tar.Header{Typeflag: tar.TypeReg, Name: "/tmp/x", Mode: 0o600}, ""}}, hub.ErrRefused},
		"absolute below the prefix":    {[]member{reg("/tmp/x")}, hub.ErrRefused},
		"no prefix":                    {[]member{{tar.Header{Typeflag: tar.TypeReg, Name: "secret", Mode: 0o600}, ""}}, hub.ErrRefused},
		"directory dot dot":            {[]member{dir("..")}, hub.ErrRefused},
		"directory dot":                {[]member{dir(".")}, hub.ErrRefused},
		"empty name":                   {[]member{dir("")}, hub.ErrRefused},
		"double slash":                 {[]member{dir("a"), reg("a//b")}, hub.ErrRefused},
		"backslash":                    {[]member{reg(`..\secret`)}, hub.ErrRefused},
		"newline":                      {[]member{reg("a\nb")}, hub.ErrRefused},
		"not UTF-8":                    {[]member{reg("a\xffb")}, hub.ErrRefused},
		"4,096-character path":         {[]member{reg(long)}, hub.ErrTooLarge},
		"256-character element":        {[]member{reg(strings.Repeat("x", 256))}, hub.ErrTooLarge},
		"too deep":                     {[]member{reg(deep)}, hub.ErrTooLarge},
		"symbolic link":                {[]member{link(tar.TypeSymlink, "l", "secret")}, hub.ErrRefused},
		"write through symbolic link":  {[]member{link(tar.TypeSymlink, "l", "../other"), reg("l/file")}, hub.ErrRefused},
		"hard link to a secret":        {[]member{link(tar.TypeLink, "l", "../secret")}, hub.ErrRefused},
		"hard link within":             {[]member{reg("a"), link(tar.TypeLink, "l", "files/a")}, hub.ErrRefused},
		"character device":             {[]member{link(tar.TypeChar, "null", "")}, hub.ErrRefused},
		"block device":                 {[]member{link(tar.TypeBlock, "sda", "")}, hub.ErrRefused},
		"named pipe":                   {[]member{link(tar.TypeFifo, "pipe", "")}, hub.ErrRefused},
		"the same file twice":          {[]member{reg("a"), reg("a")}, hub.ErrRefused},
		"the same directory twice":     {[]member{dir("a"), dir("a")}, hub.ErrRefused},
		"a file where a directory is":  {[]member{dir("a"), reg("a")}, hub.ErrRefused},
		"a file used as a directory":   {[]member{reg("a"), reg("a/b")}, hub.ErrRefused},
		"names differing in case":      {[]member{reg("settings.json"), reg("Settings.JSON")}, hub.ErrRefused},
		"names differing in case, ſ s": {[]member{reg("settings"), reg("ſettings")}, hub.ErrRefused},
		"directories in two cases":     {[]member{dir("A"), dir("a")}, hub.ErrRefused},
		"a file before its directory":  {[]member{reg("a/b"), dir("a")}, hub.ErrRefused},
		"no manifest":                  {[]member{reg("a")}, hub.ErrFormat},
		"nothing":                      {nil, hub.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			packed := craft(t, tc.members...)
			newWorld(t).mustRefuse(t, bytes.NewReader(packed), archive.Limits{}, tc.kind)
			if _, err := archive.Check(bytes.NewReader(packed), archive.Limits{}); !errors.Is(err, tc.kind) {
				t.Errorf("Check: %v; want %v", err, tc.kind)
			}
		})
	}
}

func TestNULInANameIsRefused(t *testing.T) {
	// The tar writer refuses NUL, so it is patched in; a tar reader cuts a name
	// there, or the checksum no longer fits.
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	must(t, w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "files/a", Format: tar.FormatPAX, PAXRecords: map[string]string{"CLAUDE.x": strings.Repeat("y", 9)},
	}))
	must(t, w.Close())
	patched := bytes.Replace(raw.Bytes(), []byte("20 CLAUDE.x=yyyyyyyyy"), []byte("20 path=files/a\x00bc\nx"), 1)
	if bytes.Equal(patched, raw.Bytes()) {
		patched = bytes.Replace(raw.Bytes(), []byte("22 CLAUDE.x=yyyyyyyyy"), []byte("22 path=files/a\x00bcdef"), 1)
	}
	if bytes.Equal(patched, raw.Bytes()) {
		t.Fatal("the record to patch is not there")
	}
	newWorld(t).mustRefuse(t, bytes.NewReader(compress(t, patched)), archive.Limits{}, hub.ErrFormat)
}

func compress(t testing.TB, raw []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	must(t, err)
	defer z.Close()
	return z.EncodeAll(raw, nil)
}

func TestManifestMustMatch(t *testing.T) {
	good := archive.Entry{Name: "a", Mode: 0o600, Size: 4, SHA256: "b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73"}
	with := func(change func(*archive.Entry)) member {
		e := good
		change(&e)
		return manifest(archive.Manifest{Version: 1, Entries: []archive.Entry{e}})
	}
	if _, err := archive.Unpack(bytes.NewReader(craft(t, reg("a"), with(func(*archive.Entry) {}))), newWorld(t).to, archive.Limits{}); err != nil {
		t.Fatalf("the manifest that matches: %v", err)
	}
	for name, m := range map[string]member{
		"name":        with(func(e *archive.Entry) { e.Name = "b" }),
		"mode":        with(func(e *archive.Entry) { e.Mode = 0o644 }),
		"setuid":      with(func(e *archive.Entry) { e.Mode |= fs.ModeSetuid }),
		"size":        with(func(e *archive.Entry) { e.Size = 5 }),
		"sum":         with(func(e *archive.Entry) { e.SHA256 = strings.Repeat("0", 64) }),
		"none":        manifest(archive.Manifest{Version: 1}),
		"one more":    manifest(archive.Manifest{Version: 1, Entries: []archive.Entry{good, good}}),
		"no version":  manifest(archive.Manifest{Entries: []archive.Entry{good}}),
		"newer":       manifest(archive.Manifest{Version: 2, Entries: []archive.Entry{good}}),
		"unknown key": manifest(map[string]any{"version": 1, "extra": true}),
		"no JSON":     {tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Size: 4}, "nope"},
	} {
		t.Run(name, func(t *testing.T) {
			newWorld(t).mustRefuse(t, bytes.NewReader(craft(t, reg("a"), m)), archive.Limits{}, hub.ErrFormat)
		})
	}
}

func TestNewerManifestIsNamed(t *testing.T) {
	packed := craft(t, manifest(archive.Manifest{Version: 2}))
	_, err := archive.Unpack(bytes.NewReader(packed), newWorld(t).to, archive.Limits{})
	if err == nil || !strings.Contains(err.Error(), "newer claude-hub") || hub.HintOf(err) == "" {
		t.Errorf("error = %v, hint %q", err, hub.HintOf(err))
	}
}

func TestEveryTruncationAndFlipIsRefusedOrHarmless(t *testing.T) {
	src := t.TempDir()
	plant(t, src, map[string]file{"d": {fs.ModeDir | 0o755, ""}, "d/a": {0o640, "first"}, "b": {0o600, "second"}})
	packed, _ := pack(t, src, archive.Options{})
	want := survey(t, src)
	for n := range packed {
		newWorld(t).mustRefuse(t, bytes.NewReader(packed[:n]), archive.Limits{}, hub.ErrFormat)
	}
	for i := range packed {
		flipped := bytes.Clone(packed)
		flipped[i] ^= 0x10
		w := newWorld(t)
		if _, err := archive.Unpack(bytes.NewReader(flipped), w.to, archive.Limits{}); err == nil {
			if diff := cmp.Diff(want, survey(t, w.to)); diff != "" {
				t.Fatalf("byte %d flipped, accepted, and the tree differs:\n%s", i, diff)
			}
			must(t, os.RemoveAll(w.to))
		}
		if diff := cmp.Diff(w.before, survey(t, w.dir)); diff != "" {
			t.Fatalf("byte %d flipped: the tree changed:\n%s", i, diff)
		}
	}
	newWorld(t).mustRefuse(t, io.MultiReader(bytes.NewReader(packed), bytes.NewReader(compress(t, []byte("more")))), archive.Limits{}, hub.ErrFormat)
	newWorld(t).mustRefuse(t, io.MultiReader(bytes.NewReader(packed), strings.NewReader("garbage")), archive.Limits{}, hub.ErrFormat)
}

func TestUnpackWorksWithShortReads(t *testing.T) {
	src := t.TempDir()
	plant(t, src, map[string]file{"a": {0o600, "first"}})
	packed, _ := pack(t, src, archive.Options{})
	if _, err := archive.Unpack(iotest.OneByteReader(bytes.NewReader(packed)), newWorld(t).to, archive.Limits{}); err != nil {
		t.Error(err)
	}
}

// stream compresses what write writes, while it is read: a bomb takes no room.
func stream(t testing.TB, write func(*tar.Writer) error) io.Reader {
	t.Helper()
	r, w := io.Pipe()
	done := make(chan struct{})
	t.Cleanup(func() {
		r.Close()
		<-done
	})
	go func() {
		defer close(done)
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
		if err == nil {
			err = write(tar.NewWriter(z))
			z.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

func TestBombsAreStoppedAtTheCaps(t *testing.T) {
	zeros := make([]byte, 1<<20)
	for _, tc := range []struct {
		name   string
		limits archive.Limits
		write  func(*tar.Writer) error
		kind   error
		text   string
	}{
		{"100 GB of zeros, 200 MiB a file", archive.Limits{}, func(w *tar.Writer) error {
			return bomb(w, 512, 200<<20, zeros)
		}, hub.ErrTooLarge, "200 times its size"}, // after 64 MiB; the byte cap comes at 1 GiB
		{"a file beyond the file cap", archive.Limits{}, func(w *tar.Writer) error {
			return bomb(w, 1, 300<<20, zeros)
		}, hub.ErrTooLarge, "314572800 bytes"},
		{"files beyond the byte cap", archive.Limits{Bytes: 10 << 20}, func(w *tar.Writer) error {
			return bomb(w, 100, 1<<20, zeros)
		}, hub.ErrTooLarge, "more than 10485760 bytes"},
		{"a million empty files", archive.Limits{Entries: 500}, func(w *tar.Writer) error {
			return bomb(w, 1_000_000, 0, nil)
		}, hub.ErrTooLarge, "more than 500 files"},
		{"a 10 MB header", archive.Limits{}, func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{
				Typeflag: tar.TypeReg, Name: "files/a", PAXRecords: map[string]string{"CLAUDE.big": strings.Repeat("x", 10<<20)},
			})
		}, hub.ErrFormat, ""},
		{"megabytes of headers on each file", archive.Limits{Bytes: 1 << 20, Entries: 1000}, func(w *tar.Writer) error {
			for i := 0; ; i++ {
				h := tar.Header{
					Typeflag: tar.TypeReg, Name: fmt.Sprint("files/", i), PAXRecords: map[string]string{"CLAUDE.big": strings.Repeat("x", 900<<10)},
				}
				if err := w.WriteHeader(&h); err != nil {
					return err
				}
			}
		}, hub.ErrTooLarge, ""},
		{"a manifest that does not end", archive.Limits{Bytes: 1 << 30, Ratio: 1 << 30}, func(w *tar.Writer) error {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Size: 1 << 30}); err != nil {
				return err
			}
			return fill(w, 1<<30, zeros)
		}, hub.ErrTooLarge, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			var before, after runtime.MemStats
			bomb := stream(t, tc.write)
			runtime.ReadMemStats(&before)
			if err := w.mustRefuse(t, bomb, tc.limits, tc.kind); err != nil && !strings.Contains(err.Error(), tc.text) {
				t.Errorf("stopped by %q; want %q", err, tc.text)
			}
			runtime.ReadMemStats(&after)
			// All that was ever allocated, so more than what was held at once; the
			// bomb's own writer counts too.
			if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > 512 {
				t.Errorf("allocated %d MiB", got)
			}
		})
	}
}

func bomb(w *tar.Writer, files int, size int64, zeros []byte) error {
	for i := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint("files/", i), Mode: 0o600, Size: size}); err != nil {
			return err
		}
		if err := fill(w, size, zeros); err != nil {
			return err
		}
	}
	return w.Flush()
}

func fill(w io.Writer, size int64, zeros []byte) error {
	for size > 0 {
		n, err := w.Write(zeros[:min(size, int64(len(zeros)))])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}

// TestSparseFilesAreRefused uses headers as GNU tar writes them, because Go's
// writer writes none.
func TestSparseFilesAreRefused(t *testing.T) {
	pax := tar.Header{Typeflag: tar.TypeReg, Name: "files/GNUSparseFile.0/a", Mode: 0o600, Size: 512, Format: tar.FormatPAX}
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	// The writer refuses GNU.sparse keys, so one of the same length is patched.
	pax.PAXRecords = map[string]string{"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.name": "files/a", "XXX.sparse.realsize": "99999999"}
	must(t, w.WriteHeader(&pax))
	_, err := w.Write(append([]byte("1\n99999999\n0\n"), make([]byte, 512-13)...))
	must(t, err)
	must(t, w.Close())
	patched := bytes.ReplaceAll(raw.Bytes(), []byte("XXX.sparse"), []byte("GNU.sparse"))
	newWorld(t).mustRefuse(t, bytes.NewReader(compress(t, patched)), archive.Limits{}, hub.ErrRefused)

	old := make([]byte, 512)
	copy(old, "files/a")
	copy(old[100:], "0000600\x000000000\x000000000\x0000000000000\x0000000000000\x00")
	old[156] = 'S'
	copy(old[257:], "ustar  \x00")
	copy(old[386:], "00000000000\x0000000000000\x00") // one piece, empty
	copy(old[483:], "77777777777\x00")                // real size: 8 GiB
	copy(old[148:], "        ")
	var sum int
	for _, b := range old {
		sum += int(b)
	}
	copy(old[148:], fmt.Sprintf("%06o\x00 ", sum))
	newWorld(t).mustRefuse(t, bytes.NewReader(compress(t, append(old, make([]byte, 1024)...))), archive.Limits{}, hub.ErrRefused)
}

func TestHugeWindowIsRefused(t *testing.T) {
	// A frame header that asks for a window of 2 GiB, and a block of nothing.
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00}
	err := newWorld(t).mustRefuse(t, bytes.NewReader(frame), archive.Limits{}, hub.ErrFormat)
	if err != nil && !strings.Contains(err.Error(), "window") {
		t.Errorf("refused for another reason: %v", err)
	}
}

func TestUnpackTakesAnEmptyDirectoryOfOurOwn(t *testing.T) {
	src := t.TempDir()
	plant(t, src, map[string]file{"a": {0o600, "text"}})
	packed, _ := pack(t, src, archive.Options{})

	t.Run("open to others, it is closed first", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "to")
		must(t, os.Mkdir(to, 0o700))
		must(t, os.Chmod(to, 0o777))
		// At the first byte that is asked for, it is closed already.
		r := readerFunc(func(p []byte) (int, error) {
			if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("before the first byte the mode is %v", info.Mode())
			}
			return 0, io.ErrUnexpectedEOF
		})
		if _, err := archive.Unpack(r, to, archive.Limits{}); err == nil {
			t.Error("an empty stream was accepted")
		}
		if _, err := archive.Unpack(bytes.NewReader(packed), to, archive.Limits{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("not empty", func(t *testing.T) {
		w := newWorld(t)
		w.to = filepath.Join(w.dir, "other")
		w.mustRefuse(t, bytes.NewReader(packed), archive.Limits{}, hub.ErrExists)
	})
	t.Run("a link", func(t *testing.T) {
		w := newWorld(t)
		must(t, os.Symlink("other", w.to))
		w.before = survey(t, w.dir)
		w.mustRefuse(t, bytes.NewReader(packed), archive.Limits{}, hub.ErrInvalid)
	})
	t.Run("a file", func(t *testing.T) {
		w := newWorld(t)
		w.to = filepath.Join(w.dir, "secret")
		w.mustRefuse(t, bytes.NewReader(packed), archive.Limits{}, hub.ErrInvalid)
	})
	t.Run("somebody else's", func(t *testing.T) {
		to := foreignDir(t)
		if _, err := archive.Unpack(bytes.NewReader(packed), to, archive.Limits{}); !errors.Is(err, hub.ErrRefused) {
			t.Errorf("unpacking to %s: %v; want ErrRefused", to, err)
		}
	})
	t.Run("no parent", func(t *testing.T) {
		if _, err := archive.Unpack(bytes.NewReader(packed), filepath.Join(t.TempDir(), "a/b"), archive.Limits{}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error = %v; want ErrNotExist", err)
		}
	})
	t.Run("kept when it was there before", func(t *testing.T) {
		to := t.TempDir()
		if _, err := archive.Unpack(bytes.NewReader(craft(t, reg("a"), dir(".."))), to, archive.Limits{}); !errors.Is(err, hub.ErrRefused) {
			t.Errorf("error = %v", err)
		}
		if left := survey(t, to); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// foreignDir returns a directory of another user: root makes one, others take
// the root directory.
func foreignDir(t *testing.T) string {
	if os.Geteuid() != 0 {
		return "/"
	}
	to := filepath.Join(t.TempDir(), "foreign")
	must(t, os.Mkdir(to, 0o755))
	must(t, syscall.Chown(to, 65534, 65534))
	return to
}

func zstdReader(t testing.TB, packed []byte) io.Reader {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
	must(t, err)
	t.Cleanup(z.Close)
	return z
}

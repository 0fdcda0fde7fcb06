package archive_test

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/archive"
)

// FuzzUnpack feeds a tar stream, compressed here so that the fuzzer gets past
// zstd. Nothing outside may change, what is accepted packs to the same manifest
// again, and Check says the same of it.
func FuzzUnpack(f *testing.F) {
	src := f.TempDir()
	plant(f, src, map[string]file{"d": {fs.ModeDir | 0o755, ""}, "d/a": {0o640, "first"}})
	packed, _ := pack(f, src, archive.Options{})
	f.Add(decompress(f, packed))
	for _, members := range [][]member{
		{reg("../secret")}, {link(tar.TypeSymlink, "l", "../other"), reg("l/file")}, {link(tar.TypeLink, "l", "../secret")},
		{reg("a"), reg("A")}, {dir("a"), reg("a/../../secret")}, {reg(strings.Repeat("x", 300))},
	} {
		f.Add(decompress(f, craft(f, members...)))
	}
	limits := archive.Limits{Bytes: 1 << 20, File: 1 << 20, Entries: 50}
	f.Fuzz(func(t *testing.T, raw []byte) {
		w := newWorld(t)
		packed := compress(t, raw)
		m, err := archive.Unpack(bytes.NewReader(packed), w.to, limits)
		if checked, cerr := archive.Check(bytes.NewReader(packed), limits); (cerr == nil) != (err == nil) || !cmp.Equal(checked, m) {
			t.Fatalf("Check = %v, %v; Unpack = %v, %v", checked, cerr, m, err)
		}
		if err != nil {
			if diff := cmp.Diff(w.before, survey(t, w.dir)); diff != "" {
				t.Fatalf("refused (%v), and the tree changed:\n%s", err, diff)
			}
			return
		}
		again, err := archive.Pack(io.Discard, w.to, archive.Options{Limits: limits})
		if err != nil || len(again.Entries) != len(m.Entries) || len(again.Skipped) != 0 {
			t.Fatalf("accepted, but packs to %v, %v; want %v", again, err, m)
		}
		must(t, os.RemoveAll(w.to))
		if diff := cmp.Diff(w.before, survey(t, w.dir)); diff != "" {
			t.Fatalf("the tree outside changed:\n%s", diff)
		}
	})
}

// FuzzUnpackBytes feeds the compressed stream itself.
func FuzzUnpackBytes(f *testing.F) {
	src := f.TempDir()
	plant(f, src, map[string]file{"a": {0o640, "first"}})
	packed, _ := pack(f, src, archive.Options{})
	f.Add(packed)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00})
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, packed []byte) {
		to := filepath.Join(t.TempDir(), "out")
		_, err := archive.Unpack(bytes.NewReader(packed), to, archive.Limits{Bytes: 1 << 20, Entries: 50})
		if _, statErr := os.Lstat(to); err != nil && statErr == nil {
			t.Fatalf("refused (%v), and something is left", err)
		}
	})
}

func decompress(t testing.TB, packed []byte) []byte {
	t.Helper()
	z := zstdReader(t, packed)
	raw, err := io.ReadAll(z)
	must(t, err)
	return raw
}

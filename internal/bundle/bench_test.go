package bundle_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/bundle"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// BenchmarkCarry captures, restores and moves a config directory of 200 files and
// 20 MB, beside what people do without a hub: cp -a and tar, made durable in the
// same way. All are run in turn in each iteration, and medians are reported.
func BenchmarkCarry(b *testing.B) {
	for _, random := range []bool{false, true} {
		b.Run(map[bool]string{false: "text", true: "random"}[random], func(b *testing.B) { benchmarkCarry(b, random) })
	}
}

func benchmarkCarry(b *testing.B, random bool) {
	sim := platform(b)
	s, other := newStation(b), newStation(b)
	src, work := b.TempDir(), b.TempDir()
	plant(b, src, random)
	took := map[string][]time.Duration{}
	timed := func(name string, do func() error) {
		start := time.Now()
		s.must(do())
		took[name] = append(took[name], time.Since(start))
	}
	p := s.signedIn("work", sim.SignIn(simulator.SignIn{}))
	var packed bytes.Buffer
	n := 0
	for b.Loop() {
		n++
		at := func(name string) string { return filepath.Join(work, fmt.Sprintf("%s-%d", name, n)) }
		timed("capture", func() error {
			packed.Reset()
			if _, err := archive.Pack(&packed, src, archive.Options{}); err != nil {
				return err
			}
			s.commit(p, hub.KindSnapshot, packed.Bytes())
			return nil
		})
		timed("tar -c + fsync", func() error { return durable(at("tar"), "tar", "-C", src, "-cf", at("tar"), ".") })
		timed("restore", func() error {
			_, err := s.Restore(b.Context(), bundle.Restore{Profile: p, Dir: at("restored"), UID: -1, GID: -1})
			return err
		})
		timed("cp -a + fsync", func() error { return durable(at("copy"), "cp", "-a", src, at("copy")) })
		s.must(os.Mkdir(at("untar"), 0o700))
		timed("tar -x + fsync", func() error { return durable(at("untar"), "tar", "-C", at("untar"), "-xf", at("tar")) })
		q := other.profile(fmt.Sprintf("work-%d", n))
		var sealed []byte
		timed("export", func() error {
			_, err := s.Export(b.Context(), bundle.Order{Profile: p, To: []string{other.key.Recipient()}, Move: true, Write: func(data []byte) error {
				sealed = bytes.Clone(data)
				return bundle.WriteFile(at("bundle"), data)
			}})
			return err
		})
		timed("import", func() error { _, err := other.take(sealed, q, s.sender()); return err })
		s.commit(p, hub.KindLogin, sim.SignIn(simulator.SignIn{}).Credentials) // ends the move
		for _, name := range []string{"tar", "restored", "copy", "untar", "bundle"} {
			s.must(os.RemoveAll(at(name)))
		}
	}
	what := map[bool]string{false: "200 files, 20 MB of text", true: "200 files, 20 MB of random"}[random]
	for _, row := range [][2]string{
		{"capture", "tar -c + fsync"}, {"restore", "cp -a + fsync"}, {"restore", "tar -x + fsync"},
		{"export", "cp -a + fsync"}, {"import", "cp -a + fsync"},
	} {
		value, base := hubtest.Median(took[row[0]]), hubtest.Median(took[row[1]])
		hubtest.Row(row[0]+" of "+what, hubtest.Milliseconds(value), row[1], hubtest.Milliseconds(base), float64(value)/float64(base))
	}
}

// durable runs a command and makes what it has written durable, file by file.
func durable(path string, command ...string) error {
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", command[0], err, out)
	}
	err := filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
	if err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// plant makes 200 files of 100 KiB: lines that repeat with identifiers that don't,
// as in the CLI's transcripts, or bytes that do not compress.
func plant(b *testing.B, dir string, random bool) {
	b.Helper()
	source := rand.NewChaCha8([32]byte{1})
	r := rand.New(source)
	words := bytes.Fields([]byte("the function returns an error when file is not there so we check first and then write it again with tests"))
	for i := range 200 {
		data := make([]byte, 100<<10)
		if random {
			source.Read(data)
		} else {
			var line bytes.Buffer
			for line.Len() < len(data) {
				fmt.Fprintf(&line, `{"type":"assistant","uuid":"%016x","cwd":"/home/fake/project","text":"`, r.Uint64())
				for range 20 + r.IntN(200) {
					line.Write(slices.Concat(words[min(r.IntN(len(words)), r.IntN(len(words)))], []byte(" ")))
				}
				fmt.Fprintf(&line, `","tokens":%d}`+"\n", r.IntN(5000))
			}
			copy(data, line.Bytes())
		}
		path := filepath.Join(dir, "projects", fmt.Sprintf("-home-fake-%02d", i/10), fmt.Sprintf("%03d.jsonl", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
}

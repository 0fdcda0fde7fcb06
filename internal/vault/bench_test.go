package vault_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// The benchmarks run what is measured and its baselines in turn, in each
// iteration, and report medians: what else the machine does meets both.

type stopwatch map[string][]time.Duration

func (s stopwatch) time(name string, do func()) {
	start := time.Now()
	do()
	s[name] = append(s[name], time.Since(start))
}

// report prints a row for each of the others, as the baselines of name.
func (s stopwatch) report(title, name string) {
	value := hubtest.Median(s[name])
	for _, other := range slices.Sorted(maps.Keys(s)) {
		if other == name {
			continue
		}
		base := hubtest.Median(s[other])
		hubtest.Row(title, hubtest.Milliseconds(value), other, hubtest.Milliseconds(base), float64(value)/float64(base))
	}
}

// credential has about the size of a real .credentials.json.
var credential = bytes.Repeat([]byte("sk-ant-ort01-fake"), 40)

func newBenchVault(b *testing.B) (*vault.Vault, string) {
	dir := hubDir(b)
	v, err := openBoth(dir)
	must(b, err)
	return v, dir
}

// BenchmarkCommit compares a commit with a bare durable replacement of a file.
func BenchmarkCommit(b *testing.B) {
	v, dir := newBenchVault(b)
	s := stopwatch{}
	var gen hub.Generation
	for b.Loop() {
		s.time("bare durable write", func() { must(b, durableWrite(filepath.Join(dir, "bare"), credential)) })
		s.time("commit", func() {
			_, err := v.Commit(context.Background(), alice, hub.KindLogin, gen, credential)
			must(b, err)
		})
		gen++
	}
	s.report("commit of a credential", "commit")
}

// durableWrite is write, fsync, rename, fsync of the directory, and no more.
func durableWrite(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// BenchmarkCapture compares a capture of 200 files, 20 MB (pack, seal, commit)
// with AES-256-GCM of the same bytes: in memory; with the files read; and with
// the result also written durably, which a capture does.
func BenchmarkCapture(b *testing.B) {
	for _, kind := range []string{"transcripts", "random"} {
		b.Run(kind, func(b *testing.B) { benchmarkCapture(b, kind == "random") })
	}
}

func benchmarkCapture(b *testing.B, random bool) {
	v, dir := newBenchVault(b)
	src := filepath.Join(dir, "claude")
	names := plantCapture(b, src, random)
	plain := readAll(b, names, make([]byte, len(names)*fileSize))
	block, err := aes.NewCipher(make([]byte, 32))
	must(b, err)
	gcm, err := cipher.NewGCM(block)
	must(b, err)
	nonce := make([]byte, gcm.NonceSize())
	sealed := make([]byte, 0, len(plain)+gcm.Overhead())

	s := stopwatch{}
	var gen hub.Generation
	var packed bytes.Buffer
	for b.Loop() {
		s.time("aes-gcm", func() { gcm.Seal(sealed[:0], nonce, plain, nil) })
		s.time("read+aes-gcm", func() { gcm.Seal(sealed[:0], nonce, readAll(b, names, plain), nil) })
		s.time("read+aes-gcm+write", func() {
			must(b, durableWrite(filepath.Join(dir, "bare"), gcm.Seal(sealed[:0], nonce, readAll(b, names, plain), nil)))
		})
		s.time("capture", func() {
			packed.Reset()
			_, err := archive.Pack(&packed, src, archive.Options{Exclude: []string{".credentials.json"}})
			must(b, err)
			_, err = v.Commit(context.Background(), alice, hub.KindSnapshot, gen, packed.Bytes())
			must(b, err)
		})
		gen++
	}
	what := "text"
	if random {
		what = "random"
	}
	s.report("capture of 200 files, 20 MB of "+what, "capture")
}

// readAll reads the files into buf, which has room for them.
func readAll(b *testing.B, names []string, buf []byte) []byte {
	buf = buf[:0]
	for _, name := range names {
		f, err := os.Open(name)
		must(b, err)
		n, err := io.ReadFull(f, buf[len(buf):len(buf)+fileSize])
		must(b, err)
		buf = buf[:len(buf)+n]
		must(b, f.Close())
	}
	return buf
}

const fileSize = 100 << 10

// plantCapture makes 200 files of 100 KiB: JSON lines as the CLI's transcripts
// have them, or bytes that do not compress.
func plantCapture(b *testing.B, dir string, random bool) []string {
	names := make([]string, 200)
	r := rand.NewChaCha8([32]byte{1})
	for i := range names {
		names[i] = filepath.Join(dir, "projects", fmt.Sprintf("-home-fake-%02d", i/10), fmt.Sprintf("%03d.jsonl", i))
		data := make([]byte, fileSize)
		if random {
			r.Read(data)
		} else {
			transcript(data, rand.New(r))
		}
		must(b, os.MkdirAll(filepath.Dir(names[i]), 0o700))
		must(b, os.WriteFile(names[i], data, 0o600))
	}
	return names
}

// transcript fills data with lines that have a transcript's shape: long fields
// that repeat, identifiers that do not, and words.
func transcript(data []byte, r *rand.Rand) {
	words := bytes.Fields([]byte(`the function returns an error when file is not there so we check first and then
		write it again with tests for each case of config value in package main func if err nil return fmt Errorf string
		int byte range for switch case default struct type interface const var import go build run claude hub vault key`))
	var out bytes.Buffer
	session := r.Uint64()
	for out.Len() < len(data) {
		fmt.Fprintf(&out, `{"parentUuid":"%016x","isSidechain":false,"userType":"external","cwd":"/home/fake/project","sessionId":"%016x",`+
			`"version":"2.1.330","gitBranch":"main","type":"assistant","message":{"id":"msg_%012x","type":"message","role":"assistant",`+
			`"model":"claude-fake","content":[{"type":"text","text":"`, r.Uint64(), session, r.Uint64N(1<<48))
		for range 20 + r.IntN(200) {
			out.Write(words[min(r.IntN(len(words)), r.IntN(len(words)))])
			out.WriteByte(' ')
		}
		fmt.Fprintf(&out, `"}],"usage":{"input_tokens":%d,"output_tokens":%d}},"uuid":"%016x"}`+"\n", r.IntN(50), r.IntN(5000), r.Uint64())
	}
	copy(data, out.Bytes())
}

// The rest is what a caller pays for asking.

func benchmarkAsk(b *testing.B, ask func(context.Context, *vault.Vault) error) {
	v, _ := newBenchVault(b)
	commits(b, v, alice, hub.KindLogin, 0, 15) // the longest history
	for b.Loop() {
		must(b, ask(b.Context(), v))
	}
}

func BenchmarkGeneration(b *testing.B) {
	benchmarkAsk(b, func(ctx context.Context, v *vault.Vault) error {
		_, err := v.Generation(ctx, alice, hub.KindLogin)
		return err
	})
}

func BenchmarkNewer(b *testing.B) {
	benchmarkAsk(b, func(ctx context.Context, v *vault.Vault) error {
		_, err := v.Newer(ctx, alice, hub.KindLogin, 15)
		return err
	})
}

func BenchmarkLatest(b *testing.B) {
	benchmarkAsk(b, func(ctx context.Context, v *vault.Vault) error {
		_, err := v.Latest(ctx, alice, hub.KindLogin)
		return err
	})
}

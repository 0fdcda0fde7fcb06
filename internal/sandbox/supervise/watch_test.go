package supervise_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/sandbox/supervise"
)

func FuzzParseProcessStatus(f *testing.F) {
	f.Add([]byte("Name:\tRssAnon: 5\nRssAnon:\t     100 kB\nRssShmem:\t 28 kB\nThreads:\t3\n"))
	f.Add([]byte("RssAnon: 99999999999999999999 kB\nThreads: -\n"))
	f.Fuzz(func(t *testing.T, status []byte) { supervise.ParseProcessStatus(status) })
}

func TestParseProcessStatus(t *testing.T) {
	memory, threads := supervise.ParseProcessStatus([]byte("Name:\tRssAnon: 5 kB\\nThreads: 9\nVmRSS:\t 4444 kB\nRssAnon:\t     100 kB\nRssFile:\t 70 kB\nRssShmem:\t 28 kB\nThreads:\t3\n"))
	if memory != 128<<10 || threads != 3 {
		t.Errorf("memory %d, threads %d; want %d and 3", memory, threads, 128<<10)
	}
}

func TestFull(t *testing.T) {
	for name, c := range map[string]struct {
		blocks, files, free uint64
		want                bool
	}{
		"room":                        {100, 1_000_000, 500_000, false},
		"no bytes":                    {9, 1_000_000, 500_000, true},
		"just enough files":           {100, 1_000_000, 10_000, false},
		"too few files":               {100, 1_000_000, 9_999, true},
		"small, with room":            {100, 1_000, 50, false},
		"small, too few files":        {100, 1_000, 49, true},
		"no files left":               {100, 20, 0, true},
		"files are not counted there": {100, 0, 0, false},
	} {
		if got := supervise.Full(&unix.Statfs_t{Bavail: c.blocks, Bsize: 4096, Files: c.files, Ffree: c.free}, 10*4096); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

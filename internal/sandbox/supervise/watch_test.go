package supervise_test

import (
	"testing"

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

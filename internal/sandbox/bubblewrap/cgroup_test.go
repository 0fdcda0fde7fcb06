package bubblewrap_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
)

const (
	v1Mounts = `30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 /docker/abc /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids
`
	v2Mounts = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
)

func TestLocateControlGroups(t *testing.T) {
	for name, c := range map[string]struct {
		self, mounts string
		want         [][2]string
	}{
		"version 1": {
			"4:memory:/user/a\n8:pids:/docker/abc/x\n1:cpu,cpuacct:/\n", v1Mounts,
			[][2]string{{"/sys/fs/cgroup/memory/user/a", "/sys/fs/cgroup/pids/x"}},
		},
		"version 2": {
			"0::/user.slice/user-1000.slice/app.scope\n", v2Mounts,
			[][2]string{
				{"/sys/fs/cgroup/user.slice/user-1000.slice/app.scope", "/sys/fs/cgroup/user.slice/user-1000.slice/app.scope"},
				{"/sys/fs/cgroup/user.slice/user-1000.slice", "/sys/fs/cgroup/user.slice/user-1000.slice"},
			},
		},
		"no memory":  {"8:pids:/\n", v1Mounts, nil},
		"no mount":   {"4:memory:/\n8:pids:/\n", "", nil},
		"nonsense":   {"::::\nmemory\n\n", "a - b\n - cgroup\n1 2 3 / /x - cgroup c\n", nil},
		"empty":      {"", "", nil},
		"not a line": {"0:", "- - -", nil},
	} {
		if got := bubblewrap.Locate(c.self, c.mounts); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
}

func FuzzLocateControlGroups(f *testing.F) {
	f.Add("4:memory:/a\n8:pids:/b\n0::/c\n", v1Mounts+v2Mounts)
	f.Add("::", " - cgroup2 x x")
	f.Fuzz(func(t *testing.T, self, mounts string) {
		for _, place := range bubblewrap.Locate(self, mounts) {
			if place[0] == "" || place[1] == "" {
				t.Errorf("an empty place: %q", place)
			}
		}
	})
}

// TestGroupsAreRemoved looks whether the kernel still has groups of this process.
func TestGroupsAreRemoved(t *testing.T) {
	d := newDriver(t, bubblewrap.Config{})
	for range 3 {
		s, err := d.Start(t.Context(), sandbox.Spec{Args: []string{"/bin/true"}, Limits: sandbox.Limits{Memory: 1 << 30, Processes: 50}})
		if err != nil {
			t.Fatal(err)
		}
		s.Wait()
	}
	filepath.WalkDir("/sys/fs/cgroup", func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.Contains(path, fmt.Sprintf("/claude-hub-%d-", os.Getpid())) {
			t.Errorf("left over: %s", path)
		}
		return nil
	})
}

func TestSweepTakesGroupsOfTheDeadOnly(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	names := map[string]bool{ // whether it stays
		fmt.Sprintf("claude-hub-%d-a", gone.Process.Pid): false,
		fmt.Sprintf("claude-hub-%d-b", os.Getpid()):      true,
		"claude-hub-1-c": true, "other": true,
	}
	for name := range names {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bubblewrap.SweepDir(dir)
	for name, stays := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != stays {
			t.Errorf("%s stays: %v; want %v", name, err == nil, stays)
		}
	}
}

func FuzzParseProcessStatus(f *testing.F) {
	f.Add([]byte("Name:\tRssAnon: 5\nRssAnon:\t     100 kB\nRssShmem:\t 28 kB\nThreads:\t3\n"))
	f.Add([]byte("RssAnon: 99999999999999999999 kB\nThreads: -\n"))
	f.Fuzz(func(t *testing.T, status []byte) { bubblewrap.ParseProcessStatus(status) })
}

func TestParseProcessStatus(t *testing.T) {
	memory, threads := bubblewrap.ParseProcessStatus([]byte("Name:\tRssAnon: 5 kB\\nThreads: 9\nVmRSS:\t 4444 kB\nRssAnon:\t     100 kB\nRssFile:\t 70 kB\nRssShmem:\t 28 kB\nThreads:\t3\n"))
	if memory != 128<<10 || threads != 3 {
		t.Errorf("memory %d, threads %d; want %d and 3", memory, threads, 128<<10)
	}
}

package cgroup_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox/cgroup"
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
		if got := cgroup.Locate(c.self, c.mounts); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
}

func FuzzLocateControlGroups(f *testing.F) {
	f.Add("4:memory:/a\n8:pids:/b\n0::/c\n", v1Mounts+v2Mounts)
	f.Add("::", " - cgroup2 x x")
	f.Fuzz(func(t *testing.T, self, mounts string) {
		for _, place := range cgroup.Locate(self, mounts) {
			if place[0] == "" || place[1] == "" {
				t.Errorf("an empty place: %q", place)
			}
		}
	})
}

// TestGroupsAreRemoved looks whether the kernel still has groups of this process.
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
	cgroup.SweepDir(dir)
	for name, stays := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != stays {
			t.Errorf("%s stays: %v; want %v", name, err == nil, stays)
		}
	}
}

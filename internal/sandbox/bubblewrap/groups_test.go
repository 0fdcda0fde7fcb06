package bubblewrap_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
)

func TestGroupsAreRemoved(t *testing.T) {
	d := newDriver(t, bubblewrap.Config{})
	for range 3 {
		s, err := d.Start(t.Context(), sandbox.Spec{Args: []string{"/bin/true"}, Limits: sandbox.Limits{Memory: 1 << 30, Processes: 50, CPUs: 1}})
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

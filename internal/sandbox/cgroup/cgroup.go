// Package cgroup makes control groups, of version 1 or 2, that bound the memory
// and the processes of one sandbox, and tells where the kernel had to kill in one.
// Groups of a process that is gone are removed by the next that looks for a place.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// Groups is where this process may make control groups.
type Groups struct {
	unified bool
	memory  string // a directory to make groups in
	pids    string // the same as memory if unified
	cpu     string // the same as memory if unified; "" if there is none
	home    []string
}

// Find tries where a group can be made: beside this process's children, or
// beside this process where its own group is barred to more groups by having
// processes. It returns nil where neither works.
func Find() *Groups {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	for _, c := range locate(string(self), string(mounts)) {
		sweep(c)
		g, err := c.Create(sandbox.Limits{Memory: 1 << 30, Processes: 100})
		if err == nil {
			g.Remove()
			return c
		}
	}
	return nil
}

// locate reads the places to try from a process's cgroup and mountinfo files.
func locate(self, mountinfo string) []*Groups {
	own := map[string]string{} // controller, or "" for the unified hierarchy, to path
	for line := range strings.Lines(self) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 {
			for _, controller := range strings.Split(parts[1], ",") {
				own[controller] = parts[2]
			}
		}
	}
	dirs := map[string]string{}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		front, back := strings.Fields(before), strings.Fields(after)
		if !ok || len(front) < 5 || len(back) < 3 {
			continue
		}
		root, at := front[3], front[4]
		switch back[0] {
		case "cgroup2":
			dirs[""] = join(at, root, own[""])
		case "cgroup":
			for _, option := range strings.Split(back[2], ",") {
				if path, ok := own[option]; ok && (option == "memory" || option == "pids" || option == "cpu") {
					dirs[option] = join(at, root, path)
				}
			}
		}
	}
	var found []*Groups
	if dirs["memory"] != "" && dirs["pids"] != "" {
		found = append(found, &Groups{memory: dirs["memory"], pids: dirs["pids"], cpu: dirs["cpu"], home: []string{dirs["memory"], dirs["pids"]}})
	}
	if dir := dirs[""]; dir != "" {
		found = append(found,
			&Groups{unified: true, memory: dir, pids: dir, cpu: dir, home: []string{dir}},
			&Groups{unified: true, memory: filepath.Dir(dir), pids: filepath.Dir(dir), cpu: filepath.Dir(dir), home: []string{dir}})
	}
	return found
}

// join returns where the group at path is, when its hierarchy's root is mounted at.
func join(at, root, path string) string {
	if root != "/" {
		path = strings.TrimPrefix(path, root)
	}
	return filepath.Join(at, path)
}

// groupPrefix, the hub's process ID and a random part name a group, so that the
// groups of a dead hub can be told.
const groupPrefix = "claude-hub-"

// sweep removes the groups of hubs that are gone.
func sweep(c *Groups) {
	for _, parent := range []string{c.memory, c.pids, c.cpu} {
		left, _ := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
		for _, dir := range left {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupPrefix), "-")
			if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
				os.Remove(dir)
			}
		}
	}
}

// Group is one sandbox's control group: a directory, or with version 1 one for
// each controller.
type Group struct {
	dirs   []string // the first is memory's
	pids   string
	cpu    string // "" where processors are not bounded
	home   []string
	events string // the file that counts kills for memory
}

// Create makes a group with these limits.
func (c *Groups) Create(limits sandbox.Limits) (*Group, error) {
	name := groupPrefix + strconv.Itoa(os.Getpid()) + "-" + strings.TrimPrefix(string(hub.NewRunID(time.Now())), "r-")
	g := &Group{home: slices.Clone(c.home), dirs: []string{filepath.Join(c.memory, name)}, pids: filepath.Join(c.pids, name)}
	g.events = filepath.Join(g.dirs[0], "memory.oom_control")
	memory := []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
	if c.unified {
		g.events = filepath.Join(g.dirs[0], "memory.events")
		memory = []string{"memory.max"}
	} else {
		g.dirs = append(g.dirs, g.pids)
	}
	if limits.CPUs > 0 && c.cpu != "" {
		g.cpu = filepath.Join(c.cpu, name)
		if !c.unified {
			g.dirs, g.home = append(g.dirs, g.cpu), append(g.home, c.cpu)
		}
	}
	for _, dir := range g.dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			g.Remove()
			return nil, err
		}
	}
	if err := g.limit(limits, memory, c.unified); err != nil {
		g.Remove()
		return nil, err
	}
	return g, nil
}

func (g *Group) limit(limits sandbox.Limits, memory []string, unified bool) error {
	if limits.Memory > 0 {
		for i, file := range memory {
			err := write(filepath.Join(g.dirs[0], file), strconv.FormatInt(limits.Memory, 10))
			if err != nil && (i == 0 || !errors.Is(err, os.ErrNotExist)) { // the second is there with swap only
				return err
			}
		}
		if unified {
			err := write(filepath.Join(g.dirs[0], "memory.swap.max"), "0")
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	if limits.Processes > 0 {
		if err := write(filepath.Join(g.pids, "pids.max"), strconv.Itoa(limits.Processes)); err != nil {
			return err
		}
	}
	return g.slow(limits.CPUs, unified)
}

// slow bounds the processors. A kernel or a parent group without that controller
// has no file for it, which is no error.
func (g *Group) slow(cpus float64, unified bool) error {
	if g.cpu == "" {
		return nil
	}
	const period = 100_000 // the kernel's own, in microseconds
	quota := strconv.Itoa(max(1000, int(cpus*period)))
	file := "cpu.cfs_quota_us"
	if unified {
		file, quota = "cpu.max", quota+" "+strconv.Itoa(period)
	}
	if err := write(filepath.Join(g.cpu, file), quota); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Add moves a process into the group.
func (g *Group) Add(pid int) error { return move(g.dirs, pid) }

// Release moves the shim out again, once the command is in: a job that has used
// up its processes must not keep the shim from starting a thread, nor may the
// kernel choose the shim when memory is short. The limits hold without it.
func (g *Group) Release(pid int) error { return move(g.home, pid) }

func move(dirs []string, pid int) error {
	for _, dir := range dirs {
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// OutOfMemory reports whether the kernel has killed in the group.
func (g *Group) OutOfMemory() bool { return Killed(g.events) }

// Killed reports whether the kernel says in an events file, see [Events], that it
// has killed for memory. A file that is gone says nothing.
func Killed(events string) bool {
	f, err := os.Open(events)
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if count, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
			return strings.TrimSpace(count) != "0"
		}
	}
	return false
}

// Events returns the file in which the kernel counts its kills for memory in the
// group that a process is in; "" if this process can't see it. It may be the file
// of a group that holds more than this process.
func Events(pid int) string {
	its, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return ""
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for _, c := range locate(string(its), string(mounts)) {
		for _, name := range []string{"memory.events", "memory.oom_control"} {
			file := filepath.Join(c.memory, name)
			if _, err := os.Stat(file); err == nil {
				return file
			}
		}
	}
	return ""
}

// Delegated reports whether systemd has handed these controllers down to a user,
// so that a user's own engine can bound with them. With version 1 it never has.
func Delegated(uid int, controllers ...string) bool {
	user := strconv.Itoa(uid)
	data, err := os.ReadFile("/sys/fs/cgroup/user.slice/user-" + user + ".slice/user@" + user + ".service/cgroup.controllers")
	if err != nil {
		return false
	}
	has := strings.Fields(string(data))
	return !slices.ContainsFunc(controllers, func(c string) bool { return !slices.Contains(has, c) })
}

// Remove deletes the group. The kernel may need a moment after the last process.
// A group that stays is swept by a later hub.
func (g *Group) Remove() {
	if g == nil {
		return
	}
	for _, dir := range slices.Backward(g.dirs) {
		for try := range 20 {
			if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			time.Sleep(time.Duration(try) * time.Millisecond)
		}
	}
}

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // never creates
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	return nil
}

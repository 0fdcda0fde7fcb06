package docker_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
)

// TestCopyOfAHub: a copy of the hub's directory, or a backup of it, is another hub,
// and leaves alone what the first one has.
func TestCopyOfAHub(t *testing.T) {
	for _, kind := range []string{docker.KindDocker, docker.KindPodman} {
		var dir string
		d := newDriver(t, kind, func(c *docker.Config) { dir = c.Dir })
		if err := d.Check(t.Context()); err != nil { // so that there is something to copy
			t.Fatal(err)
		}
		twin := filepath.Join(t.TempDir(), "copy")
		if out, err := exec.Command("cp", "-a", dir, twin).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		name := d.HubID(t)
		var out bytes.Buffer
		in, feed := io.Pipe()
		defer in.Close()
		s, err := d.Start(t.Context(), sandbox.Spec{
			Args: []string{"sh", "-c", "read line; echo got $line"}, Env: []string{"PATH=" + sandbox.Path}, Stdin: in, Stdout: &out,
		})
		if err != nil {
			t.Fatal(err)
		}
		other := newDriver(t, kind, func(c *docker.Config) { c.Dir = twin })
		if n, err := other.Sweep(t.Context()); n != 0 || err != nil {
			t.Errorf("%s: the copy's sweep removed %d, %v; want none", kind, n, err)
		}
		if other.HubID(t) == name || d.HubID(t) != name {
			t.Errorf("%s: the copy's name is %s; the first one's was %s and is %s", kind, other.HubID(t), name, d.HubID(t))
		}
		io.WriteString(feed, "word\n")
		feed.Close()
		if exit, err := s.Wait(); err != nil || exit != (sandbox.Exit{}) || out.String() != "got word\n" {
			t.Errorf("%s: the first hub's job ended with %+v, %v, said %q", kind, exit, err, out.String())
		}
		nothingLeft(t, d, dir)
	}
}

// TestSweepLeavesWhatRunsWithoutAPlace: a container with this hub's name that is
// not from here, as after a snapshot, is removed when it has ended.
func TestSweepLeavesWhatRunsWithoutAPlace(t *testing.T) {
	d := newDriver(t, docker.KindDocker)
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	args := []string{"-H", d.Address(), "run", "-d", "--network", "none"}
	for name, value := range d.DeadLabels(t) {
		args = append(args, "--label", name+"="+value)
	}
	out, err := exec.Command("docker", append(args, hubtest.BaseImage, "sleep", "300")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("docker", "-H", d.Address(), "rm", "-f", id).Run() })
	if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("while it runs, a sweep removed %d, %v", n, err)
	}
	if out, err := exec.Command("docker", "-H", d.Address(), "kill", id).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	exec.Command("docker", "-H", d.Address(), "wait", id).Run()
	if n, err := d.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("when it has ended, a sweep removed %d, %v; want 1", n, err)
	}
}

// TestNameWithoutADirectory: a name from before names had directories stays.
func TestNameWithoutADirectory(t *testing.T) {
	var dir string
	d := newDriver(t, docker.KindDocker, func(c *docker.Config) { dir = c.Dir })
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := d.HubID(t)
	files, _ := filepath.Glob(filepath.Join(dir, "*", "id"))
	if len(files) != 1 {
		t.Fatalf("the names: %v", files)
	}
	write(t, files[0], name+"\n")
	if got := d.HubID(t); got != name {
		t.Errorf("the name is %s; want %s", got, name)
	}
	if text, err := os.ReadFile(files[0]); err != nil || !strings.HasPrefix(string(text), name+" ") {
		t.Errorf("the file says %q, %v; want the name and a directory", text, err)
	}
}

// TestSweepUnmountsForOtherEngines: a hub that died during a start at an address
// that is no longer used.
func TestSweepUnmountsForOtherEngines(t *testing.T) {
	b := newBetween(t, docker.KindDocker)
	reached, answered, release := b.blockAt("/containers/create")
	var dir string
	d := newDriver(t, docker.KindDocker, via(b), func(c *docker.Config) { dir = c.Dir })
	cmd := exec.Command("/proc/self/exe", hubArg, docker.KindDocker, b.host(), dir, "x")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	mounted := func() bool {
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		return bytes.Contains(mounts, []byte(dir))
	}
	<-reached
	next := newDriver(t, docker.KindPodman, func(c *docker.Config) { c.Dir = dir })
	if n, err := next.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("beside a hub that lives, a sweep of another engine removed %d, %v", n, err)
	}
	if os.Getuid() == 0 && !mounted() {
		t.Error("nothing is mounted beside a hub that lives")
	}
	cmd.Process.Kill()
	cmd.Wait()
	if n, err := next.Sweep(t.Context()); n != 0 || err != nil || mounted() {
		t.Errorf("a sweep of another engine removed %d, %v; mounts are left: %v", n, err, mounted())
	}
	release()
	<-answered
	if _, err := d.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	nothingLeft(t, d, dir)
}

package sandboxtest

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

func testMemory(t *testing.T, d sandbox.Driver) {
	spec := newPlace(t).spec(t, insideProbe, probeArg, "eat")
	spec.Limits.Memory = 200 << 20
	if r := run(t, d, spec); r.Reason != sandbox.ReasonMemory || r.Code == 0 {
		t.Errorf("a job that takes 1 GiB of 200 MiB ended with %+v, output %q", r.Exit, r.out)
	}
	// Not the command itself, but one of many below it.
	spec = newPlace(t).spec(t, "sh", "-c", "("+insideProbe+" "+probeArg+" eat); sleep 300")
	spec.Limits.Memory = 200 << 20
	if r := run(t, d, spec); r.Reason != sandbox.ReasonMemory {
		t.Errorf("a job whose child takes 1 GiB of 200 MiB ended with %+v, output %q", r.Exit, r.out)
	}
	spec = newPlace(t).spec(t, "sh", "-c", "exit 9")
	spec.Limits.Memory = 200 << 20
	if r := run(t, d, spec); r.Exit != (sandbox.Exit{Code: 9}) {
		t.Errorf("a small job ended with %+v", r.Exit)
	}
}

// testCPUs has a job that would take all processors say how much it got of one, of
// which it may have a tenth. A machine that is busy gives it even less.
func testCPUs(t *testing.T, d sandbox.Driver) {
	spec := newPlace(t).spec(t, insideProbe, probeArg, "burn")
	spec.Limits.CPUs = 0.1
	share := ask[float64](t, d, spec, nil)
	if bounded, ok := d.(interface{ Cgroup() bool }); ok && !bounded.Cgroup() {
		return // the contract has no promise then
	}
	if share > 0.3 {
		t.Errorf("a job that may have 0.1 processors took %.2f", share)
	}
}

// testTemp fills the temporary directories, which are memory.
func testTemp(t *testing.T, d sandbox.Driver) {
	for _, dir := range []string{"/tmp", "/dev/shm"} {
		spec := newPlace(t).spec(t, "sh", "-c", "head -c 40000000 /dev/zero > "+dir+"/x; stat -c %s "+dir+"/x")
		spec.Limits.Temp = 8 << 20
		r := run(t, d, spec)
		if size := strings.TrimSpace(r.out); size == "40000000" || len(size) < 7 {
			t.Errorf("with 8 MiB for it, %s took %s bytes (%s)", dir, size, r.err)
		}
	}
	// Where an engine, too, may have put memory.
	for _, dir := range []string{"/run", "/var/tmp", "/run/lock", "/dev", "/var/log", "/var/cache"} {
		r := run(t, d, newPlace(t).spec(t, "sh", "-c", "head -c 100000000 /dev/zero > "+dir+"/x && echo all"))
		if r.out != "" {
			t.Errorf("%s took 100 MB", dir)
		}
	}
}

func testForks(t *testing.T, d sandbox.Driver) {
	spec := newPlace(t).spec(t, insideProbe, probeArg, "forks")
	spec.Stdin = strings.NewReader("300")
	spec.Limits.Processes = 60
	r := run(t, d, spec)
	held := r.Exit == sandbox.Exit{} && strings.TrimSpace(r.out) != "300"
	if !held && r.Reason != sandbox.ReasonProcesses {
		t.Errorf("300 processes of 60: ended with %+v, output %q, error %q", r.Exit, r.out, r.err)
	}
	spec = newPlace(t).spec(t, insideProbe, probeArg, "forks")
	spec.Stdin = strings.NewReader("20")
	spec.Limits.Processes = 60
	if r := run(t, d, spec); r.Exit != (sandbox.Exit{}) || r.out != "20\n" {
		t.Errorf("20 processes of 60: ended with %+v, output %q, error %q", r.Exit, r.out, r.err)
	}
}

func testTime(t *testing.T, d sandbox.Driver) {
	for name, c := range map[string]struct {
		script string
		want   sandbox.Exit
	}{
		"ends when asked": {"exec sleep 300", sandbox.Exit{Code: -1, Signal: "SIGTERM", Reason: sandbox.ReasonTime}},
		"says goodbye":    {"trap 'exit 143' TERM; while :; do sleep 0.05; done", sandbox.Exit{Code: 143, Reason: sandbox.ReasonTime}},
		"ignores all":     {"trap '' TERM INT HUP; while :; do sleep 0.05; done", sandbox.Exit{Code: -1, Signal: "SIGKILL", Reason: sandbox.ReasonTime}},
		"is stopped":      {"kill -STOP $$", sandbox.Exit{Code: -1, Signal: "SIGKILL", Reason: sandbox.ReasonTime}},
		"is silent":       {"exec >&- 2>&- <&-; trap '' TERM; while :; do sleep 1; done", sandbox.Exit{Code: -1, Signal: "SIGKILL", Reason: sandbox.ReasonTime}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for the grace
			spec := newPlace(t).spec(t, "sh", "-c", c.script)
			spec.Limits.Time = time.Second
			if r := run(t, d, spec); r.Exit != c.want {
				t.Errorf("ended with %+v; want %+v", r.Exit, c.want)
			}
		})
	}
}

func testOutput(t *testing.T, d sandbox.Driver) {
	for _, script := range []string{"exec yes", "yes >&2", "yes & yes >&2", "trap '' PIPE TERM; while :; do echo x; echo y >&2; done"} {
		spec := newPlace(t).spec(t, "sh", "-c", script)
		spec.Limits.Output = 100_000
		r := run(t, d, spec)
		if r.Reason != sandbox.ReasonOutput || len(r.out)+len(r.err) != 100_000 {
			t.Errorf("%s: ended with %+v after %d bytes; want the reason output after 100000", script, r.Exit, len(r.out)+len(r.err))
		}
	}
	spec := newPlace(t).spec(t, "head", "-c", "100000", "/dev/zero")
	spec.Limits.Output = 100_000
	if r := run(t, d, spec); r.Exit != (sandbox.Exit{}) || len(r.out) != 100_000 {
		t.Errorf("output of exactly the limit: ended with %+v after %d bytes", r.Exit, len(r.out))
	}
}

func testFileSize(t *testing.T, d sandbox.Driver) {
	p := newPlace(t)
	spec := p.spec(t, "dd", "if=/dev/zero", "of=big", "bs=1M", "count=64")
	spec.Limits.FileSize = 4 << 20
	r := run(t, d, spec)
	if r.Reason != sandbox.ReasonDisk || r.Code == 0 {
		t.Errorf("a job that writes 64 MiB of 4 ended with %+v", r.Exit)
	}
	if info, err := os.Stat(p.work + "/big"); err != nil || info.Size() > 4<<20 {
		t.Errorf("the file on the host: %v, %v", info, err)
	}
	spec = newPlace(t).spec(t, "sh", "-c", "sleep 300 & ulimit -c")
	if r := run(t, d, spec); r.out != "0\n" {
		t.Errorf("core files may have %q blocks; want 0", r.out)
	}
}

func testFreeSpace(t *testing.T, d sandbox.Driver) {
	spec := newPlace(t).spec(t, "sleep", "300")
	spec.Limits.MinFree = 1 << 60
	if r := run(t, d, spec); r.Reason != sandbox.ReasonDisk {
		t.Errorf("with less space than must stay free, a job ended with %+v", r.Exit)
	}
	spec = newPlace(t).spec(t, "sleep", "0.3")
	spec.Limits.MinFree = 1
	if r := run(t, d, spec); r.Exit != (sandbox.Exit{}) {
		t.Errorf("with space enough, a job ended with %+v", r.Exit)
	}
}

type brokenWriter struct{ bytes.Buffer }

func (w *brokenWriter) Write(b []byte) (int, error) {
	if w.Len() > 1000 {
		return 0, errors.New("disk full")
	}
	return w.Buffer.Write(b)
}

func testWriterFails(t *testing.T, d sandbox.Driver) {
	spec := newPlace(t).spec(t, "yes")
	spec.Stdout = &brokenWriter{}
	if r := run(t, d, spec); r.Reason != sandbox.ReasonKilled {
		t.Errorf("a job whose output can't be kept ended with %+v", r.Exit)
	}
}

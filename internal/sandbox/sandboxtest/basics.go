package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

func testCheck(t *testing.T, d sandbox.Driver) {
	if err := d.Check(t.Context()); err != nil {
		t.Fatalf("Check: %v (%s)", err, hub.HintOf(err))
	}
	if d.Name() == "" || d.Name() != strings.ToLower(d.Name()) {
		t.Errorf("Name is %q", d.Name())
	}
}

func testCommands(t *testing.T, d sandbox.Driver) {
	t.Run("arguments, environment, directory and streams arrive", func(t *testing.T) {
		spec := newPlace(t).spec(t, insideProbe, probeArg, "self", "a b", "", "*", "$HOME", "\n", "ü\xff")
		got := ask[selfAnswer](t, d, spec, "hello")
		if want := spec.Args[3:]; !slices.Equal(got.arguments(), want) {
			t.Errorf("arguments are %q; want %q", got.arguments(), want)
		}
		if !slices.Equal(got.Env, spec.Env) {
			t.Errorf("environment is %q; want exactly %q", got.Env, spec.Env)
		}
		if got.Dir != insideWork || got.Stdin != `"hello"` {
			t.Errorf("directory is %q, input %q", got.Dir, got.Stdin)
		}
		if !slices.Equal(got.Files, []string{"0", "1", "2"}) {
			t.Errorf("open descriptors are %v; want the standard three", got.Files)
		}
		if got.Blocked != "0000000000000000" || got.Ignored != "0000000000000000" {
			t.Errorf("signals blocked %s, ignored %s; want none", got.Blocked, got.Ignored)
		}
	})
	t.Run("the two outputs are apart, no input is an empty one, home is the default directory", func(t *testing.T) {
		spec := newPlace(t).spec(t, "sh", "-c", `cat; echo out; echo err >&2; pwd; echo ~; hostname`)
		spec.Dir = ""
		r := run(t, d, spec)
		if r.out != "out\n"+sandbox.Home+"\n"+sandbox.Home+"\nsandbox\n" || r.err != "err\n" {
			t.Errorf("output %q, error %q", r.out, r.err)
		}
	})
	t.Run("its outputs can be opened again by name", func(t *testing.T) {
		r := run(t, d, newPlace(t).spec(t, "sh", "-c", `echo out > /dev/stdout; echo err > /dev/stderr; echo in > /dev/fd/1`))
		if r.Exit != (sandbox.Exit{}) || r.out != "out\nin\n" || r.err != "err\n" {
			t.Errorf("ended with %+v, output %q, error %q", r.Exit, r.out, r.err)
		}
	})
	t.Run("both outputs may go to one writer", func(t *testing.T) {
		spec := newPlace(t).spec(t, "sh", "-c", `for i in 1 2 3 4 5 6 7 8 9; do echo out; echo err >&2; done`)
		var both bytes.Buffer
		spec.Stdout, spec.Stderr = &both, &both
		if run(t, d, spec); strings.Count(both.String(), "\n") != 18 {
			t.Errorf("got %q", both.String())
		}
	})
	t.Run("exit codes and signals come out", func(t *testing.T) {
		for script, want := range map[string]sandbox.Exit{
			"exit 0":               {},
			"exit 7":               {Code: 7},
			"exit 255":             {Code: 255},
			"kill -SEGV $$":        {Code: -1, Signal: "SIGSEGV"},
			"kill -TERM $$":        {Code: -1, Signal: "SIGTERM"},
			"sleep 300 & exit 3":   {Code: 3},
			"kill -KILL 1; exit 4": {Code: 4}, // PID 1 inside can't be killed from inside
			"kill -STOP 1; exit 5": {Code: 5},
		} {
			if r := run(t, d, newPlace(t).spec(t, "sh", "-c", script)); r.Exit != want {
				t.Errorf("%s: exit is %+v; want %+v", script, r.Exit, want)
			}
		}
	})
	t.Run("megabytes of input and output", func(t *testing.T) {
		data := bytes.Repeat([]byte("0123456789abcde\n"), 3<<16)
		spec := newPlace(t).spec(t, "cat")
		spec.Stdin = bytes.NewReader(data)
		var out bytes.Buffer
		spec.Stdout = &out
		if run(t, d, spec); !bytes.Equal(out.Bytes(), data) {
			t.Errorf("%d bytes of %d came back", out.Len(), len(data))
		}
	})
	t.Run("an input that never ends does not hold up the end", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		defer r.Close()
		spec := newPlace(t).spec(t, "true")
		spec.Stdin = r
		run(t, d, spec)
	})
}

func testStartErrors(t *testing.T, d sandbox.Driver) {
	for name, c := range map[string]struct {
		change func(*sandbox.Spec)
		want   error
	}{
		"no command":            {func(s *sandbox.Spec) { s.Args = nil }, hub.ErrInvalid},
		"no such command":       {func(s *sandbox.Spec) { s.Args = []string{"no-such-command"} }, hub.ErrNotFound},
		"no such file":          {func(s *sandbox.Spec) { s.Args = []string{"/no/such/file"} }, hub.ErrNotFound},
		"a directory":           {func(s *sandbox.Spec) { s.Args = []string{"/usr"} }, hub.ErrNotFound},
		"no such directory":     {func(s *sandbox.Spec) { s.Dir = "/no/such" }, hub.ErrNotFound},
		"NUL":                   {func(s *sandbox.Spec) { s.Env = append(s.Env, "A=b\x00c") }, hub.ErrInvalid},
		"no home":               {func(s *sandbox.Spec) { s.Home = "/no/such" }, hub.ErrInvalid},
		"no source":             {func(s *sandbox.Spec) { s.Mounts[1].Source = "/no/such" }, hub.ErrInvalid},
		"mount over the system": {func(s *sandbox.Spec) { s.Mounts[1].Target = "/usr/lib" }, hub.ErrInvalid},
		"no socket":             {func(s *sandbox.Spec) { s.Sockets = []sandbox.Socket{{Host: "/no/such", Port: 4000}} }, hub.ErrInvalid},
		"a socket that is none": {func(s *sandbox.Spec) { s.Sockets = []sandbox.Socket{{Host: "/etc/passwd", Port: 4000}} }, hub.ErrInvalid},
	} {
		spec := newPlace(t).spec(t, "sh", "-c", "echo ran > ran")
		c.change(&spec)
		s, err := d.Start(context.Background(), spec)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: Start error is %v; want %v", name, err, c.want)
		}
		if err == nil {
			s.Kill()
			s.Wait()
		}
	}
}

func testWorkspace(t *testing.T, d sandbox.Driver) {
	p := newPlace(t)
	read := t.TempDir()
	for _, f := range []string{filepath.Join(p.work, "given"), filepath.Join(read, "given")} {
		if err := os.WriteFile(f, []byte("from the host\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec := p.spec(t, "sh", "-c", `
		cat given /read/given && echo changed > given && mkdir -p a/b && echo new > a/b/c && chmod 750 a/b/c && ln -s c a/b/l &&
		echo mine > ~/own && test -O given && test -O ~/own &&
		! touch /read/x 2>/dev/null && ! rm -f /read/given 2>/dev/null && ! chmod 777 /read/given 2>/dev/null`)
	spec.Mounts = append(spec.Mounts, sandbox.Mount{Source: read, Target: "/read"})
	r := run(t, d, spec)
	if r.Exit != (sandbox.Exit{}) || r.out != "from the host\nfrom the host\n" {
		t.Fatalf("ended with %+v, output %q, error %q", r.Exit, r.out, r.err)
	}
	for path, want := range map[string]string{
		filepath.Join(p.work, "given"): "changed\n", filepath.Join(p.work, "a/b/c"): "new\n",
		filepath.Join(p.home, "own"): "mine\n", filepath.Join(read, "given"): "from the host\n",
	} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s on the host is %q, %v; want %q", path, got, err, want)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; int(uid) != os.Getuid() {
			t.Errorf("%s on the host belongs to %d; want the hub's user %d", path, uid, os.Getuid())
		}
	}
}

// testWrites tries to change what is not the job's.
func testWrites(t *testing.T, d sandbox.Driver) {
	out := shell(t, d, `
		for dir in / /usr /usr/bin /usr/local /bin/ /lib/ /etc /etc/ssl /dev /home /proc /probe /opt /var /root; do
			if (echo x > "$dir/planted") 2>/dev/null; then echo "created in $dir"; fi
			if (mkdir -p "$dir/planted.d") 2>/dev/null; then echo "made a directory in $dir"; fi
		done
		for file in /probe/probe /etc/passwd /usr/bin/env /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches \
			/proc/sysrq-trigger /proc/1/oom_score_adj /proc/1/mem /proc/1/comm /dev/mem /dev/kmsg; do
			if (: >> "$file") 2>/dev/null; then echo "opened $file for writing"; fi
		done
		echo done`)
	if out != "done\n" {
		t.Errorf("the job could write:\n%s", out)
	}
}

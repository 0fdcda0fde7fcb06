package bubblewrap_test

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/bubblewrap"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
)

func TestMain(m *testing.M) {
	if shim.Wanted(os.Args) {
		os.Exit(shim.Main(os.Args))
	}
	os.Exit(m.Run())
}

func TestHello(t *testing.T) {
	d, err := bubblewrap.New(bubblewrap.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log(d.Cgroup())
	var out bytes.Buffer
	s, err := d.Start(context.Background(), sandbox.Spec{Args: []string{"sh", "-c", "id; env; cat /proc/1/cmdline; ls -la /proc/self/fd /etc /run/claude-hub; cat /proc/1/environ; cat; exit 7"}, Env: []string{"PATH=" + sandbox.Path}, Stdin: bytes.NewReader([]byte("hi there\n")),
		Stdout: &out, Stderr: &out, Limits: sandbox.Limits{Memory: 1 << 28, Processes: 20}})
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Wait()
	t.Log(e, err, out.String())
}

package agent_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// readLines returns the lines, "!" for each that was too long.
func readLines(t *testing.T, r io.Reader, max int) []string {
	t.Helper()
	lines := agent.NewLines(r, max)
	var got []string
	for {
		line, err := lines.Next()
		switch {
		case errors.Is(err, hub.ErrTooLarge):
			got = append(got, "!")
		case errors.Is(err, io.EOF):
			return got
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, string(line))
		}
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	for _, c := range []struct {
		in   string
		max  int
		want []string
	}{
		{"", 0, nil},
		{"\n", 0, []string{""}},
		{"a\nb\n", 0, []string{"a", "b"}},
		{"a\nb", 0, []string{"a", "b"}},
		{"abc\nabcd\nab\n", 3, []string{"abc", "!", "ab"}},
		{"abc\nabcd", 3, []string{"abc", "!"}},
		{"ab\nabc", 3, []string{"ab", "abc"}},
		{long + "\nb\n", 0, []string{long, "b"}},
		{long + "\nb\n" + long, 100 << 10, []string{"!", "b", "!"}},
		{long[:100<<10] + "\n" + long[:100<<10+1] + "\n", 100 << 10, []string{long[:100<<10], "!"}},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in)), iotest.DataErrReader(strings.NewReader(c.in))} {
			if got := readLines(t, r, c.max); strings.Join(got, "\n") != strings.Join(c.want, "\n") || len(got) != len(c.want) {
				t.Errorf("%.20q with max %d: %d lines; want %d", c.in, c.max, len(got), len(c.want))
			}
		}
	}
}

func TestLinesReturnWhatCameBeforeAnError(t *testing.T) {
	broken := errors.New("broken pipe")
	lines := agent.NewLines(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)), 0)
	for _, want := range []string{"a", "b"} {
		if got, err := lines.Next(); err != nil || string(got) != want {
			t.Fatalf("Next = %q, %v; want %q", got, err, want)
		}
	}
	if _, err := lines.Next(); !errors.Is(err, broken) {
		t.Errorf("error = %v; want the reader's", err)
	}
}

// A line of 1 GB costs no more than the bound.
func TestLinesAreBoundedInMemory(t *testing.T) {
	endless := io.LimitReader(zeros{}, 1<<30)
	lines := agent.NewLines(io.MultiReader(endless, strings.NewReader("\nnext\n")), 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := lines.Next(); !errors.Is(err, hub.ErrTooLarge) {
		t.Fatalf("error = %v; want ErrTooLarge", err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Errorf("%d bytes were allocated for a line of 1 GB", got)
	}
	if line, err := lines.Next(); err != nil || string(line) != "next" {
		t.Errorf("Next = %q, %v; want the line after it", line, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nbb\n\nccc"), 2)
	f.Fuzz(func(t *testing.T, b []byte, max int) {
		max = max&0xff + 1
		var want []string
		for line := range bytes.Lines(b) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			if len(line) > max {
				line = []byte("!")
			}
			want = append(want, string(line))
		}
		if got := readLines(t, bytes.NewReader(b), max); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("lines of %q = %q; want %q", b, got, want)
		}
	})
}

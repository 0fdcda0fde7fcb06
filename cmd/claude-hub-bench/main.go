// Claude-hub-bench measures the finished program, as a whole, against the same
// work done another way in the same run on the same machine. Each line prints a
// name, a value, its baseline and their ratio. What is measured inside packages
// is in their own benchmarks; `make bench` prints them all.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "claude-hub-bench:", err)
		os.Exit(1)
	}
}

// bench measures one build of the program.
type bench struct {
	hub    string // the program
	claude string // the CLI
	runs   int    // of the comparison by rotation
	rounds int    // of everything that is timed
}

func run(ctx context.Context) error {
	b := bench{}
	flag.StringVar(&b.hub, "hub", "bin/claude-hub", "the program to measure")
	flag.StringVar(&b.claude, "claude", ".cache/agent/node_modules/.bin/claude", "the claude CLI")
	flag.IntVar(&b.runs, "runs", 1000, "how many runs with expiries between, each way")
	flag.IntVar(&b.rounds, "rounds", 20, "how many rounds of what is timed")
	flag.Parse()
	for _, path := range []*string{&b.hub, &b.claude} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	for _, part := range []func(context.Context) error{b.size, b.live, b.rotation} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// row prints one line; a ratio of zero is none.
func row(name, value, baseline string, ratio float64) {
	text := "–"
	if ratio != 0 {
		text = fmt.Sprintf("%.2f", ratio)
	}
	fmt.Printf("%-48s %14s %24s %8s\n", name, value, baseline, text)
}

func (b bench) size(context.Context) error {
	info, err := os.Stat(b.hub)
	if err != nil {
		return err
	}
	mb := float64(info.Size()) / 1e6
	row("binary", fmt.Sprintf("%.1f MB", mb), "60 MB allowed", mb/60)
	return nil
}

// rotation is the headline: the same runs with access tokens that die in
// between, by the hub and by copying the captured directory.
func (b bench) rotation(ctx context.Context) error {
	type side struct {
		Runs, Done   int
		LoginsAsked  int `json:"logins_asked"`
		Rotations    int
		SpentReplays int `json:"spent_tokens_replayed"`
	}
	var report struct{ Hub, Copying side }
	cmd := exec.CommandContext(ctx, b.hub, "demo", "--json", "--runs", strconv.Itoa(b.runs))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(b.claude)+":"+os.Getenv("PATH"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if uerr := json.Unmarshal(out, &report); uerr != nil {
		return errors.Join(err, uerr)
	}
	h, c := report.Hub, report.Copying
	of := func(n, all int) string { return fmt.Sprintf("%d of %d", n, all) }
	row("runs that asked for a login (copying)", of(h.LoginsAsked, h.Runs), of(c.LoginsAsked, c.Runs), share(h.LoginsAsked, c.LoginsAsked))
	row("runs that did their work (copying)", of(h.Done, h.Runs), of(c.Done, c.Runs), share(h.Done, c.Done))
	row("spent tokens replayed (copying)", strconv.Itoa(h.SpentReplays), strconv.Itoa(c.SpentReplays), share(h.SpentReplays, c.SpentReplays))
	row("rotations on the way", strconv.Itoa(h.Rotations), strconv.Itoa(c.Rotations), 0)
	return nil
}

func share(a, b int) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// median sorts d.
func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/1e6) }

// resident is the resident memory of a process in bytes, as the kernel counts it.
func resident(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("the kernel does not say how much memory the process has")
}

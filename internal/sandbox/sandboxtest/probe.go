package sandboxtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// probeArg, as the first argument, makes the test binary a program for the
// inside; the second names it.
const probeArg = "sandbox-probe"

// Main runs the probe that the arguments ask for and ends the process, or
// returns if they ask for none. TestMain calls it.
func Main(args []string) {
	if len(args) < 3 || args[1] != probeArg {
		return
	}
	var answer any
	switch name, rest := args[2], args[3:]; name {
	case "self":
		answer = probeSelf(rest)
	case "search":
		answer = probeSearch(question[searchQuestion]())
	case "net":
		answer = probeNet(question[netQuestion]())
	case "calls":
		answer = probeCalls()
	case "modes":
		answer = probeModes()
	case "foreign-call":
		foreignCall()
		answer = "survived"
	case "hand-over":
		probeHandOver()
	case "eat":
		probeEat()
	case "burn":
		answer = probeBurn()
	case "forks":
		answer = probeForks(question[int]())
	default:
		fmt.Fprintf(os.Stderr, "no probe %q\n", name)
		os.Exit(2)
	}
	json.NewEncoder(os.Stdout).Encode(answer)
	syscall.Exit(0) // os.Exit takes a second under the race detector
}

// question reads what a probe is asked.
func question[Q any]() Q {
	var q Q
	if err := json.NewDecoder(os.Stdin).Decode(&q); err != nil {
		fmt.Fprintln(os.Stderr, "reading the question:", err)
		os.Exit(2)
	}
	return q
}

type selfAnswer struct {
	Args             [][]byte
	Env              []string
	Dir, Stdin       string
	Files            []string
	Blocked, Ignored string
}

func (a selfAnswer) arguments() []string {
	var args []string
	for _, arg := range a.Args {
		args = append(args, string(arg))
	}
	return args
}

// probeSelf tells what the process was given. Another program looks at its
// descriptors and signals, because Go has already made some of its own.
func probeSelf(args []string) selfAnswer {
	a := selfAnswer{Env: os.Environ()}
	for _, arg := range args {
		a.Args = append(a.Args, []byte(arg))
	}
	a.Dir, _ = os.Getwd()
	in, _ := io.ReadAll(os.Stdin)
	a.Stdin = string(in)
	status, _ := exec.Command("cat", "/proc/self/status").Output()
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "SigBlk":
			a.Blocked = value
		case "SigIgn":
			a.Ignored = value
		}
	}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		// What the shim left open is a pipe, a socket or a file; Go's own are not.
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(to, "anon_inode:") {
			a.Files = append(a.Files, e.Name())
		}
	}
	slices.Sort(a.Files)
	return a
}

// probeEat takes memory until something stops it, 1 GiB at the most.
func probeEat() {
	var kept [][]byte
	for range 128 {
		kept = append(kept, bytes.Repeat([]byte{1}, 8<<20))
		time.Sleep(5 * time.Millisecond) // so that a driver that counts can see it
	}
	fmt.Println("ate", len(kept)*8, "MiB")
	os.Exit(0)
}

// probeForks starts up to n processes and reports how many there were before the
// first that could not be started; then it stays, for a driver that counts.
func probeForks(n int) int {
	for i := range n {
		if err := exec.Command("sleep", "300").Start(); err != nil {
			return i
		}
	}
	time.Sleep(2 * time.Second)
	return n
}

// probeBurn keeps two processors busy for a while and returns how many it got.
func probeBurn() float64 {
	began := time.Now()
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for time.Since(began) < 1500*time.Millisecond {
			}
		})
	}
	all.Wait()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return -1
	}
	taken := time.Duration(used.Utime.Nano() + used.Stime.Nano())
	return taken.Seconds() / time.Since(began).Seconds()
}

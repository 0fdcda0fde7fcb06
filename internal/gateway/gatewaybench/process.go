package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/lease"
	"github.com/claude-hub/claude-hub/internal/usage"
)

// processes returns the target's process and its children.
func processes(t *target) []int {
	if t.cmd == nil {
		return nil
	}
	pid := t.cmd.Process.Pid
	pids := []int{pid}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // absent: none
	for f := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// cpuTime is what the target's processes have used so far.
func cpuTime(t *target) time.Duration {
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere
	var sum time.Duration
	for _, pid := range processes(t) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		for _, i := range []int{11, 12} { // utime, stime
			n, _ := strconv.Atoi(string(f[i]))
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

// memory is what the target's processes have for themselves, in KB.
func memory(t *target) int {
	sum := 0
	for _, pid := range processes(t) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[0], "Private_") {
				n, _ := strconv.Atoi(f[1])
				sum += n
			}
		}
	}
	return sum
}

// policyShare times what the gateway does beyond passing on, with the parts that
// it is made of: the lease's checks, the request's model, the answer's use.
func policyShare(k scale, t *table, hop float64) {
	book := lease.NewBook(nil)
	l, err := book.Issue(lease.Grant{Run: "r-bench", Profile: "p-bench", Limits: hub.Limits{
		Lifetime: time.Hour, Requests: 1 << 40, Tokens: 1 << 50, Cost: 1 << 50, Models: []string{"claude-*"}, Parallel: 8,
	}})
	if err != nil {
		return
	}
	defer l.Revoke()
	token := l.Token().Reveal()
	_, body, _ := bytes.Cut(prepare(&target{}, 1<<10, "json"), []byte("\r\n\r\n"))
	header := map[string]string{
		"anthropic-ratelimit-unified-status": "allowed", "anthropic-ratelimit-unified-5h-utilization": "0.31",
		"anthropic-ratelimit-unified-5h-reset": "1795000000", "anthropic-ratelimit-unified-5h-status": "allowed",
	}
	n := 0
	start, used := time.Now(), ownCPU()
	for time.Since(start) < time.Duration(k.policyMilliseconds)*time.Millisecond {
		if !l.Matches(token) || l.Err() != nil {
			return
		}
		asked, _ := usage.ParseRequest(body)
		model := asked.Model
		r, err := l.Begin(context.Background(), model)
		if err != nil {
			return
		}
		usage.ParseWindows(func(name string) string { return header[name] })
		m := usage.NewMeter("application/json", "", len(body))
		m.Feed([]byte(document))
		r.Record(model, m.Finish().Usage(model))
		r.End()
		n++
	}
	t.share("policy, CPU of a request", (ownCPU()-used).Seconds()*1e6/float64(n), hop, "µs")
}

// ownCPU is what this process has used so far.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

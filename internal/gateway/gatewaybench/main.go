// Command gatewaybench measures what the gateway adds to a request, beside nginx,
// Caddy, a stock httputil.ReverseProxy and no proxy at all: same machine, same
// upstream, rounds interleaved and shuffled. Every proxy injects the same
// header. Each line has a name, the gateway's value, a baseline's and the ratio.
//
//	go run ./internal/gateway/gatewaybench          # about four minutes
//	go run ./internal/gateway/gatewaybench -short   # half a minute
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "child" { // started by ourselves
		if err := child(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "gatewaybench:", err)
			os.Exit(1)
		}
		return
	}
	short := flag.Bool("short", false, "take half a minute, with less certain figures")
	only := flag.String("only", "", "run only the measurements whose name has this in it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *short, *only); err != nil {
		fmt.Fprintln(os.Stderr, "gatewaybench:", err)
		os.Exit(1)
	}
}

// scale is how much of each measurement is done.
type scale struct {
	rounds, perRound   int // of single requests
	bigRound           int // requests of 200 KB in a round
	streams, events    int // of the delay of events
	busyRounds         int
	busySeconds        float64
	idle               int // streams
	cut                int // streams
	policyMilliseconds int
}

var (
	full  = scale{rounds: 20, perRound: 400, bigRound: 150, streams: 100, events: 40, busyRounds: 4, busySeconds: 2, idle: 1000, cut: 10000, policyMilliseconds: 500}
	brief = scale{rounds: 5, perRound: 150, bigRound: 50, streams: 100, events: 10, busyRounds: 1, busySeconds: 0.7, idle: 1000, cut: 1000, policyMilliseconds: 100}
)

func run(ctx context.Context, short bool, only string) error {
	s := full
	if short {
		s = brief
	}
	set, err := startAll(ctx)
	if err != nil {
		return err
	}
	defer set.stop()
	t := newTable(set)
	for _, m := range []struct {
		name string
		do   func(context.Context, *parts, scale, *table) error
	}{
		{"latency", latency}, {"firstbyte", firstByte}, {"events", eventDelay},
		{"throughput", throughput}, {"memory", idleMemory}, {"cut", cutStreams},
	} {
		if !strings.Contains(m.name, only) {
			continue
		}
		if err := m.do(ctx, set, s, t); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// shuffled runs do for every target, rounds times, in another order each time.
func shuffled(ctx context.Context, targets []*target, rounds int, do func(*target) error) error {
	targets = slices.Clone(targets)
	for range rounds {
		rand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
		for _, t := range targets {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := do(t); err != nil {
				return named{t.name, err}
			}
		}
	}
	return nil
}

type named struct {
	name string
	err  error
}

func (n named) Error() string { return n.name + ": " + n.err.Error() }
func (n named) Unwrap() error { return n.err }

func quantile(d []time.Duration, q float64) time.Duration {
	slices.Sort(d)
	if len(d) == 0 {
		return 0
	}
	return d[min(int(q*float64(len(d))), len(d)-1)]
}

// samples are times by target.
type samples map[string][]time.Duration

// added prints what each target adds to direct.
func (s samples) added(t *table, name string, quantiles ...float64) {
	for _, q := range quantiles {
		direct := quantile(s["direct"], q)
		v := values{}
		for target, d := range s {
			if target != "direct" {
				v[target] = float64(quantile(d, q)-direct) / 1e3
			}
		}
		t.rows("added p"+strconv.Itoa(int(q*100))+" "+name, "µs", v)
	}
}

// latency is the time of single requests, one after the other.
func latency(ctx context.Context, s *parts, k scale, t *table) error {
	for _, size := range []struct {
		name     string
		bytes, n int
	}{{"1 KB", 1 << 10, k.perRound}, {"200 KB", 200 << 10, k.bigRound}} {
		all := samples{}
		err := shuffled(ctx, s.present(), k.rounds, func(tg *target) error {
			c, err := dial(tg)
			if err != nil {
				return err
			}
			defer func() { c.close() }()
			request := prepare(tg, size.bytes, "json")
			for i := range size.n + 5 {
				d, err := c.do(request)
				switch {
				case err != nil && tg.name == "gateway":
					return err
				case err != nil: // others cut some
					c.close()
					if c, err = dial(tg); err != nil {
						return err
					}
				case i >= 5: // the first ones make connections
					all[tg.name] = append(all[tg.name], d)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		t.row1("direct p50 "+size.name, float64(quantile(all["direct"], 0.5))/1e3, "µs")
		all.added(t, size.name, 0.5, 0.99)
	}
	return nil
}

// firstByte is the time to the first event of a stream.
func firstByte(ctx context.Context, s *parts, k scale, t *table) error {
	all := samples{}
	err := shuffled(ctx, s.present(), k.rounds, func(tg *target) error {
		request := prepare(tg, 1<<10, "sse 1 1ms")
		var c *client
		for i := range k.perRound/4 + 5 {
			if c == nil {
				var err error
				if c, err = dial(tg); err != nil {
					return err
				}
			}
			d, err := c.firstEvent(request)
			switch {
			case err != nil && tg.name == "gateway":
				return err
			case err != nil: // others cut some, see cutStreams
				c.c.Close()
				c = nil
			case i >= 5:
				all[tg.name] = append(all[tg.name], d)
			}
		}
		c.close()
		return nil
	})
	all.added(t, "SSE first byte", 0.5, 0.99)
	return err
}

func (c *client) firstEvent(request []byte) (time.Duration, error) {
	start := time.Now()
	res, err := c.open(request)
	if err != nil {
		return 0, err
	}
	br := bufio.NewReader(res.Body)
	if _, err := br.ReadBytes('\n'); err != nil {
		return 0, err
	}
	d := time.Since(start)
	_, err = br.WriteTo(discard{})
	return d, err
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// eventDelay is the time that an event takes, with many streams at once.
func eventDelay(ctx context.Context, s *parts, k scale, t *table) error {
	all := samples{}
	err := shuffled(ctx, s.present(), 2, func(tg *target) error {
		var mu sync.Mutex
		return together(k.streams, func(int) error {
			d, err := tg.delays("sse " + strconv.Itoa(k.events) + " 20ms")
			mu.Lock()
			all[tg.name] = append(all[tg.name], d...)
			mu.Unlock()
			if tg.name != "gateway" { // others cut some, see cutStreams
				err = nil
			}
			return err
		})
	})
	all.added(t, "delay of an event at "+strconv.Itoa(k.streams)+" streams", 0.5, 0.99)
	return err
}

func (t *target) delays(bench string) ([]time.Duration, error) {
	c, err := dial(t)
	if err != nil {
		return nil, err
	}
	defer c.close()
	res, err := c.open(prepare(t, 1<<10, bench))
	if err != nil {
		return nil, err
	}
	br := bufio.NewReader(res.Body)
	var out []time.Duration
	for {
		line, err := br.ReadBytes('\n')
		if bytes.HasPrefix(line, []byte("data: {\"type\":\"message_stop\"")) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		now := time.Now().UnixNano()
		_, text, ok := bytes.Cut(line, []byte(`"text":"`))
		if !ok {
			continue
		}
		sent, err := strconv.ParseInt(string(bytes.TrimRight(text, "\"}\n")), 10, 64)
		if err != nil {
			return out, err
		}
		out = append(out, time.Duration(now-sent))
	}
}

// together runs do n times at once and returns the first error.
func together(n int, do func(int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- do(i) }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// throughput is how many requests 32 connections get through, and what a
// request costs the proxy.
func throughput(ctx context.Context, s *parts, k scale, t *table) error {
	requests, seconds, cpu := values{}, values{}, values{}
	err := shuffled(ctx, s.present(), k.busyRounds, func(tg *target) error {
		request := prepare(tg, 1<<10, "json")
		before := cpuTime(tg)
		start := time.Now()
		end := start.Add(time.Duration(k.busySeconds * float64(time.Second)))
		var n atomic.Int64
		err := together(32, func(int) error {
			c, err := dial(tg)
			if err != nil {
				return err
			}
			defer func() { c.close() }()
			for time.Now().Before(end) {
				if _, err := c.do(request); err == nil {
					n.Add(1)
					continue
				} else if tg.name == "gateway" {
					return err
				}
				c.close() // others cut some
				if c, err = dial(tg); err != nil {
					return err
				}
			}
			return nil
		})
		requests[tg.name] += float64(n.Load())
		seconds[tg.name] += time.Since(start).Seconds()
		cpu[tg.name] += (cpuTime(tg) - before).Seconds()
		return err
	})
	rate, each := values{}, values{}
	for name := range requests {
		rate[name] = requests[name] / seconds[name]
		each[name] = cpu[name] / requests[name] * 1e6
	}
	delete(each, "direct")
	t.rows("requests/s at 32 connections", "/s", rate)
	t.rows("CPU of a request", "µs", each)
	if err == nil {
		policyShare(k, t, each["gateway"])
	}
	return err
}

// idleMemory is what an idle stream takes, in a fresh process.
func idleMemory(ctx context.Context, s *parts, k scale, t *table) error {
	v := values{}
	for _, tg := range s.present() {
		if tg.restart == nil {
			continue
		}
		if err := tg.restart(ctx); err != nil {
			return err
		}
		kb, err := memoryOfStreams(ctx, tg, k.idle)
		if err != nil {
			return named{tg.name, err}
		}
		v[tg.name] = kb
	}
	t.rows("memory of an idle stream at "+strconv.Itoa(k.idle), "KB", v)
	return nil
}

func memoryOfStreams(ctx context.Context, tg *target, n int) (float64, error) {
	var open []*client
	defer func() {
		for _, c := range open {
			c.c.Close()
		}
	}()
	request := prepare(tg, 16<<10, "sse 1 1h") // about what is held while nothing comes
	stream := func() error {
		c, err := dial(tg)
		if err != nil {
			return err
		}
		open = append(open, c)
		res, err := c.open(request)
		if err != nil {
			return err
		}
		_, err = bufio.NewReader(res.Body).ReadBytes('\n')
		return err
	}
	for range 10 { // what the first ones take is not a stream's
		if err := stream(); err != nil {
			return 0, err
		}
	}
	before := memory(tg)
	for range n {
		if err := stream(); err != nil {
			return 0, err
		}
	}
	select {
	case <-time.After(500 * time.Millisecond):
	case <-ctx.Done():
	}
	return float64(memory(tg)-before) / float64(n), nil
}

// cutStreams counts streams that end early: half of them are of an upstream that
// answers before it has read the request. Connections are kept, as clients do.
func cutStreams(ctx context.Context, s *parts, k scale, t *table) error {
	v := values{}
	err := shuffled(ctx, s.present(), 1, func(tg *target) error {
		small, big := prepare(tg, 1<<10, "sse 1 1ms"), prepare(tg, 100<<10, "early 2 1ms")
		var next, cut atomic.Int64
		some := func(upTo int) error {
			var c *client
			defer func() { c.close() }()
			for n := next.Add(1); n <= int64(upTo) && ctx.Err() == nil; n = next.Add(1) {
				if c == nil {
					var err error
					if c, err = dial(tg); err != nil {
						return err
					}
				}
				request := small
				if n%2 == 0 {
					request = big
				}
				if err := c.whole(request); err != nil {
					cut.Add(1)
					c.close()
					c = nil
				}
			}
			next.Add(-1)
			return nil
		}
		if err := some(k.cut / 5); err != nil { // one at a time
			return err
		}
		err := together(50, func(int) error { return some(k.cut) })
		v[tg.name] = float64(cut.Load())
		return err
	})
	t.rows("cut streams of "+strconv.Itoa(k.cut), "", v)
	return err
}

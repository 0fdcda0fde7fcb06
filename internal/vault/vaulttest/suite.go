// Package vaulttest is the contract of [vault.Backend] as a test suite, with a
// backend in memory and one that fails on demand.
//
// A new backend is held to the contract by one test:
//
//	vaulttest.Run(t, func(t *testing.T) func() vault.Backend {
//		dir := t.TempDir()
//		…
//		return func() vault.Backend { … open the store in dir … }
//	})
package vaulttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// Fresh makes a new, empty store and returns what opens it. Each call of that is
// another handle on the same store, as another process would have.
type Fresh func(t *testing.T) (open func() vault.Backend)

// Run holds a backend to its contract.
func Run(t *testing.T, fresh Fresh) {
	for _, tc := range []struct {
		name string
		test func(*testing.T, func() vault.Backend)
	}{
		{"what is created is what is read", createAndGet},
		{"a second create changes nothing", createTwice},
		{"of 16 racers one wins", race},
		{"a reader finds all or nothing", wholeReads},
		{"a missing key is not found", missing},
		{"get is bounded", bounded},
		{"list is sorted and keeps to its prefix", list},
		{"delete removes, and absent is fine", remove},
		{"keys are bounded", keys},
		{"a context that has ended does nothing", cancelled},
		{"another handle sees the same", handles},
		{"exists agrees with get", exists},
		{"of 16 lockers one is inside", locks},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, fresh(t)) })
	}
}

const big = 1 << 30

func create(t *testing.T, b vault.Backend, key, data string) {
	t.Helper()
	if err := b.Create(t.Context(), key, []byte(data)); err != nil {
		t.Fatalf("Create(%s): %v", key, err)
	}
}

func mustHave(t *testing.T, b vault.Backend, key, want string) {
	t.Helper()
	got, err := b.Get(t.Context(), key, big)
	if err != nil || string(got) != want {
		t.Errorf("Get(%s) = %.40q (%d bytes), %v; want %.40q (%d bytes)", key, got, len(got), err, want, len(want))
	}
}

func mustList(t *testing.T, b vault.Backend, prefix string, want ...string) {
	t.Helper()
	got, err := b.List(t.Context(), prefix)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("List(%q) = %q, %v; want %q", prefix, got, err, want)
	}
}

func createAndGet(t *testing.T, open func() vault.Backend) {
	b := open()
	every := make([]byte, 0, 256)
	for i := range 256 {
		every = append(every, byte(i))
	}
	for key, data := range map[string]string{
		"top": "", "a/b": string(every), "a/c/d": strings.Repeat("0123456789abcdef", 5<<16), "0/1/2/3": "\n",
	} {
		create(t, b, key, data)
		mustHave(t, b, key, data)
		mustHave(t, open(), key, data)
	}
	// The backend keeps no hold of the caller's bytes, nor the caller of its.
	mine := []byte("mine")
	if err := b.Create(t.Context(), "copy", mine); err != nil {
		t.Fatal(err)
	}
	mine[0] = 'M'
	got, err := b.Get(t.Context(), "copy", big)
	if err != nil {
		t.Fatal(err)
	}
	got[1] = 'I'
	mustHave(t, b, "copy", "mine")
}

func createTwice(t *testing.T, open func() vault.Backend) {
	b := open()
	create(t, b, "k/1", "first")
	for _, data := range []string{"second", "first", ""} {
		if err := b.Create(t.Context(), "k/1", []byte(data)); !errors.Is(err, hub.ErrExists) {
			t.Errorf("Create again with %q: %v; want ErrExists", data, err)
		}
		mustHave(t, b, "k/1", "first")
	}
}

// race lets 16 writers with 4 handles go for the same key, round after round.
func race(t *testing.T, open func() vault.Backend) {
	const racers, rounds, handleCount = 16, 25, 4
	handles := make([]vault.Backend, handleCount)
	for i := range handles {
		handles[i] = open()
	}
	for round := range rounds {
		key := fmt.Sprintf("race/%03d", round)
		errs := make([]error, racers)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range racers {
			wg.Go(func() {
				<-start
				errs[i] = handles[i%handleCount].Create(context.Background(), key, []byte(fmt.Sprint("racer ", i)))
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("%s: racers %d and %d both won", key, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, hub.ErrExists):
				t.Fatalf("%s: racer %d: %v; want ErrExists", key, i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("%s: nobody won", key)
		}
		mustHave(t, handles[0], key, fmt.Sprint("racer ", winner))
	}
}

// wholeReads reads while large records are written.
func wholeReads(t *testing.T, open func() vault.Backend) {
	const n, size = 8, 1 << 20
	writer, reader := open(), open()
	done := make(chan error, 1)
	go func() {
		for i := range n {
			if err := writer.Create(context.Background(), fmt.Sprintf("whole/%d", i), bytes.Repeat([]byte{byte(i)}, size)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for finished := false; !finished; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			finished = true
		default:
		}
		keys, err := reader.List(t.Context(), "whole/")
		if err != nil {
			t.Fatal(err)
		}
		for i, key := range keys {
			data, err := reader.Get(t.Context(), key, big)
			if err != nil || len(data) != size || bytes.Count(data, []byte{byte(i)}) != size {
				t.Fatalf("%s, which is listed, has %d bytes, %v; want %d", key, len(data), err, size)
			}
		}
	}
}

func missing(t *testing.T, open func() vault.Backend) {
	b := open()
	create(t, b, "there/is/one", "x")
	for _, key := range []string{"absent", "there", "there/is", "there/is/two", "there/is/one/more"} {
		if _, err := b.Get(t.Context(), key, big); !errors.Is(err, hub.ErrNotFound) {
			t.Errorf("Get(%s): %v; want ErrNotFound", key, err)
		}
	}
}

func bounded(t *testing.T, open func() vault.Backend) {
	b := open()
	create(t, b, "k", "0123456789")
	if _, err := b.Get(t.Context(), "k", 9); !errors.Is(err, hub.ErrTooLarge) {
		t.Errorf("Get of 10 bytes with a limit of 9: %v; want ErrTooLarge", err)
	}
	if got, err := b.Get(t.Context(), "k", 10); err != nil || len(got) != 10 {
		t.Errorf("Get of 10 bytes with a limit of 10: %q, %v", got, err)
	}
}

func list(t *testing.T, open func() vault.Backend) {
	b := open()
	mustList(t, b, "")
	mustList(t, b, "a/")
	for _, key := range []string{"b", "a/2", "a/1/x", "a-b/1", "a/10", "ab/1", "a_", "a/1/w"} {
		create(t, b, key, "x")
	}
	mustList(t, b, "", "a-b/1", "a/1/w", "a/1/x", "a/10", "a/2", "a_", "ab/1", "b")
	mustList(t, b, "a/", "a/1/w", "a/1/x", "a/10", "a/2")
	mustList(t, b, "a/1/", "a/1/w", "a/1/x")
	mustList(t, b, "z/")
}

func remove(t *testing.T, open func() vault.Backend) {
	b := open()
	for _, key := range []string{"a/1", "a/2", "a/3", "b/1"} {
		create(t, b, key, "old")
	}
	if err := b.Delete(t.Context(), "a/1", "a/9", "b/1", "nowhere/1"); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	mustList(t, open(), "", "a/2", "a/3")
	if _, err := b.Get(t.Context(), "a/1", big); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("Get of what was removed: %v; want ErrNotFound", err)
	}
	if err := b.Delete(t.Context(), "a/1"); err != nil {
		t.Errorf("Delete again: %v", err)
	}
	if err := b.Delete(t.Context()); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	create(t, b, "a/1", "new")
	mustHave(t, b, "a/1", "new")
}

func keys(t *testing.T, open func() vault.Backend) {
	b := open()
	longest := strings.Repeat("x", 64) + "/" + strings.Repeat("y", 64) + "/" + strings.Repeat("z", 28) + "/0"
	create(t, b, longest, "x")
	mustHave(t, b, longest, "x")
	mustList(t, b, "", longest)
	for _, key := range []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "../a", "a/..", "a.b", ".tmp-a", "-a", "_a", "A", "a b", "a\x00", "a\n", "ä", "a\\b", "%2f",
		"a/b/c/d/e", strings.Repeat("x", 65), longest + "1234",
	} {
		_, getErr := b.Get(t.Context(), key, big)
		for what, err := range map[string]error{
			"Create": b.Create(t.Context(), key, []byte("x")), "Get": getErr, "Delete": b.Delete(t.Context(), key),
		} {
			if !errors.Is(err, hub.ErrInvalid) {
				t.Errorf("%s(%q): %v; want ErrInvalid", what, key, err)
			}
		}
	}
	for _, prefix := range []string{"/", "a", "../", "a//", "A/"} {
		if _, err := b.List(t.Context(), prefix); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("List(%q): %v; want ErrInvalid", prefix, err)
		}
	}
}

func cancelled(t *testing.T, open func() vault.Backend) {
	b := open()
	create(t, b, "a", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := b.Get(ctx, "a", big)
	_, listErr := b.List(ctx, "")
	_, lockErr := b.Lock(ctx)
	for what, err := range map[string]error{
		"Create": b.Create(ctx, "b", nil), "Get": getErr, "List": listErr, "Delete": b.Delete(ctx, "a"), "Lock": lockErr,
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v; want context.Canceled", what, err)
		}
	}
	mustList(t, b, "", "a")
}

func handles(t *testing.T, open func() vault.Backend) {
	one, two := open(), open()
	create(t, one, "k/1", "x")
	mustHave(t, two, "k/1", "x")
	if err := two.Delete(t.Context(), "k/1"); err != nil {
		t.Fatal(err)
	}
	mustList(t, one, "")
	create(t, two, "k/2", "y")
	mustList(t, one, "k/", "k/2")
}

func exists(t *testing.T, open func() vault.Backend) {
	p, ok := open().(vault.Prober)
	if !ok {
		return // it need not be one
	}
	create(t, open(), "a/b", "x")
	for key, want := range map[string]bool{"a/b": true, "a": false, "a/c": false, "a/b/c": false, "z/z": false} {
		if got, err := p.Exists(t.Context(), key); got != want || err != nil {
			t.Errorf("Exists(%s) = %v, %v; want %v", key, got, err, want)
		}
	}
	if _, err := p.Exists(t.Context(), "../a"); !errors.Is(err, hub.ErrInvalid) {
		t.Errorf("Exists(../a): %v; want ErrInvalid", err)
	}
}

func locks(t *testing.T, open func() vault.Backend) {
	var inside, most, times atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			unlock, err := open().Lock(t.Context())
			if err != nil {
				t.Errorf("Lock: %v", err)
				return
			}
			defer unlock()
			times.Add(1)
			if n := inside.Add(1); n > most.Load() {
				most.Store(n)
			}
			for range 100 { // so that somebody else would come in, if they could
				runtime.Gosched()
			}
			inside.Add(-1)
		})
	}
	wg.Wait()
	if most.Load() != 1 || times.Load() != 16 {
		t.Errorf("%d were inside at once, %d in all; want 1 and 16", most.Load(), times.Load())
	}
	b := open()
	unlock, err := b.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	create(t, b, "a/b", "x") // it keeps nobody else out
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(errors.New("no more patience")) })
	if _, err := open().Lock(ctx); !errors.Is(err, hub.ErrLocked) {
		t.Errorf("while it is locked: %v; want ErrLocked", err)
	}
	unlock()
	unlock, err = open().Lock(t.Context())
	if err != nil {
		t.Fatalf("after the unlock: %v", err)
	}
	unlock()
	mustList(t, b, "", "a/b") // the lock is no record
}

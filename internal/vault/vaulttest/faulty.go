package vaulttest

import (
	"context"
	"strings"
	"sync"

	"github.com/claude-hub/claude-hub/internal/vault"
)

// Op names a method of [vault.Backend].
type Op string

// The methods of a backend.
const (
	OpCreate Op = "create"
	OpGet    Op = "get"
	OpList   Op = "list"
	OpDelete Op = "delete"
	OpLock   Op = "lock"
)

// Fault is a failure to be had. A backend that fails before the effect has not
// stored or removed anything; one that fails after it has, and the caller does
// not know.
type Fault struct {
	Op    Op     // empty: any
	Key   string // a part of the key or prefix; empty: any
	After bool   // fail after the effect, not before it
	Times int    // how often; 0 is until Clear
	Err   error  // what the caller gets
	Do    func() // called at that point, if not nil; with a nil Err the call then goes on
}

// Call is a call that a Faulty has seen.
type Call struct {
	Op  Op
	Key string
}

// Faulty is a [vault.Backend] that fails on demand. It is no [vault.Prober].
type Faulty struct {
	backend vault.Backend

	mu     sync.Mutex
	faults []*Fault // guarded by mu
	calls  []Call   // guarded by mu
}

// NewFaulty wraps b.
func NewFaulty(b vault.Backend) *Faulty { return &Faulty{backend: b} }

// Inject adds a fault. Of several that fit, the earliest counts.
func (f *Faulty) Inject(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault)
}

// Clear removes all faults and forgets the calls so far.
func (f *Faulty) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults, f.calls = nil, nil
}

// Calls returns the calls since the last Clear, in order.
func (f *Faulty) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Call(nil), f.calls...)
}

// fail returns the error of the fault that is due, and uses it up.
func (f *Faulty) fail(op Op, key string, after bool) error {
	fault := f.due(op, key, after)
	if fault == nil {
		return nil
	}
	if fault.Do != nil {
		fault.Do()
	}
	return fault.Err
}

func (f *Faulty) due(op Op, key string, after bool) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !after {
		f.calls = append(f.calls, Call{op, key})
	}
	for i, fault := range f.faults {
		if fault.After != after || fault.Op != "" && fault.Op != op || !strings.Contains(key, fault.Key) {
			continue
		}
		if fault.Times == 1 {
			f.faults = append(f.faults[:i:i], f.faults[i+1:]...)
		}
		fault.Times = max(fault.Times-1, 0)
		return fault
	}
	return nil
}

// call runs do between the two points at which it can fail.
func (f *Faulty) call(op Op, key string, do func() error) error {
	if err := f.fail(op, key, false); err != nil {
		return err
	}
	err := do()
	if fault := f.fail(op, key, true); fault != nil {
		return fault
	}
	return err
}

// Create implements [vault.Backend].
func (f *Faulty) Create(ctx context.Context, key string, data []byte) error {
	return f.call(OpCreate, key, func() error { return f.backend.Create(ctx, key, data) })
}

// Get implements [vault.Backend].
func (f *Faulty) Get(ctx context.Context, key string, limit int64) (data []byte, err error) {
	err = f.call(OpGet, key, func() (err error) { data, err = f.backend.Get(ctx, key, limit); return err })
	if err != nil {
		return nil, err
	}
	return data, nil
}

// List implements [vault.Backend].
func (f *Faulty) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = f.call(OpList, prefix, func() (err error) { keys, err = f.backend.List(ctx, prefix); return err })
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// Delete implements [vault.Backend]. Each key is a call of its own, so that it
// can fail between two.
func (f *Faulty) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := f.call(OpDelete, key, func() error { return f.backend.Delete(ctx, key) }); err != nil {
			return err
		}
	}
	return nil
}

// Lock implements [vault.Backend].
func (f *Faulty) Lock(ctx context.Context) (unlock func(), err error) {
	err = f.call(OpLock, "", func() (err error) { unlock, err = f.backend.Lock(ctx); return err })
	if err != nil {
		if unlock != nil {
			unlock()
		}
		return nil, err
	}
	return unlock, nil
}

package vaulttest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// Memory is a [vault.Backend] for tests that need no disk.
type Memory struct {
	mu   sync.Mutex
	data map[string][]byte // guarded by mu
	lock chan struct{}     // holds one while somebody has the lock
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{data: map[string][]byte{}, lock: make(chan struct{}, 1)} }

// Create implements [vault.Backend].
func (m *Memory) Create(ctx context.Context, key string, data []byte) error {
	if err := cmp.Or(ctx.Err(), vault.CheckKey(key)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.data[key]; ok {
		return fmt.Errorf("storing %s: %w", key, hub.ErrExists)
	}
	m.data[key] = bytes.Clone(data)
	return nil
}

// Get implements [vault.Backend].
func (m *Memory) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := cmp.Or(ctx.Err(), vault.CheckKey(key)); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.data[key]
	if !ok {
		return nil, fmt.Errorf("reading %s: %w", key, hub.ErrNotFound)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("reading %s: %w", key, hub.ErrTooLarge)
	}
	return bytes.Clone(data), nil
}

// List implements [vault.Backend].
func (m *Memory) List(ctx context.Context, prefix string) ([]string, error) {
	if err := cmp.Or(ctx.Err(), vault.CheckPrefix(prefix)); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.Sorted(maps.Keys(m.data))
	return slices.DeleteFunc(keys, func(key string) bool { return !strings.HasPrefix(key, prefix) }), nil
}

// Delete implements [vault.Backend].
func (m *Memory) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := cmp.Or(ctx.Err(), vault.CheckKey(key)); err != nil {
			return err
		}
		m.mu.Lock()
		delete(m.data, key)
		m.mu.Unlock()
	}
	return nil
}

// Lock implements [vault.Backend].
func (m *Memory) Lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case m.lock <- struct{}{}:
		return sync.OnceFunc(func() { <-m.lock }), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("locking: %w: %w", hub.ErrLocked, context.Cause(ctx))
	}
}

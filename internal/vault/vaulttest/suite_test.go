package vaulttest_test

import (
	"errors"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
	"github.com/claude-hub/claude-hub/internal/vault/vaulttest"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	vaulttest.Run(t, func(*testing.T) func() vault.Backend {
		m := vaulttest.NewMemory()
		return func() vault.Backend { return m }
	})
}

func TestFaultyWithoutFaultsKeepsTheContract(t *testing.T) {
	vaulttest.Run(t, func(*testing.T) func() vault.Backend {
		m := vaulttest.NewMemory()
		return func() vault.Backend { return vaulttest.NewFaulty(m) }
	})
}

func TestFaultyFailsBeforeAndAfterTheEffect(t *testing.T) {
	f := vaulttest.NewFaulty(vaulttest.NewMemory())
	boom := errors.New("boom")
	f.Inject(vaulttest.Fault{Op: vaulttest.OpCreate, Key: "a", Times: 1, Err: boom})
	if err := f.Create(t.Context(), "a", nil); !errors.Is(err, boom) {
		t.Errorf("before: %v", err)
	}
	if _, err := f.Get(t.Context(), "a", 1); !errors.Is(err, hub.ErrNotFound) {
		t.Errorf("a fault before the effect stored something: %v", err)
	}
	f.Inject(vaulttest.Fault{Op: vaulttest.OpCreate, Key: "a", After: true, Times: 1, Err: boom})
	if err := f.Create(t.Context(), "b", nil); err != nil {
		t.Errorf("another key: %v", err)
	}
	if err := f.Create(t.Context(), "a", nil); !errors.Is(err, boom) {
		t.Errorf("after: %v", err)
	}
	if _, err := f.Get(t.Context(), "a", 1); err != nil {
		t.Errorf("a fault after the effect stored nothing: %v", err)
	}
	if n := len(f.Calls()); n != 5 {
		t.Errorf("%d calls seen; want 5", n)
	}
}

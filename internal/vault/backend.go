package vault

import (
	"context"
	"fmt"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Backend stores sealed records under keys. It sees ciphertext only. Every
// implementation passes the suite in vaulttest, and all methods may be called by
// many goroutines and processes at once.
//
// A key obeys [CheckKey]; any other is refused with hub.ErrInvalid. No caller uses
// both a key and one that continues it after a '/'. A method that is called with
// a context that has ended does nothing and returns its error.
type Backend interface {
	// Create stores data under key if nothing is there: of any number of
	// callers at once exactly one succeeds, and a reader finds all of the data
	// or nothing. On return the data survives a loss of power. If something is
	// there already it returns hub.ErrExists, and then that survives too.
	//
	// After any other error the data may be stored or not. Create with the same
	// arguments again finds out: either it stores it now, or hub.ErrExists says
	// that Get will tell whose data it is.
	Create(ctx context.Context, key string, data []byte) error

	// Get returns what is stored under key, hub.ErrNotFound if nothing is, and
	// hub.ErrTooLarge, without reading it all, if it has more than limit bytes.
	Get(ctx context.Context, key string, limit int64) ([]byte, error)

	// List returns all keys that start with prefix, sorted. The prefix is empty
	// or ends in '/'. A prefix with no keys is not an error.
	List(ctx context.Context, prefix string) ([]string, error)

	// Delete removes keys in the order given; one that is absent is fine. On
	// return the removal survives a loss of power.
	Delete(ctx context.Context, keys ...string) error

	// Lock waits until nobody else, in this process or another, has the lock of
	// this store, and takes it until unlock is called or the process ends. It
	// keeps out other callers of Lock, and nobody else.
	Lock(ctx context.Context) (unlock func(), err error)
}

// Prober is for backends that can tell faster than by List whether a key is
// there. [Vault.Newer] makes use of it.
type Prober interface {
	Exists(ctx context.Context, key string) (bool, error)
}

// The bounds of a key.
const (
	maxKey     = 160
	maxElement = 64
	maxDepth   = 4
)

// CheckKey accepts 1 to 4 elements joined by '/', each of 1 to 64 characters of
// a-z, 0-9, '-' and '_' of which the first is a letter or a digit; 160 characters
// in all. Such a key is safe as a path, as an object name and in SQL.
func CheckKey(key string) error {
	elements := strings.Split(key, "/")
	ok := len(key) <= maxKey && len(elements) <= maxDepth
	for _, e := range elements {
		ok = ok && isElement(e)
	}
	if !ok {
		return fmt.Errorf("%w: %.200q is not a vault key", hub.ErrInvalid, key)
	}
	return nil
}

// CheckPrefix accepts what List takes: nothing, or a key followed by '/'.
func CheckPrefix(prefix string) error {
	key, ok := strings.CutSuffix(prefix, "/")
	if prefix != "" && (!ok || CheckKey(key) != nil) {
		return fmt.Errorf("%w: %.200q is not a prefix of vault keys", hub.ErrInvalid, prefix)
	}
	return nil
}

func isElement(s string) bool {
	if len(s) == 0 || len(s) > maxElement {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alphanumeric := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || c != '-' && c != '_') {
			return false
		}
	}
	return true
}

package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// FileBackend keeps each record in a file of its own below one directory, with
// mode 0600 in directories of mode 0700. Any number of processes may use the
// directory at once, on a local file system.
type FileBackend struct {
	dir  string
	disk disk

	mu    sync.Mutex
	ready map[string]bool // guarded by mu: directories known to be there and durable
}

// The format file says that a directory is a vault, and of which layout.
const (
	formatName    = "format"
	formatText    = "claude-hub-vault 1\n"
	formatVersion = 1
)

// lockName is the file that [FileBackend.Lock] locks. It is no key.
const lockName = ".lock"

// Init makes the directory dir into an empty vault. It may be absent, empty, or
// what an Init that was killed has left; a vault is hub.ErrExists, and anything
// else is refused.
func Init(dir string) error { return initDir(disk{}, dir) }

func initDir(d disk, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("making the vault: %w", err)
	}
	if err := d.mkdirAll(dir); err != nil {
		return fmt.Errorf("making the vault: %w", err)
	}
	if err := checkDir(dir); err != nil {
		return fmt.Errorf("making the vault: %w", err)
	}
	if err := checkEmpty(dir); err != nil {
		return fmt.Errorf("making the vault: %w", err)
	}
	if err := sweep(dir); err != nil {
		return fmt.Errorf("making the vault: %w", err)
	}
	// The file is written whole or not at all, and makes the directory a vault.
	err = d.create(filepath.Join(dir, formatName), []byte(formatText))
	if errors.Is(err, fs.ErrExist) {
		err = hub.Hint(fmt.Errorf("%w: %s is a vault already", hub.ErrExists, dir), "go on with `claude-hub login`")
	}
	if err != nil {
		return fmt.Errorf("making the vault: %w", err)
	}
	return nil
}

// checkEmpty accepts a vault, and otherwise nothing but what an Init that was
// killed has left.
func checkEmpty(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, formatName)); err == nil {
		return nil // a vault: create will say so
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			return hub.Hint(fmt.Errorf("%w: %s has %q in it and is no vault", hub.ErrRefused, dir, e.Name()), "name an empty directory")
		}
	}
	return nil
}

// Open opens the vault that Init made, and creates nothing. It removes temporary
// files of writers that have died.
func Open(dir string) (*FileBackend, error) {
	b, err := Look(dir)
	if err == nil {
		err = sweep(b.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the vault: %w", err)
	}
	return b, nil
}

// Look is Open for somebody who changes nothing: temporary files stay.
func Look(dir string) (*FileBackend, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	err = checkDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hub.Hint(fmt.Errorf("%w: there is no directory %s", hub.ErrNotFound, dir), initHint)
	}
	if err == nil {
		err = checkFormat(dir)
	}
	if err != nil {
		return nil, err
	}
	return &FileBackend{dir: dir, ready: map[string]bool{}}, nil
}

const initHint = "make one with `claude-hub init`, or correct CLAUDE_HUB_DIR"

func checkFormat(dir string) error {
	text, err := readFile(filepath.Join(dir, formatName), 100)
	if errors.Is(err, hub.ErrNotFound) {
		return hub.Hint(fmt.Errorf("%w: %s is not a vault", hub.ErrNotFound, dir), initHint)
	}
	if err != nil {
		return err
	}
	number, ok := strings.CutPrefix(string(text), "claude-hub-vault ")
	number, _, _ = strings.Cut(number, "\n")
	version, err := strconv.ParseUint(number, 10, 32)
	switch {
	case ok && err == nil && version > formatVersion:
		return newer(fmt.Sprintf("%s has format %d", dir, version))
	case string(text) != formatText:
		return hub.Hint(fmt.Errorf("%w: the format file in %s says %.40q", hub.ErrFormat, dir, text), "restore the vault from a backup")
	}
	return nil
}

// Create implements [Backend].
func (b *FileBackend) Create(ctx context.Context, key string, data []byte) error {
	path, err := b.path(ctx, key)
	if err != nil {
		return err
	}
	if err := b.makeReady(filepath.Dir(path)); err != nil {
		return fmt.Errorf("storing %s: %w", key, err)
	}
	err = b.disk.create(path, data)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("storing %s: %w", key, hub.ErrExists)
	}
	if err != nil {
		return hub.Hint(fmt.Errorf("storing %s: %w", key, err), diskHint(err))
	}
	return nil
}

func diskHint(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return "make room on the disk of the vault; nothing was stored, and nothing is lost"
	case errors.Is(err, syscall.EROFS):
		return "the vault's file system is read-only: mount it for writing, or look in the kernel log for a disk error"
	}
	return "see to the disk of the vault"
}

// makeReady makes the directories of a record, durably. A process does so once
// for each, because the one that made them may have died before its fsync.
func (b *FileBackend) makeReady(dir string) error {
	b.mu.Lock()
	ready := b.ready[dir]
	b.mu.Unlock()
	if ready || dir == b.dir {
		return nil
	}
	if err := b.makeReady(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := b.disk.mkdir(dir); err != nil {
		return err
	}
	b.mu.Lock()
	b.ready[dir] = true
	b.mu.Unlock()
	return nil
}

// Get implements [Backend].
func (b *FileBackend) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	path, err := b.path(ctx, key)
	if err != nil {
		return nil, err
	}
	data, err := readFile(path, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	return data, nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, hub.ErrNotFound
	}
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%w: %s is a symbolic link", hub.ErrRefused, path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, hub.ErrNotFound
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a file", hub.ErrRefused, path)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%w: %d bytes (%d are allowed)", hub.ErrTooLarge, info.Size(), limit)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	return data, nil
}

// List implements [Backend].
func (b *FileBackend) List(ctx context.Context, prefix string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := CheckPrefix(prefix); err != nil {
		return nil, err
	}
	keys, err := b.list(nil, prefix)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", prefix, err)
	}
	slices.Sort(keys) // "a-b" comes before "a/b"
	return keys, nil
}

func (b *FileBackend) list(keys []string, prefix string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(b.dir, prefix))
	if errors.Is(err, fs.ErrNotExist) {
		return keys, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		key := prefix + e.Name()
		switch {
		case CheckKey(key) != nil: // a temporary file, or none of ours
		case e.Type().IsRegular() && key != formatName:
			keys = append(keys, key)
		case e.IsDir():
			if keys, err = b.list(keys, key+"/"); err != nil {
				return nil, err
			}
		}
	}
	return keys, nil
}

// Delete implements [Backend].
func (b *FileBackend) Delete(ctx context.Context, keys ...string) error {
	var dirs []string
	for _, key := range keys {
		path, err := b.path(ctx, key)
		if err != nil {
			return err
		}
		err = b.disk.step("delete", path, func() error { return os.Remove(path) })
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("removing %s: %w", key, err)
		}
		if dir := filepath.Dir(path); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		if err := b.disk.syncDir(dir); err != nil {
			return fmt.Errorf("removing: %w", err)
		}
	}
	return nil
}

// Exists implements [Prober]: one system call.
func (b *FileBackend) Exists(ctx context.Context, key string) (bool, error) {
	path, err := b.path(ctx, key)
	if err != nil {
		return false, err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return info.Mode().IsRegular(), nil
}

// Lock implements [Backend], by flock(2): the kernel lets go for a holder that
// dies.
func (b *FileBackend) Lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(b.dir, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, hub.Hint(fmt.Errorf("locking the vault: %w", err), diskHint(err))
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking the vault: %w", err)
		}
		select { // flock(2) itself can't be given a deadline
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("locking the vault: %w: %w", hub.ErrLocked, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// path returns the file of a key. The rule for keys leaves no way out of the
// directory; the format file is not a record.
func (b *FileBackend) path(ctx context.Context, key string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := CheckKey(key); err != nil {
		return "", err
	}
	if key == formatName {
		return "", fmt.Errorf("%w: %q is not a record", hub.ErrInvalid, key)
	}
	return filepath.Join(b.dir, key), nil
}

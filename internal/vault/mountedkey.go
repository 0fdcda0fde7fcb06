package vault

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// ReadMountedKey is ReadKey for a key file that a secret store has put somewhere:
// systemd's credentials, a container's secrets. Such a file may belong to root and be
// readable by its group; one that anybody else can read, or that others than its owner can write, is
// hub.ErrRefused.
func ReadMountedKey(path string) (Key, error) {
	text, err := readMounted(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading the key: %w", err)
	}
	key, err := parseKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("reading the key %s: %w", path, err)
	}
	return key, nil
}

func readMounted(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, hub.Hint(fmt.Errorf("%w: there is no key file %s", hub.ErrNotFound, path),
			"CLAUDE_HUB_KEY_FILE names it: see that the secret is mounted, or unset it if the key is in the hub's directory")
	case errors.Is(err, fs.ErrPermission):
		return nil, hub.Hint(fmt.Errorf("%w: %w", hub.ErrRefused, err), "have the file belong to the user that claude-hub runs as")
	case err != nil:
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, hub.Hint(fmt.Errorf("%w: %s is not a file", hub.ErrInvalid, path), malformedKey)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != os.Geteuid() {
		return nil, hub.Hint(fmt.Errorf("%w: %s belongs to user %d, and this is user %d", hub.ErrRefused, path, s.Uid, os.Geteuid()),
			fmt.Sprintf("run as that user, or: chown %d the file that it is mounted from", os.Geteuid()))
	}
	if mode := info.Mode().Perm(); mode&0o037 != 0 {
		return nil, hub.Hint(fmt.Errorf("%w: %s is open to other users (mode %04o)", hub.ErrRefused, path, mode),
			"chmod 0600 the file that it is mounted from")
	}
	return io.ReadAll(io.LimitReader(f, maxKeyFile+1))
}

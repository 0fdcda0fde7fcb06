package vault

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Key opens and seals the records of one vault. It does not print itself.
type Key struct {
	identity *age.X25519Identity
}

// maxKeyFile bounds a key file: a line of 74 characters and some comments.
const maxKeyFile = 4096

// CreateKey makes a new key and the file path that holds it, as age-keygen would
// write it: mode 0600, durable, never over an existing file (hub.ErrExists). The
// directory is made 0700 if it is absent; one that is open to others, a link or
// not ours is refused before anything is written.
func CreateKey(path string) (Key, error) { return createKey(disk{}, path) }

func createKey(d disk, path string) (Key, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Key{}, fmt.Errorf("making the key: %w", err)
	}
	if err := d.mkdirAll(filepath.Dir(path)); err != nil {
		return Key{}, fmt.Errorf("making the key: %w", err)
	}
	if err := checkDir(filepath.Dir(path)); err != nil {
		return Key{}, fmt.Errorf("making the key: %w", err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return Key{}, fmt.Errorf("making the key: %w", err)
	}
	text := fmt.Sprintf("# created: %s\n# public key: %s\n%s\n",
		time.Now().UTC().Format(time.RFC3339), identity.Recipient(), identity)
	err = d.create(path, []byte(text))
	if errors.Is(err, fs.ErrExist) {
		return Key{}, hub.Hint(fmt.Errorf("making the key: %w: %s", hub.ErrExists, path),
			"this hub has a key; without it its vault cannot be opened, so it is never replaced")
	}
	if err != nil {
		return Key{}, fmt.Errorf("making the key: %w", err)
	}
	return Key{identity}, nil
}

// ReadKey reads the file that CreateKey made. A missing file is hub.ErrNotFound;
// a link, another owner and a file open to others are hub.ErrRefused; anything
// but one age key is hub.ErrInvalid. Each has a hint.
func ReadKey(path string) (Key, error) {
	text, err := readPrivate(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading the key: %w", err)
	}
	key, err := parseKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("reading the key %s: %w", path, err)
	}
	return key, nil
}

// readPrivate reads a small file that must be ours alone. The checks are on the
// open file, so that what is checked is what is read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, hub.Hint(fmt.Errorf("%w: there is no key file %s", hub.ErrNotFound, path),
			"`claude-hub init` makes one for a new hub; for an existing vault put its key file back")
	case errors.Is(err, syscall.ELOOP):
		return nil, hub.Hint(fmt.Errorf("%w: %s is a symbolic link", hub.ErrRefused, path), "put the file itself there")
	case errors.Is(err, fs.ErrPermission):
		return nil, hub.Hint(fmt.Errorf("%w: %w", hub.ErrRefused, err), "run as the user whom the file belongs to")
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
	if err := checkOwner(path, info); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxKeyFile+1))
}

const malformedKey = "put the key file of this vault back; it has one line that starts with AGE-SECRET-KEY-1"

func parseKey(text []byte) (Key, error) {
	if len(text) > maxKeyFile {
		return Key{}, hub.Hint(fmt.Errorf("%w: it has more than %d bytes", hub.ErrInvalid, maxKeyFile), malformedKey)
	}
	var found []*age.X25519Identity
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		identity, err := age.ParseX25519Identity(line)
		if err != nil { // its text may quote the key
			return Key{}, hub.Hint(fmt.Errorf("%w: it has a line that is no age key", hub.ErrInvalid), malformedKey)
		}
		found = append(found, identity)
	}
	if len(found) != 1 {
		return Key{}, hub.Hint(fmt.Errorf("%w: it has %d keys; one is needed", hub.ErrInvalid, len(found)), malformedKey)
	}
	return Key{found[0]}, nil
}

// Recipient returns the public half, age1…, to which anybody can encrypt.
func (k Key) Recipient() string {
	if k.identity == nil {
		return ""
	}
	return k.identity.Recipient().String()
}

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k.identity == nil }

// macKey and id are derived from the key; knowing id tells nothing about it.
func (k Key) macKey() []byte { return k.derive("claude-hub-vault/1 mac", sha256.Size) }
func (k Key) id() string     { return hex.EncodeToString(k.derive("claude-hub-vault/1 id", 8)) }

func (k Key) derive(purpose string, n int) []byte {
	b, err := hkdf.Key(sha256.New, []byte(k.identity.String()), nil, purpose, n)
	if err != nil {
		panic("vault: deriving a key: " + err.Error()) // only for a length that SHA-256 cannot give
	}
	return b
}

const redacted = "[vault key]"

// String does not show the key, nor do the other ways to print it.
func (k Key) String() string { return redacted }

// GoString is String.
func (k Key) GoString() string { return redacted }

// Format is String, for every verb.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue is String.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON refuses.
func (k Key) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a vault key cannot be marshalled")
}

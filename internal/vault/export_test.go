package vault

import "github.com/claude-hub/claude-hub/internal/hub"

// Hook is called before and after each step on the disk.
type Hook = func(when, step, path string) error

func (b *FileBackend) SetHook(h Hook) { b.disk.hook = h }

func (b *FileBackend) Dir() string { return b.dir }

func InitWithHook(h Hook, dir string) error { return initDir(disk{hook: h}, dir) }

func CreateKeyWithHook(h Hook, path string) (Key, error) { return createKey(disk{hook: h}, path) }

func Sweep(dir string) error { return sweep(dir) }

// SealPlain seals any plaintext as v would, and OpenAs opens it as that record.
func (v *Vault) SealPlain(plain []byte) ([]byte, error) { return v.seal.sealPlain(plain) }

func (v *Vault) OpenAs(sealed []byte, p hub.ProfileID, k hub.Kind, g hub.Generation) (Record, error) {
	return v.seal.open(sealed, Record{Profile: p, Kind: k, Generation: g})
}

var (
	ParseKey  = parseKey
	RecordKey = recordKey
	NameKey   = nameKey
)

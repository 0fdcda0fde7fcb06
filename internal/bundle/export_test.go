package bundle

import (
	"bytes"

	"github.com/claude-hub/claude-hub/internal/vault"
)

// OpenPlain reads a bundle from the first byte after its encryption, which no fuzzer
// gets through.
func OpenPlain(plain []byte, key vault.Key, trusted []string) (Header, int, error) {
	r := bytes.NewReader(plain)
	h, err := openHeader(r, key, trusted)
	if err != nil {
		return Header{}, 0, err
	}
	parts, err := openParts(r, h)
	return h, len(parts), err
}

// ParseHeader reads the header line alone, which a trusted sender has signed.
func ParseHeader(head []byte, sender string) (Header, error) { return parseHeader(head, sender) }

// WriteFileWith is WriteFile with another rename that replaces nothing.
func WriteFileWith(path string, data []byte, rename func(from, to string) error) error {
	return writeFile(path, data, rename)
}

// ParseLedger reads what the hub remembers of imports.
func ParseLedger(b []byte) error {
	_, err := parseLedger(b)
	return err
}

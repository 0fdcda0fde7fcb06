package vault

import (
	"crypto/ed25519"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Sign signs a message of this hub to others, with an Ed25519 key that is derived
// from the hub's own. The caller starts every message with its purpose, so that
// none can be taken for one of another kind.
func (k Key) Sign(message []byte) []byte { return ed25519.Sign(k.signer(), message) }

// SigningKey returns the public half, by which others know this hub's messages.
// It tells nothing about the key, and is not the recipient.
func (k Key) SigningKey() ed25519.PublicKey {
	public, ok := k.signer().Public().(ed25519.PublicKey)
	if !ok {
		panic("vault: an Ed25519 key without its public half")
	}
	return public
}

func (k Key) signer() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(k.derive("claude-hub-vault/1 signing", ed25519.SeedSize))
}

// Decrypt returns a reader of what was encrypted to this hub's recipient. What
// was encrypted to others alone is hub.ErrRefused; what is no age file, or is cut
// off in its header, is hub.ErrFormat, and so is a later Read of what is damaged.
func (k Key) Decrypt(sealed io.Reader) (io.Reader, error) {
	plain, err := age.Decrypt(sealed, k.identity)
	if err == nil {
		return plain, nil
	}
	if _, ok := err.(*age.NoIdentityMatchError); ok { //nolint:errorlint // that is how age returns it
		return nil, fmt.Errorf("%w: encrypted to others, not to this hub", hub.ErrRefused)
	}
	return nil, fmt.Errorf("%w: %w", hub.ErrFormat, err)
}

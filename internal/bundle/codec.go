package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// A bundle is
//
//	claude-hub-bundle/1
//	<age ciphertext, to the recipients, of:
//	  sender, hubsig1…, newline
//	  Ed25519 signature, base64, of the first line and the header line, newline
//	  header as JSON, newline
//	  the parts that the header names, one after the other>
//
// The header holds the sizes and SHA-256 sums of the parts, so that the signature
// is over everything. It is parsed only after the signature was found to be that
// of a sender who is trusted.
const (
	magic         = "claude-hub-bundle/"
	formatVersion = 1
	firstLine     = magic + "1\n"

	maxHeader = 64 << 10
	maxParts  = 5
)

// The largest parts are what the vault takes.
var partLimits = map[hub.Kind]int64{
	hub.KindLogin: 1 << 20, hub.KindSetupToken: 1 << 20, hub.KindSnapshot: 256 << 20, hub.KindAccount: 64 << 10,
}

// maxBundle bounds a bundle: its parts, the header, and what encryption adds.
const maxBundle = 264 << 20

// Header is the signed part of a bundle. It holds no secret.
type Header struct {
	Bundle     string    `json:"bundle"`     // its ID, "b-…", which is never used again
	Sender     string    `json:"sender"`     // as FormatSender gives it
	Recipients []string  `json:"recipients"` // age1…
	Created    time.Time `json:"created"`
	// Moves says that the refresh token is in it, and that the importing hub is
	// the login's only writer from then on. Otherwise it is the access token only.
	Moves bool `json:"moves"`
	// Ends is until when the importing hub serves an access token that came alone;
	// zero with Moves.
	Ends       time.Time      `json:"ends,omitzero"`
	Profile    hub.Profile    `json:"profile"`    // as the sender has it
	Generation hub.Generation `json:"generation"` // of the login, at the sender
	Parts      []Part         `json:"parts"`
}

// Part is one record in a bundle.
type Part struct {
	Kind   hub.Kind `json:"kind"`
	Size   int64    `json:"size"`
	SHA256 string   `json:"sha256"` // hexadecimal
}

// IsBundle reports whether a file that begins with prefix is a bundle, of
// whatever version.
func IsBundle(prefix []byte) bool { return bytes.HasPrefix(prefix, []byte(magic)) }

const senderPrefix = "hubsig1"

var senderEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// FormatSender gives the public half of a signing key as the owner compares,
// copies and trusts it: hubsig1…, 59 characters.
func FormatSender(key ed25519.PublicKey) string {
	return senderPrefix + senderEncoding.EncodeToString(key)
}

// ParseSender reads what FormatSender gave; anything else is hub.ErrInvalid.
func ParseSender(s string) (ed25519.PublicKey, error) {
	key, err := senderEncoding.DecodeString(strings.TrimPrefix(s, senderPrefix))
	if err != nil || len(key) != ed25519.PublicKeySize || FormatSender(key) != s {
		return nil, hub.Hint(fmt.Errorf("%w: %.80q is not a sender", hub.ErrInvalid, s),
			"it is what `claude-hub key show` prints as sender on the hub that the bundle comes from: hubsig1…")
	}
	return key, nil
}

// ParseRecipient accepts the recipient of a hub, age1…; anything else is
// hub.ErrInvalid.
func ParseRecipient(s string) (age.Recipient, error) {
	r, err := age.ParseX25519Recipient(s)
	if err == nil && r.String() == s {
		return r, nil
	}
	hint := "it is what `claude-hub key show` prints as recipient on the hub that is to import: age1…"
	if strings.Contains(strings.ToUpper(s), "SECRET-KEY") {
		s, hint = "a secret key", "name the public key, age1…, and keep the secret one where it is"
	}
	return nil, hub.Hint(fmt.Errorf("%w: %.80q is not a recipient", hub.ErrInvalid, s), hint)
}

// record is a part with its bytes, which are secret.
type record struct {
	kind    hub.Kind
	payload []byte
}

// seal returns the bundle of a header, whose sender and parts it fills in.
func seal(key vault.Key, h Header, parts []record) ([]byte, error) {
	h.Sender = FormatSender(key.SigningKey())
	size := int64(0)
	for _, p := range parts {
		sum := sha256.Sum256(p.payload)
		h.Parts = append(h.Parts, Part{p.kind, int64(len(p.payload)), hex.EncodeToString(sum[:])})
		size += int64(len(p.payload))
	}
	head, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("sealing a bundle: %w", err)
	}
	if _, err := parseHeader(head, h.Sender); err != nil { // what we write, we read
		return nil, fmt.Errorf("sealing a bundle: %w", err)
	}
	recipients := make([]age.Recipient, len(h.Recipients))
	for i, text := range h.Recipients {
		if recipients[i], err = ParseRecipient(text); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	out.Grow(int(size + size/1024 + maxHeader))
	out.WriteString(firstLine)
	w, err := age.Encrypt(&out, recipients...)
	if err != nil {
		return nil, fmt.Errorf("sealing a bundle: %w", err)
	}
	signature := base64.StdEncoding.EncodeToString(key.Sign(signed(head)))
	if _, err := fmt.Fprintf(w, "%s\n%s\n%s\n", h.Sender, signature, head); err != nil {
		return nil, fmt.Errorf("sealing a bundle: %w", err)
	}
	for _, p := range parts {
		if _, err := w.Write(p.payload); err != nil {
			return nil, fmt.Errorf("sealing a bundle: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("sealing a bundle: %w", err)
	}
	return out.Bytes(), nil
}

// signed is what a sender signs: the format with its version, and the header.
func signed(head []byte) []byte { return append([]byte(firstLine), head...) }

// open returns what is in a bundle for this hub, from one of the trusted senders.
func open(sealed io.Reader, key vault.Key, trusted []string) (Header, []record, error) {
	limited := &io.LimitedReader{R: sealed, N: maxBundle + 1}
	if err := readFirstLine(limited); err != nil {
		return Header{}, nil, err
	}
	plain, err := key.Decrypt(limited)
	if errors.Is(err, hub.ErrRefused) {
		return Header{}, nil, hub.Hint(fmt.Errorf("%w: the bundle is for another hub", hub.ErrRefused),
			"have it made for this one: `claude-hub export --to "+key.Recipient()+"`")
	}
	if err != nil {
		return Header{}, nil, damaged("it can't be decrypted")
	}
	h, err := openHeader(plain, key, trusted)
	if err != nil {
		return Header{}, nil, err
	}
	parts, err := openParts(plain, h)
	if err != nil {
		return Header{}, nil, err
	}
	if limited.N <= 0 {
		return Header{}, nil, tooLarge(fmt.Sprintf("it has more than %d bytes", maxBundle))
	}
	return h, parts, nil
}

func readFirstLine(r io.Reader) error {
	line := make([]byte, len(firstLine))
	n, err := io.ReadFull(r, line)
	line = line[:n]
	switch {
	case string(line) == firstLine:
		return nil
	case !IsBundle(line):
		return hub.Hint(fmt.Errorf("%w: it is not a bundle of claude-hub", hub.ErrFormat), "give the file that `claude-hub export` wrote")
	case err != nil:
		return damaged("it is cut off")
	}
	version, _, _ := strings.Cut(string(line[len(magic):]), "\n")
	if n, err := strconv.Atoi(version); err != nil || n <= formatVersion {
		return damaged("its first line is malformed")
	}
	return hub.Hint(fmt.Errorf("%w: the bundle was written by a newer claude-hub", hub.ErrFormat), "update claude-hub on this machine")
}

// openHeader reads up to the end of the header line, and believes it.
func openHeader(plain io.Reader, key vault.Key, trusted []string) (Header, error) {
	sender, err := readLine(plain, len(senderPrefix)+senderEncoding.EncodedLen(ed25519.PublicKeySize))
	if err != nil {
		return Header{}, err
	}
	public, err := ParseSender(string(sender))
	if err != nil {
		return Header{}, damaged("it names no sender")
	}
	if !slices.Contains(trusted, string(sender)) {
		return Header{}, hub.Hint(fmt.Errorf("%w: the bundle says that it comes from %s, which is not a trusted sender", hub.ErrRefused, sender),
			"if `claude-hub key show` prints just that on the hub that sent it: import it with --from "+string(sender)+", or add it to trusted_senders in config.yaml")
	}
	line, err := readLine(plain, base64.StdEncoding.EncodedLen(ed25519.SignatureSize))
	if err != nil {
		return Header{}, err
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(string(line))
	if err != nil {
		return Header{}, damaged("its signature is malformed")
	}
	head, err := readLine(plain, maxHeader)
	if err != nil {
		return Header{}, err
	}
	if !ed25519.Verify(public, signed(head), signature) {
		return Header{}, hub.Hint(fmt.Errorf("%w: the bundle was not signed by %s", hub.ErrRefused, sender), "don't use it; ask its sender for another")
	}
	h, err := parseHeader(head, string(sender))
	if err != nil {
		return Header{}, err
	}
	if !slices.Contains(h.Recipients, key.Recipient()) {
		return Header{}, hub.Hint(fmt.Errorf("%w: its sender made the bundle for others, and somebody passed it on", hub.ErrRefused), "don't use it; ask its sender for another")
	}
	return h, nil
}

// readLine reads a line of at most limit bytes, without reading on.
func readLine(r io.Reader, limit int) ([]byte, error) {
	line := make([]byte, 0, min(limit, 512))
	var b [1]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, damaged("it is cut off, or was changed")
		}
		if b[0] == '\n' {
			return line, nil
		}
		if len(line) == limit {
			return nil, damaged("a line of it is too long")
		}
		line = append(line, b[0])
	}
}

// parseHeader reads a header strictly.
func parseHeader(head []byte, sender string) (Header, error) {
	var h Header
	d := json.NewDecoder(bytes.NewReader(head))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil || d.InputOffset() != int64(len(head)) || len(head) > maxHeader {
		return Header{}, damaged("its header is malformed, or of a newer claude-hub")
	}
	_, nameErr := hub.ParseProfileName(string(h.Profile.Name))
	switch {
	case h.Sender != sender, !isBundleID(h.Bundle), h.Created.IsZero(), h.Generation == 0, nameErr != nil, !isProfileID(h.Profile.ID):
		return Header{}, damaged("its header says too little")
	case h.Moves != h.Ends.IsZero():
		return Header{}, damaged("its header contradicts itself")
	case len(h.Recipients) == 0 || len(h.Recipients) > maxRecipients || h.Moves && len(h.Recipients) != 1:
		return Header{}, damaged(fmt.Sprintf("it has %d recipients", len(h.Recipients)))
	case h.Profile.Policy.Check() != nil:
		return Header{}, damaged("the policy of its profile is malformed")
	}
	return h, checkParts(h)
}

func checkParts(h Header) error {
	seen := map[hub.Kind]bool{}
	for _, p := range h.Parts {
		limit, known := partLimits[p.Kind]
		switch {
		case !known || seen[p.Kind] || len(h.Parts) > maxParts:
			return damaged(fmt.Sprintf("it holds a part %.40q that does not belong there", p.Kind))
		case p.Kind == hub.KindSetupToken && !h.Moves:
			return damaged("it holds a setup token beside an access token that ends")
		case p.Size <= 0:
			return damaged("it holds a part without a size")
		case p.Size > limit:
			return tooLarge(fmt.Sprintf("its %s has %d bytes (%d are allowed)", p.Kind, p.Size, limit))
		}
		seen[p.Kind] = true
	}
	if !seen[hub.KindLogin] {
		return damaged("it holds no login")
	}
	return nil
}

func openParts(plain io.Reader, h Header) ([]record, error) {
	parts := make([]record, 0, len(h.Parts))
	for _, p := range h.Parts {
		payload, err := io.ReadAll(io.LimitReader(plain, p.Size)) // grows with what is there, not with what is said
		if err != nil || int64(len(payload)) != p.Size {
			return nil, damaged("it is cut off, or was changed")
		}
		if sum := sha256.Sum256(payload); hex.EncodeToString(sum[:]) != p.SHA256 {
			return nil, damaged(fmt.Sprintf("its %s is not what its sender signed", p.Kind))
		}
		parts = append(parts, record{p.Kind, payload})
	}
	var end [1]byte
	if n, err := plain.Read(end[:]); n != 0 || !errors.Is(err, io.EOF) { // age's last word is an error where the end is missing
		return nil, damaged("it does not end where it should")
	}
	return parts, nil
}

func damaged(what string) error {
	return hub.Hint(fmt.Errorf("%w: the bundle is damaged: %s", hub.ErrFormat, what), "copy the file again, or ask its sender for another")
}

func tooLarge(what string) error {
	return hub.Hint(fmt.Errorf("%w: the bundle: %s", hub.ErrTooLarge, what), "don't use it; ask its sender for another")
}

const idAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789"

func isBundleID(s string) bool { return hasIDForm(s, "b-") }

func isProfileID(id hub.ProfileID) bool { return hasIDForm(string(id), "p-") }

func hasIDForm(s, prefix string) bool {
	rest, ok := strings.CutPrefix(s, prefix)
	return ok && rest != "" && len(rest) <= 40 && strings.Trim(rest, idAlphabet) == ""
}

package vault

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
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
)

// A sealed record is
//
//	claude-hub-vault/1
//	<key ID, 16 hex digits> <HMAC-SHA256 of all but this field, 64 hex digits>
//	<age ciphertext of:  header as JSON, newline, payload>
//
// age keeps others from reading, but anybody who knows the public key can write
// with it: the MAC, under a key that is derived from the secret half, says that
// the record is ours. The header says where it belongs, so that a record that was
// copied to another profile, kind or generation is refused. To rescue a record by
// hand with a recovery key: tail -n +3 FILE | age -d -i KEY
const (
	magic         = "claude-hub-vault/"
	recordVersion = 1
	firstLine     = magic + "1\n"
	keyIDLen      = 16
	macLen        = 2 * sha256.Size
	prefixLen     = len(firstLine) + keyIDLen + 1 + macLen + 1
	maxHeader     = 1024
	maxRecovery   = 16 // recovery recipients
)

// ErrWrongKey says that a record was sealed under another key than the vault's.
var ErrWrongKey = fmt.Errorf("%w: sealed under another key", hub.ErrRefused)

type header struct {
	Profile    hub.ProfileID  `json:"profile"`
	Kind       hub.Kind       `json:"kind"`
	Generation hub.Generation `json:"generation"`
	Created    time.Time      `json:"created"`
}

// sealer turns records into bytes and back.
type sealer struct {
	key        Key
	keyID      string
	macKey     []byte
	recipients []age.Recipient
}

func newSealer(k Key, recovery []string) (*sealer, error) {
	if k.IsZero() {
		return nil, fmt.Errorf("%w: no key", hub.ErrInvalid)
	}
	s := &sealer{key: k, keyID: k.id(), macKey: k.macKey(), recipients: []age.Recipient{k.identity.Recipient()}}
	if len(recovery) > maxRecovery {
		return nil, fmt.Errorf("%w: %d recovery recipients (%d are allowed)", hub.ErrInvalid, len(recovery), maxRecovery)
	}
	for _, text := range recovery {
		r, err := age.ParseX25519Recipient(strings.TrimSpace(text))
		if err != nil {
			hint := "a recovery recipient is the public key that `age-keygen` prints: age1…"
			if strings.Contains(strings.ToUpper(text), "SECRET-KEY") {
				text, hint = "a secret key", "name the public key, age1…, and keep the secret one away from this machine"
			}
			return nil, hub.Hint(fmt.Errorf("%w: %.80q is not a recovery recipient", hub.ErrInvalid, text), hint)
		}
		s.recipients = append(s.recipients, r)
	}
	if len(recovery) > 0 {
		s.recipients = append(s.recipients, note{k.recoveryMark(recovery)})
	}
	return s, nil
}

// note is a line in the age header of a record that says, to those who have the
// vault's key, which recovery recipients it was sealed to: age itself does not say.
// Nobody's key opens it, and age passes over it.
type note struct{ mark string }

const noteType = "claude-hub-recovery"

func (n note) Wrap([]byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: noteType, Args: []string{n.mark}}}, nil
}

// RecoveryNote returns the line that the age header of a record has if it was
// sealed with this key and these recovery recipients, in any order; "" if there are
// none.
func (k Key) RecoveryNote(recovery []string) string {
	if len(recovery) == 0 {
		return ""
	}
	return "-> " + noteType + " " + k.recoveryMark(recovery)
}

// Sealed reports whether a record says that it was sealed with this key. It is no
// proof: opening it is.
func (k Key) Sealed(sealed []byte) bool {
	return bytes.HasPrefix(sealed, []byte(firstLine+k.id()+" "))
}

// recoveryMark tells nothing about the recipients to those who have not the key.
func (k Key) recoveryMark(recovery []string) string {
	list := slices.Clone(recovery)
	for i, text := range list {
		list[i] = strings.ToLower(strings.TrimSpace(text))
	}
	slices.Sort(list)
	h := hmac.New(sha256.New, k.derive("claude-hub-vault/1 recovery", sha256.Size))
	h.Write([]byte(strings.Join(slices.Compact(list), "\n")))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// sealedLimit is how large the sealed form of a payload of that size can be: the
// stream adds 16 bytes to each 64 KiB, and each recipient some 100 bytes.
func (s *sealer) sealedLimit(payload int64) int64 {
	return payload + payload/1024 + int64(prefixLen+maxHeader+8192)
}

func (s *sealer) seal(r Record) ([]byte, error) {
	head, err := json.Marshal(header{r.Profile, r.Kind, r.Generation, r.Created})
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return s.sealPlain(append(head, '\n'), r.Payload)
}

// sealPlain seals the parts of a plaintext.
func (s *sealer) sealPlain(parts ...[]byte) ([]byte, error) {
	size := int64(0)
	for _, p := range parts {
		size += int64(len(p))
	}
	var out bytes.Buffer
	out.Grow(int(s.sealedLimit(size)))
	out.WriteString(firstLine + s.keyID + " ")
	out.Write(make([]byte, macLen)) // filled in below
	out.WriteByte('\n')
	w, err := age.Encrypt(&out, s.recipients...)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			return nil, fmt.Errorf("sealing: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	hex.Encode(out.Bytes()[prefixLen-1-macLen:], s.mac(out.Bytes()))
	return out.Bytes(), nil
}

// mac is over all of a sealed record but the MAC itself.
func (s *sealer) mac(sealed []byte) []byte {
	h := hmac.New(sha256.New, s.macKey)
	h.Write(sealed[:prefixLen-1-macLen])
	h.Write(sealed[prefixLen:])
	return h.Sum(nil)
}

// open returns the record in sealed if it is whole, ours, and the one that is
// expected: profile (any, if empty), kind and generation of want.
func (s *sealer) open(sealed []byte, want Record) (Record, error) {
	if err := checkFirstLine(sealed); err != nil {
		return Record{}, err
	}
	if len(sealed) < prefixLen {
		return Record{}, damaged("it is cut off")
	}
	if id := string(sealed[len(firstLine) : len(firstLine)+keyIDLen]); id != s.keyID {
		if strings.Trim(id, "0123456789abcdef") != "" {
			return Record{}, damaged("its second line is malformed")
		}
		return Record{}, hub.Hint(fmt.Errorf("%w (%s; ours is %s)", ErrWrongKey, id, s.keyID),
			"use the key file that this vault was made with")
	}
	mac := make([]byte, sha256.Size)
	_, err := hex.Decode(mac, sealed[prefixLen-1-macLen:prefixLen-1])
	if err != nil || sealed[prefixLen-1] != '\n' || !hmac.Equal(mac, s.mac(sealed)) {
		return Record{}, damaged("its bytes are not those that were sealed")
	}
	return openAge(sealed[prefixLen:], want, s.key.identity)
}

// checkFirstLine tells a newer format from no record at all.
func checkFirstLine(sealed []byte) error {
	if bytes.HasPrefix(sealed, []byte(firstLine)) {
		return nil
	}
	line, _, ok := bytes.Cut(sealed[:min(len(sealed), 64)], []byte("\n"))
	number, isOurs := strings.CutPrefix(string(line), magic)
	if n, err := strconv.ParseUint(number, 10, 32); ok && isOurs && err == nil && n > recordVersion {
		return newer(fmt.Sprintf("a record of format %d", n))
	}
	return damaged("it does not start as a record does")
}

func openAge(ciphertext []byte, want Record, identities ...age.Identity) (Record, error) {
	r, err := age.Decrypt(bytes.NewReader(ciphertext), identities...)
	var noMatch *age.NoIdentityMatchError
	if errors.As(err, &noMatch) {
		return Record{}, ErrWrongKey
	}
	if err != nil {
		return Record{}, damaged(err.Error())
	}
	plain := bytes.NewBuffer(make([]byte, 0, len(ciphertext)+bytes.MinRead))
	if _, err := io.Copy(plain, r); err != nil {
		return Record{}, damaged(err.Error())
	}
	return parsePlain(plain.Bytes(), want)
}

func parsePlain(plain []byte, want Record) (Record, error) {
	head, _, ok := bytes.Cut(plain[:min(len(plain), maxHeader)], []byte("\n"))
	if !ok {
		return Record{}, damaged("it has no header")
	}
	var h header
	d := json.NewDecoder(bytes.NewReader(head))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil || d.More() {
		return Record{}, damaged("its header is malformed")
	}
	anyProfile := want.Profile == "" && isElement(string(h.Profile))
	if h.Profile != want.Profile && !anyProfile || h.Kind != want.Kind || h.Generation != want.Generation {
		return Record{}, damaged(fmt.Sprintf("it is generation %d of %.40q of profile %.40q, in the place of another", h.Generation, h.Kind, h.Profile))
	}
	return Record{h.Profile, h.Kind, h.Generation, h.Created, plain[len(head)+1:]}, nil
}

func damaged(what string) error {
	return hub.Hint(fmt.Errorf("%w: the record is damaged or not ours: %s", hub.ErrFormat, what),
		"restore the vault from a backup, or sign in again with `claude-hub login`")
}

func newer(what string) error {
	return hub.Hint(fmt.Errorf("%w: %s, written by a newer claude-hub", hub.ErrFormat, what), "update claude-hub on this machine")
}

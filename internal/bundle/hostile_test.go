package bundle_test

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/claude-hub/claude-hub/internal/bundle"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

const magicLine = "claude-hub-bundle/1\n"

// unseal returns the plaintext of a bundle, as its recipient sees it.
func (s *station) unseal(sealed []byte) []byte {
	s.t.Helper()
	r, err := s.key.Decrypt(bytes.NewReader(bytes.TrimPrefix(sealed, []byte(magicLine))))
	s.must(err)
	plain, err := io.ReadAll(r)
	s.must(err)
	return plain
}

// encrypt makes a bundle of a plaintext, as anybody can who knows the recipient.
func encrypt(t testing.TB, plain []byte, to string) []byte {
	t.Helper()
	r, err := age.ParseX25519Recipient(to)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBufferString(magicLine)
	w, err := age.Encrypt(out, r)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// resign changes a bundle's header and signs it anew, as a sender could who is
// trusted and means harm.
func (s *station) resign(plain []byte, change func(header map[string]any)) []byte {
	s.t.Helper()
	lines := bytes.SplitN(plain, []byte("\n"), 4)
	var header map[string]any
	s.must(json.Unmarshal(lines[2], &header))
	change(header)
	head, err := json.Marshal(header)
	s.must(err)
	signature := base64.StdEncoding.EncodeToString(s.key.Sign(append([]byte(magicLine), head...)))
	return fmt.Appendf(nil, "%s\n%s\n%s\n%s", lines[0], signature, head, lines[3])
}

func TestBundlesThatAreRefused(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	a, b, stranger := newStation(t), newStation(t), newStation(t)
	p := a.signedIn("work", sim.SignIn(simulator.SignIn{}))
	sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
	plain := b.unseal(sealed)
	theirs := stranger.signedIn("work", sim.SignIn(simulator.SignIn{}))
	foreign, _ := stranger.export(bundle.Order{Profile: theirs, To: []string{b.key.Recipient()}, Move: true})
	forOthers, _ := newStationWith(t, sim).exportTo(stranger.key.Recipient())

	to := b.key.Recipient()
	swapped := bytes.Replace(b.unseal(foreign), []byte(stranger.sender()), []byte(a.sender()), 1)
	lines := bytes.SplitN(plain, []byte("\n"), 4)
	part := bytes.Clone(plain)
	part[len(part)-1] ^= 1
	signature := []byte(base64.StdEncoding.EncodeToString(a.key.Sign([]byte("something else"))))
	changed := func(change func(map[string]any)) []byte { return encrypt(t, a.resign(plain, change), to) }
	for name, c := range map[string]struct {
		sealed []byte
		kind   error
		words  string
	}{
		"empty":                     {nil, hub.ErrFormat, "not a bundle"},
		"something else":            {[]byte("PK\x03\x04 and so on, for a while"), hub.ErrFormat, "not a bundle"},
		"the first line alone":      {[]byte(magicLine), hub.ErrFormat, "damaged"},
		"half the first line":       {[]byte(magicLine)[:18], hub.ErrFormat, "damaged"},
		"newer":                     {append([]byte("claude-hub-bundle/2\n"), sealed[len(magicLine):]...), hub.ErrFormat, "newer"},
		"version zero":              {append([]byte("claude-hub-bundle/0\n"), sealed[len(magicLine):]...), hub.ErrFormat, "malformed"},
		"for another hub":           {forOthers, hub.ErrRefused, to},
		"from a stranger":           {foreign, hub.ErrRefused, stranger.sender()},
		"a stranger as the sender":  {encrypt(t, swapped, to), hub.ErrRefused, "not signed by"},
		"passed on by a recipient":  {encrypt(t, stranger.unseal(forStranger(t, a, p, stranger)), to), hub.ErrRefused, "made the bundle for others"},
		"a changed part":            {encrypt(t, part, to), hub.ErrFormat, "not what its sender signed"},
		"a changed header":          {encrypt(t, bytes.Replace(plain, []byte(`"generation":1`), []byte(`"generation":9`), 1), to), hub.ErrRefused, "not signed by"},
		"a changed signature":       {encrypt(t, bytes.Replace(plain, lines[1], signature, 1), to), hub.ErrRefused, "not signed by"},
		"a signature of nonsense":   {encrypt(t, bytes.Replace(plain, lines[1], []byte("%%%"), 1), to), hub.ErrFormat, "signature"},
		"no signature":              {encrypt(t, append(append(bytes.Clone(lines[0]), '\n'), lines[2]...), to), hub.ErrFormat, "damaged"},
		"cut off inside":            {encrypt(t, plain[:len(plain)-10], to), hub.ErrFormat, "cut off"},
		"something follows":         {encrypt(t, append(bytes.Clone(plain), 'x'), to), hub.ErrFormat, "end where it should"},
		"something follows outside": {append(bytes.Clone(sealed), 'x'), hub.ErrFormat, "damaged"},
		"a sender of nonsense":      {encrypt(t, append([]byte("hubsig1nonsense"), plain[len(lines[0]):]...), to), hub.ErrFormat, "no sender"},
		"a line without an end":     {encrypt(t, bytes.Repeat([]byte("x"), 1<<20), to), hub.ErrFormat, "too long"},
		"a header without an end":   {encrypt(t, append(append(append(bytes.Clone(lines[0]), '\n'), append(lines[1], '\n')...), bytes.Repeat([]byte("x"), 1<<20)...), to), hub.ErrFormat, "too long"},
		"an unknown field":          {changed(func(h map[string]any) { h["later"] = true }), hub.ErrFormat, "malformed"},
		"no ID":                     {changed(func(h map[string]any) { h["bundle"] = "" }), hub.ErrFormat, "too little"},
		"an ID that is a path":      {changed(func(h map[string]any) { h["bundle"] = "b-../../x" }), hub.ErrFormat, "too little"},
		"a profile's name":          {changed(func(h map[string]any) { h["profile"].(map[string]any)["name"] = "../x" }), hub.ErrFormat, "too little"},
		"a profile's ID":            {changed(func(h map[string]any) { h["profile"].(map[string]any)["id"] = "hub" }), hub.ErrFormat, "too little"},
		"a policy":                  {changed(func(h map[string]any) { h["profile"].(map[string]any)["policy"] = map[string]any{"timeout": -1} }), hub.ErrFormat, "policy"},
		"another sender inside":     {changed(func(h map[string]any) { h["sender"] = stranger.sender() }), hub.ErrFormat, "too little"},
		"no generation":             {changed(func(h map[string]any) { h["generation"] = 0 }), hub.ErrFormat, "too little"},
		"no recipients":             {changed(func(h map[string]any) { h["recipients"] = []string{} }), hub.ErrFormat, "recipients"},
		"moved to two":              {changed(func(h map[string]any) { h["recipients"] = []string{to, stranger.key.Recipient()} }), hub.ErrFormat, "recipients"},
		"a move that ends":          {changed(func(h map[string]any) { h["ends"] = time.Now() }), hub.ErrFormat, "contradicts"},
		"a loan without an end":     {changed(func(h map[string]any) { h["moves"] = false }), hub.ErrFormat, "contradicts"},
		"a loan with all of it":     {changed(lend), hub.ErrFormat, "beside an access token"},
		"a huge part":               {changed(func(h map[string]any) { sizeOf(h, 0, 1<<40) }), hub.ErrTooLarge, "bytes"},
		"a negative part":           {changed(func(h map[string]any) { sizeOf(h, 0, -1) }), hub.ErrFormat, "without a size"},
		"a part that is not there":  {changed(func(h map[string]any) { sizeOf(h, 3, 200<<20) }), hub.ErrFormat, "damaged"},
		"no login":                  {changed(func(h map[string]any) { h["parts"] = h["parts"].([]any)[1:] }), hub.ErrFormat, "no login"},
		"a part twice":              {changed(func(h map[string]any) { h["parts"] = append(h["parts"].([]any), h["parts"].([]any)[0]) }), hub.ErrFormat, "does not belong"},
		"a part of another kind":    {changed(func(h map[string]any) { h["parts"].([]any)[1].(map[string]any)["kind"] = "handover" }), hub.ErrFormat, "does not belong"},
	} {
		_, err := b.Open(bytes.NewReader(c.sealed), []string{a.sender()})
		wantError(t, name, err, c.kind, c.words)
	}
	if _, err := b.Open(bytes.NewReader(sealed), nil); err == nil {
		t.Error("a bundle is opened although nobody is trusted")
	}
	for n := range len(sealed) {
		if n > 400 && n < len(sealed)-400 && n%97 != 0 {
			continue
		}
		if _, err := b.Open(bytes.NewReader(sealed[:n]), []string{a.sender()}); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(sealed))
		}
		flipped := bytes.Clone(sealed)
		flipped[n] ^= 0x10
		if _, err := b.Open(bytes.NewReader(flipped), []string{a.sender()}); err == nil {
			t.Fatalf("byte %d changed, and accepted", n)
		}
	}
	if _, err := b.Open(bytes.NewReader(sealed), []string{a.sender()}); err != nil {
		t.Errorf("the bundle itself: %v", err)
	}
}

// lend makes a move's header that of an access token, with all its parts.
func lend(h map[string]any) {
	h["moves"], h["ends"] = false, time.Now().Add(time.Hour)
}

func sizeOf(h map[string]any, part int, size int64) {
	h["parts"].([]any)[part].(map[string]any)["size"] = size
}

// forStranger returns a bundle that a made for another hub.
func forStranger(t *testing.T, a *station, p hub.Profile, other *station) []byte {
	t.Helper()
	if _, err := a.TakeBack(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	sealed, _ := a.export(bundle.Order{Profile: p, To: []string{other.key.Recipient()}, Move: true})
	return sealed
}

// exporter is a station with a login that has not left yet.
type exporter struct {
	*station
	p hub.Profile
}

func newStationWith(t *testing.T, sim *simulator.Simulator) exporter {
	s := newStation(t)
	return exporter{s, s.signedIn("work", sim.SignIn(simulator.SignIn{}))}
}

func (e exporter) exportTo(to string) ([]byte, bundle.Exported) {
	return e.export(bundle.Order{Profile: e.p, To: []string{to}, Move: true})
}

// A trusted sender whose bundle holds what it should not: refused before anything
// is committed.
func TestHonestSignatureBadContents(t *testing.T) {
	t.Parallel()
	sim := platform(t)
	for name, c := range map[string]struct {
		kind    hub.Kind
		payload string
		want    error
	}{
		"a snapshot that is none":        {hub.KindSnapshot, "nonsense", hub.ErrFormat},
		"a setup token that is none":     {hub.KindSetupToken, "{}", hub.ErrInvalid},
		"an account that is none":        {hub.KindAccount, "[]", hub.ErrInvalid},
		"a config directory that bursts": {hub.KindSnapshot, string(bomb(t)), hub.ErrTooLarge},
	} {
		a, b := newStation(t), newStation(t)
		p, q := a.signedIn("work", sim.SignIn(simulator.SignIn{})), b.profile("work")
		a.commit(p, c.kind, []byte(c.payload))
		sealed, _ := a.export(bundle.Order{Profile: p, To: []string{b.key.Recipient()}, Move: true})
		if _, err := b.take(sealed, q, a.sender()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
		for _, kind := range append(everything, hub.KindImported) {
			if b.latest(q, kind) != nil || b.latest(hub.Profile{ID: hub.HubRecords}, kind) != nil {
				t.Errorf("%s: a %s was committed", name, kind)
			}
		}
	}
}

// bomb is a snapshot of zeros without end, in a few bytes.
func bomb(t *testing.T) []byte {
	t.Helper()
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	const size = 200 << 20
	w := tar.NewWriter(z)
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "files/zeros", Mode: 0o600, Size: size})
	zeros := make([]byte, 1<<20)
	for n := 0; n < size && err == nil; n += len(zeros) {
		_, err = w.Write(zeros)
	}
	if err = errors.Join(err, w.Close(), z.Close()); err != nil || packed.Len() > 1<<20 {
		t.Fatalf("the bomb has %d bytes: %v", packed.Len(), err)
	}
	return packed.Bytes()
}

func TestSendersAndRecipients(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	key, err := bundle.ParseSender(s.sender())
	if err != nil || !key.Equal(s.key.SigningKey()) || len(s.sender()) != 59 {
		t.Errorf("ParseSender of what FormatSender gave = %v, %v", key, err)
	}
	zero := bundle.FormatSender(make(ed25519.PublicKey, ed25519.PublicKeySize))
	for _, bad := range []string{"", "hubsig1", s.sender()[:58], s.sender() + "a", strings.ToUpper(s.sender()), " " + s.sender(), s.key.Recipient(), zero[:58] + "b"} {
		_, err := bundle.ParseSender(bad)
		wantError(t, fmt.Sprintf("the sender %q", bad), err, hub.ErrInvalid, "key show")
	}
	for _, bad := range []string{"", "age1", strings.ToUpper(s.key.Recipient()), s.key.Recipient() + "q", " " + s.key.Recipient(), s.sender()} {
		_, err := bundle.ParseRecipient(bad)
		wantError(t, fmt.Sprintf("the recipient %q", bad), err, hub.ErrInvalid, "key show")
	}
}

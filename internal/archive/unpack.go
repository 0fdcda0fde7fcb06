package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Unpack writes the archive in r below dir, which must be absent or an empty
// directory of our own, and returns its manifest. The directory is made 0700
// before anything is written. On an error nothing that was written is left: what
// the archive may not hold is hub.ErrRefused, what is beyond the limits
// hub.ErrTooLarge, and a damaged archive hub.ErrFormat.
//
// Nothing is synced to disk: a working copy is made anew after a crash.
func Unpack(r io.Reader, dir string, limits Limits) (Manifest, error) {
	t, err := openTarget(dir)
	if err != nil {
		return Manifest{}, fmt.Errorf("unpacking: %w", err)
	}
	defer t.root.Close()
	u := &unpacker{root: t.root, limits: limits.withDefaults(), seen: nameSet{}}
	if err := u.unpack(r); err != nil {
		return Manifest{}, errors.Join(fmt.Errorf("unpacking to %s: %w", dir, err), t.discard())
	}
	return u.manifest, nil
}

// Check reads the archive in r as Unpack does, without writing anything, and
// returns its manifest. What it accepts Unpack accepts with the same limits, unless
// the file system is in the way; its errors are Unpack's.
func Check(r io.Reader, limits Limits) (Manifest, error) {
	u := &unpacker{limits: limits.withDefaults(), seen: nameSet{}}
	if err := u.unpack(r); err != nil {
		return Manifest{}, fmt.Errorf("checking an archive: %w", err)
	}
	return u.manifest, nil
}

// target is the directory that is unpacked to.
type target struct {
	dir     string
	root    *os.Root
	created bool // by us; else it was there and empty
}

func openTarget(dir string) (*target, error) {
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	t := &target{dir: dir, created: err == nil}
	if t.created {
		if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask
			os.Remove(dir)
			return nil, err
		}
	}
	if t.root, err = openTree(dir); err != nil {
		return nil, err
	}
	if err := t.claim(); err != nil {
		t.root.Close()
		return nil, err
	}
	return t, nil
}

// claim checks that the directory is ours and empty, and closes it to others.
func (t *target) claim() error {
	info, err := t.root.Stat(".")
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return hub.Hint(fmt.Errorf("%w: %s belongs to user %d", hub.ErrRefused, t.dir, s.Uid), "name a directory of your own")
	}
	d, err := t.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if names, err := d.Readdirnames(1); err != io.EOF {
		return hub.Hint(cmp.Or(err, fmt.Errorf("%w: %s is not empty (it has %q)", hub.ErrExists, t.dir, names)),
			"name a directory that is empty or does not exist")
	}
	return d.Chmod(0o700)
}

// discard removes all that is in the directory, which was empty before, and the
// directory if it was made by us.
func (t *target) discard() error {
	d, err := t.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	for _, name := range names {
		err = errors.Join(err, t.root.RemoveAll(name))
	}
	if t.created && err == nil {
		err = os.Remove(t.dir)
	}
	return err
}

type unpacker struct {
	root     *os.Root // nil: nothing is written
	limits   Limits
	seen     nameSet
	dirs     map[string]bool
	manifest Manifest
	bytes    int64  // sum of file sizes
	names    int    // sum of name lengths
	buf      []byte // for copying
}

func (u *unpacker) unpack(r io.Reader) error {
	// A manifest and a few blocks a file come on top of the files themselves.
	overhead := manifestSize + int64(u.limits.Entries)*4096
	packed := &bounded{r: r, left: u.limits.Bytes + overhead}
	z, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(windowSize))
	if err != nil {
		return damaged(err)
	}
	defer z.Close()
	raw := &bounded{r: &ratioReader{r: z, packed: packed, ratio: int64(u.limits.Ratio)}, left: u.limits.Bytes + overhead}
	u.dirs, u.buf = map[string]bool{".": true}, make([]byte, 64<<10)

	written, err := u.readTree(tar.NewReader(raw))
	if err != nil {
		return damaged(err)
	}
	if err := atEnd(raw, u.buf); err != nil {
		return damaged(err)
	}
	if err := u.compare(written); err != nil {
		return err
	}
	return u.setModes()
}

// readTree reads entries up to the manifest, which is the last.
func (u *unpacker) readTree(t *tar.Reader) ([]Entry, error) {
	var entries []Entry
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: the archive has no manifest", hub.ErrFormat)
		}
		if err != nil {
			return nil, err
		}
		if err := checkHeader(h); err != nil {
			return nil, err
		}
		if h.Name == manifestName {
			return entries, u.readManifest(t)
		}
		e, err := u.readEntry(t, h)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
}

// checkHeader refuses all but plain files and directories.
func checkHeader(h *tar.Header) error {
	if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: %.80q is a %s, and only files and directories are taken", hub.ErrRefused, h.Name, typeName(h.Typeflag))
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return fmt.Errorf("%w: %.80q is a sparse file", hub.ErrRefused, h.Name)
		}
	}
	return nil
}

func typeName(flag byte) string {
	switch flag {
	case tar.TypeLink:
		return "hard link"
	case tar.TypeSymlink:
		return "symbolic link"
	case tar.TypeChar, tar.TypeBlock:
		return "device"
	case tar.TypeFifo:
		return "named pipe"
	case tar.TypeGNUSparse:
		return "sparse file"
	}
	return fmt.Sprintf("tar entry of type %q", flag)
}

func (u *unpacker) readEntry(r io.Reader, h *tar.Header) (Entry, error) {
	isDir := h.Typeflag == tar.TypeDir
	name, ok := strings.CutPrefix(h.Name, treePrefix)
	if !ok {
		return Entry{}, fmt.Errorf("%w: %.80q is not below %s", hub.ErrRefused, h.Name, treePrefix)
	}
	if isDir {
		name = strings.TrimSuffix(name, "/")
	}
	if err := u.admit(name); err != nil {
		return Entry{}, err
	}
	mode := fs.FileMode(h.Mode).Perm()
	if isDir {
		u.dirs[name] = true
		return Entry{Name: name, Mode: mode | fs.ModeDir}, u.mkdir(name)
	}
	if h.Size > u.limits.File {
		return Entry{}, fmt.Errorf("%w: %q has %d bytes (%d are allowed)", hub.ErrTooLarge, name, h.Size, u.limits.File)
	}
	if u.bytes += h.Size; u.bytes > u.limits.Bytes {
		return Entry{}, fmt.Errorf("%w: more than %d bytes, at %q", hub.ErrTooLarge, u.limits.Bytes, name)
	}
	sum, err := u.writeFile(r, name, h)
	return Entry{Name: name, Mode: mode, Size: h.Size, SHA256: sum}, err
}

func (u *unpacker) mkdir(name string) error {
	if u.root == nil {
		return nil
	}
	if err := u.root.Mkdir(name, 0o700); err != nil {
		return err
	}
	return u.root.Chmod(name, 0o700) // whatever the umask
}

// admit checks a name against the rule, the limits and the names before it.
func (u *unpacker) admit(name string) error {
	if err := checkName(name, u.limits); err != nil {
		return err
	}
	if len(u.seen) >= u.limits.Entries {
		return fmt.Errorf("%w: more than %d files and directories", hub.ErrTooLarge, u.limits.Entries)
	}
	if u.names += len(name); u.names > manifestSize {
		return fmt.Errorf("%w: the names have more than %d bytes", hub.ErrTooLarge, manifestSize)
	}
	if !u.dirs[path.Dir(name)] {
		return fmt.Errorf("%w: %q comes without its directory", hub.ErrRefused, name)
	}
	switch before := u.seen.add(name); before {
	case "":
		return nil
	case name:
		return fmt.Errorf("%w: %q is there twice", hub.ErrRefused, name)
	default:
		return fmt.Errorf("%w: %q and %q differ only in case", hub.ErrRefused, before, name)
	}
}

func (u *unpacker) writeFile(r io.Reader, name string, h *tar.Header) (sum string, err error) {
	if u.root == nil {
		return u.copy(io.Discard, r, h)
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = cmp.Or(err, f.Close()) }()
	if sum, err = u.copy(f, r, h); err != nil {
		return "", err
	}
	return sum, u.root.Chtimes(name, h.ModTime, h.ModTime)
}

// copy copies one file, and returns its digest.
func (u *unpacker) copy(w io.Writer, r io.Reader, h *tar.Header) (sum string, err error) {
	digest := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w, digest)}, r, u.buf)
	if err != nil {
		return "", err
	}
	if n != h.Size {
		return "", io.ErrUnexpectedEOF
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

func (u *unpacker) readManifest(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, manifestSize+1))
	if err != nil {
		return err
	}
	if len(text) > manifestSize {
		return fmt.Errorf("%w: the manifest has more than %d bytes", hub.ErrTooLarge, manifestSize)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return fmt.Errorf("%w: the manifest is not JSON: %w", hub.ErrFormat, err)
	}
	if version.Version > manifestVersion {
		return hub.Hint(fmt.Errorf("%w: the archive was written by a newer claude-hub (manifest %d)", hub.ErrFormat, version.Version),
			"update claude-hub on this machine")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&u.manifest); err != nil || u.manifest.Version != manifestVersion {
		return fmt.Errorf("%w: the manifest is malformed: %w", hub.ErrFormat, cmp.Or(err, errors.New("no version")))
	}
	return nil
}

// compare holds what was written against the manifest.
func (u *unpacker) compare(written []Entry) error {
	if len(written) != len(u.manifest.Entries) {
		return fmt.Errorf("%w: %d entries, and the manifest has %d", hub.ErrFormat, len(written), len(u.manifest.Entries))
	}
	for i, want := range u.manifest.Entries {
		want.Changed = false
		if written[i] != want {
			return fmt.Errorf("%w: %q is not as the manifest says", hub.ErrFormat, written[i].Name)
		}
	}
	return nil
}

// setModes gives everything its mode; a directory after what is in it. The owner
// keeps access to directories, or they could not be removed.
func (u *unpacker) setModes() error {
	if u.root == nil {
		return nil
	}
	for _, e := range slices.Backward(u.manifest.Entries) {
		mode := e.Mode.Perm()
		if e.Mode.IsDir() {
			mode |= 0o700
		}
		if err := u.root.Chmod(filepath.FromSlash(e.Name), mode); err != nil {
			return err
		}
	}
	return nil
}

// atEnd reads the zeros that close a tar stream, and refuses anything else.
func atEnd(r io.Reader, buf []byte) error {
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return fmt.Errorf("%w: something follows the archive", hub.ErrFormat)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// damaged gives errors of the decoders their kind, and leaves ours and those of
// the file system alone.
func damaged(err error) error {
	for _, kind := range []error{hub.ErrRefused, hub.ErrTooLarge, hub.ErrFormat} {
		if errors.Is(err, kind) {
			return err
		}
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return err
	}
	return fmt.Errorf("%w: the archive is damaged: %w", hub.ErrFormat, err)
}

// bounded is a reader that refuses to give more than its allowance.
type bounded struct {
	r    io.Reader
	n    int64 // given so far
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p[:min(int64(len(p)), b.left+1)])
	b.n += int64(n)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: the archive has too many bytes", hub.ErrTooLarge)
	}
	return n, err
}

// ratioReader refuses a stream that grows out of proportion to its source.
type ratioReader struct {
	r      io.Reader
	packed *bounded
	ratio  int64
	n      int64
}

func (r *ratioReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	if r.n > ratioFloor && r.n/r.ratio > r.packed.n {
		return 0, fmt.Errorf("%w: the archive unpacks to more than %d times its size", hub.ErrTooLarge, r.ratio)
	}
	return n, err
}

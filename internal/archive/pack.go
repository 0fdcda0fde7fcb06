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
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Options says what Pack takes.
type Options struct {
	// Exclude names files or directories, relative to the directory and
	// slash-separated, that are left out without a note.
	Exclude []string
	// Extra adds single files from elsewhere: the name in the archive, and the
	// path. They win over files of the same name in the directory.
	Extra map[string]string
	// Limits are those that Unpack will have.
	Limits Limits

	// at is called by readFile with "found" and "opened"; for tests.
	at func(stage, name string)
}

// readAttempts is how often Pack reads a file that changes under it.
const readAttempts = 3

// windowSize is the zstd window that Pack writes and the most that Unpack takes.
const windowSize = 4 << 20

// Pack writes the tree below dir to w. It tolerates a tree that is in use: a file
// that vanishes is left out with a note; a file that changes while it is read is
// read again, up to three times, and then taken as it was read and marked as
// changed; a file that grows later is taken with the size it had. Symbolic links,
// sockets, pipes, devices, and names that Unpack would refuse are left out with a
// note. A tree beyond the limits is hub.ErrTooLarge, and anything that cannot be
// read is an error: w is then to be thrown away.
//
// The stream depends on the tree alone (names, modes, times of files, contents),
// so that an unchanged tree gives the same bytes.
func Pack(w io.Writer, dir string, opts Options) (Manifest, error) {
	root, err := openTree(dir)
	if err != nil {
		return Manifest{}, fmt.Errorf("packing: %w", err)
	}
	defer root.Close()
	packed := &counter{w: w}
	z, err := zstd.NewWriter(packed, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(windowSize),
		zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(2)) // SHA-256 sums are in the manifest
	if err != nil {
		return Manifest{}, fmt.Errorf("packing: %w", err)
	}
	p := &packer{
		root: root, limits: opts.Limits.withDefaults(), seen: nameSet{}, extra: opts.Extra, at: opts.at,
		tar: tar.NewWriter(z), manifest: Manifest{Version: manifestVersion}, exclude: map[string]bool{},
	}
	if p.at == nil {
		p.at = func(string, string) {}
	}
	for _, name := range opts.Exclude {
		p.exclude[path.Clean(name)] = true
	}
	if err := cmp.Or(p.pack(), z.Close()); err != nil {
		z.Close() // ends its goroutines; the error before it is the one that counts
		return Manifest{}, fmt.Errorf("packing %s: %w", dir, err)
	}
	if p.raw > ratioFloor && p.raw/int64(p.limits.Ratio) > packed.n {
		return Manifest{}, fmt.Errorf("packing %s: %w: %d bytes would unpack to %d, and Unpack refuses such a ratio",
			dir, hub.ErrTooLarge, packed.n, p.raw)
	}
	return p.manifest, nil
}

// openTree opens dir, which must be a directory and not a link to one.
func openTree(dir string) (*os.Root, error) {
	before, err := os.Lstat(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", hub.ErrNotFound, err)
		}
		return nil, err
	}
	if !before.IsDir() {
		return nil, fmt.Errorf("%w: %s is not a directory", hub.ErrInvalid, dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	after, err := root.Stat(".")
	if err != nil || !os.SameFile(before, after) {
		root.Close()
		return nil, cmp.Or(err, fmt.Errorf("%w: %s was replaced meanwhile", hub.ErrConflict, dir))
	}
	return root, nil
}

type packer struct {
	root     *os.Root
	limits   Limits
	exclude  map[string]bool
	extra    map[string]string
	at       func(stage, name string)
	seen     nameSet
	tar      *tar.Writer
	manifest Manifest
	buf      bytes.Buffer // the file being read; grows to the largest one
	bytes    int64        // sum of file sizes
	raw      int64        // what the tar stream has, about
}

func (p *packer) pack() error {
	// First, so that their names win.
	for _, name := range slices.Sorted(maps.Keys(p.extra)) {
		if err := p.packExtra(name); err != nil {
			return err
		}
	}
	top, err := p.root.Stat(".")
	if err != nil {
		return err
	}
	if err := p.packDir(".", top); err != nil {
		return err
	}
	text, err := json.Marshal(p.manifest)
	if err != nil {
		return err
	}
	if len(text) > manifestSize {
		return fmt.Errorf("%w: the manifest would have %d bytes", hub.ErrTooLarge, len(text))
	}
	if err := p.write(tar.Header{Typeflag: tar.TypeReg, Name: manifestName, Mode: 0o600, Size: int64(len(text))}, text); err != nil {
		return err
	}
	return p.tar.Close()
}

func (p *packer) packExtra(name string) error {
	if err := checkName(name, p.limits); err != nil {
		return err
	}
	if path.Base(name) != name {
		return fmt.Errorf("%w: the extra file %q is not at the top", hub.ErrInvalid, name)
	}
	lstat := func() (fs.FileInfo, error) { return os.Lstat(p.extra[name]) }
	open := func() (*os.File, error) { return os.OpenFile(p.extra[name], openFlags, 0) }
	return p.packFile(name, lstat, open)
}

// packDir packs what is in one directory, which has its own entry already.
func (p *packer) packDir(dir string, info fs.FileInfo) error {
	names, err := p.readDir(dir, info)
	if err != nil {
		return err
	}
	for _, base := range names {
		name := path.Join(dir, base)
		if p.exclude[name] {
			continue
		}
		if err := p.packName(name); err != nil {
			return err
		}
	}
	return nil
}

// readDir returns the sorted names in dir. It stops at the entry limit, so that
// a directory of millions costs no more memory than that.
func (p *packer) readDir(dir string, info fs.FileInfo) ([]string, error) {
	d, err := p.root.OpenFile(dir, openFlags, 0)
	if err != nil && p.gone(dir, info) {
		p.skip(dir, "vanished while it was read")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if opened, err := d.Stat(); err != nil {
		return nil, err
	} else if !same(info, opened) {
		p.skip(dir, "was replaced while it was read")
		return nil, nil
	}
	var names []string
	for {
		more, err := d.Readdirnames(1024)
		names = append(names, more...)
		if len(names) > p.limits.Entries {
			return nil, p.tooMany()
		}
		if err == io.EOF {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// gone reports whether name is no longer what it was.
func (p *packer) gone(name string, was fs.FileInfo) bool {
	now, err := p.root.Lstat(name)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !same(was, now)
}

// same asks for the type too: a new file may get the number of a deleted one.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Mode().Type() == b.Mode().Type()
}

func (p *packer) packName(name string) error {
	if len(p.manifest.Entries)+len(p.manifest.Skipped) >= p.limits.Entries {
		return p.tooMany()
	}
	if err := checkName(name, p.limits); err != nil {
		p.skip(name, err.Error())
		return nil
	}
	info, err := p.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		p.skip(name, "vanished while it was read")
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case info.Mode().IsRegular():
		lstat := func() (fs.FileInfo, error) { return p.root.Lstat(name) }
		open := func() (*os.File, error) { return p.root.OpenFile(name, openFlags, 0) }
		return p.packFile(name, lstat, open)
	case info.IsDir():
		return p.packSubdir(name, info)
	}
	p.skip(name, describe(info.Mode()))
	return nil
}

func (p *packer) packSubdir(name string, info fs.FileInfo) error {
	if p.clashes(name) {
		return nil
	}
	mode := info.Mode().Perm() | fs.ModeDir
	if err := p.enter(Entry{Name: name, Mode: mode}); err != nil {
		return err
	}
	h := tar.Header{Typeflag: tar.TypeDir, Name: treePrefix + name + "/", Mode: int64(mode.Perm())}
	if err := p.write(h, nil); err != nil {
		return err
	}
	return p.packDir(name, info)
}

// O_NONBLOCK: a pipe that took a file's place must not hold us up.
const openFlags = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK

func (p *packer) packFile(name string, lstat func() (fs.FileInfo, error), open func() (*os.File, error)) error {
	var info fs.FileInfo
	var changed bool
	for attempt := 0; ; attempt++ {
		var err error
		info, err = p.readFile(name, lstat, open)
		changed = errors.Is(err, errChanged)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			p.skip(name, "vanished while it was read")
			return nil
		case changed && attempt+1 < readAttempts:
			continue
		case changed && info == nil:
			p.skip(name, "was replaced again and again while it was read")
			return nil
		case err != nil && !changed:
			return err
		}
		break
	}
	if !info.Mode().IsRegular() {
		p.skip(name, describe(info.Mode()))
		return nil
	}
	if p.clashes(name) {
		return nil
	}
	return p.storeFile(name, info, changed)
}

func (p *packer) storeFile(name string, info fs.FileInfo, changed bool) error {
	data := p.buf.Bytes()
	sum := sha256.Sum256(data)
	mode := info.Mode().Perm()
	entry := Entry{Name: name, Mode: mode, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), Changed: changed}
	if err := p.enter(entry); err != nil {
		return err
	}
	return p.write(tar.Header{
		Typeflag: tar.TypeReg, Name: treePrefix + name, Mode: int64(mode), Size: entry.Size,
		ModTime: info.ModTime().Truncate(time.Second),
	}, data)
}

var errChanged = errors.New("changed while it was read")

// readFile reads one regular file into p.buf. If the file was changed meanwhile
// it returns errChanged, and the info of what it read if that can be used. The
// info of something that is no regular file comes without error.
func (p *packer) readFile(name string, lstat func() (fs.FileInfo, error), open func() (*os.File, error)) (fs.FileInfo, error) {
	before, err := lstat()
	if err != nil || !before.Mode().IsRegular() {
		return before, err
	}
	p.at("found", name)
	f, err := open()
	if err != nil {
		if now, again := lstat(); again == nil && !same(before, now) {
			return nil, errChanged // a link or a socket has taken its place
		}
		return nil, err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !same(before, opened) {
		return nil, errChanged
	}
	if opened.Size() > p.limits.File {
		return nil, p.fileTooLarge(name, opened.Size())
	}
	p.at("opened", name)
	p.buf.Reset()
	p.buf.Grow(int(opened.Size()) + bytes.MinRead)
	// Not one byte more than its size: a file that grows is cut where it was.
	if _, err := p.buf.ReadFrom(io.LimitReader(f, opened.Size())); err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if after.Size() != opened.Size() || !after.ModTime().Equal(opened.ModTime()) || int64(p.buf.Len()) != opened.Size() {
		return opened, errChanged
	}
	return opened, nil
}

// enter adds an entry to the manifest, within the limit of bytes.
func (p *packer) enter(e Entry) error {
	p.bytes += e.Size
	if p.bytes > p.limits.Bytes {
		return hub.Hint(fmt.Errorf("%w: more than %d bytes, at %q", hub.ErrTooLarge, p.limits.Bytes, e.Name), excludeHint)
	}
	p.manifest.Entries = append(p.manifest.Entries, e)
	return nil
}

const excludeHint = "delete what is not needed there (old projects/ and todos/ are the usual bulk) and try again"

func (p *packer) tooMany() error {
	return hub.Hint(fmt.Errorf("%w: more than %d files and directories", hub.ErrTooLarge, p.limits.Entries), excludeHint)
}

func (p *packer) fileTooLarge(name string, size int64) error {
	return hub.Hint(fmt.Errorf("%w: %q has %d bytes (%d are allowed)", hub.ErrTooLarge, name, size, p.limits.File), excludeHint)
}

// clashes notes and reports a name that is taken by an earlier one.
func (p *packer) clashes(name string) bool {
	before := p.seen.add(name)
	if _, extra := p.extra[before]; extra && before == name {
		p.skip(name, "replaced by the file given in its stead")
	} else if before != "" {
		p.skip(name, fmt.Sprintf("differs only in case from %q", before))
	}
	return before != ""
}

func (p *packer) skip(name, reason string) {
	if fs.ValidPath(name) && checkName(name, p.limits) == nil {
		p.manifest.Skipped = append(p.manifest.Skipped, Skipped{Name: name, Reason: reason})
		return
	}
	if len(name) > 256 {
		name = name[:256]
	}
	p.manifest.Skipped = append(p.manifest.Skipped, Skipped{Name: strconv.QuoteToASCII(name), Reason: reason})
}

func (p *packer) write(h tar.Header, data []byte) error {
	h.Format = tar.FormatPAX
	if h.ModTime.IsZero() {
		h.ModTime = time.Unix(0, 0)
	}
	if err := p.tar.WriteHeader(&h); err != nil {
		return err
	}
	p.raw += 512 + int64(len(data))
	_, err := p.tar.Write(data)
	return err
}

func describe(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "not a regular file"
}

// counter counts what goes through to w.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

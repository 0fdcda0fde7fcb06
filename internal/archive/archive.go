// Package archive packs a directory tree into one bounded stream and unpacks it
// again. What it guarantees:
//
//  1. Unpack writes below its target directory only, whatever the stream says:
//     names with "..", absolute names, links, devices, pipes, sparse files, names
//     given twice or differing only in case are refused, and all writing goes
//     through an [os.Root].
//  2. Unpack is bounded by [Limits] in bytes, entries, path length, depth and
//     compression ratio, and in memory by a constant; when it fails, nothing of
//     what it wrote is left.
//  3. Unpack returns success only if names, modes, sizes and SHA-256 sums are
//     those of the manifest that Pack wrote.
//  4. Pack never follows a symbolic link and never waits on a pipe. What it
//     leaves out, and why, is in [Manifest.Skipped]. What it packs, Unpack with
//     the same limits accepts.
//  5. Files that are unpacked have mode 0600, in directories of mode 0700, until
//     their last byte is written; then they get the mode they were packed with.
//
// The stream is zstd over tar: the tree below "files/", then "manifest.json", so
// that `tar --zstd -xf` can rescue it by hand.
package archive

import (
	"io/fs"
	"slices"
)

// Limits bounds an archive. A zero field means the default.
type Limits struct {
	Bytes   int64 // sum of all file sizes; default 1 GiB
	File    int64 // size of one file; default 256 MiB
	Entries int   // files and directories; default 100,000
	Path    int   // bytes in one name; default 1,024
	Depth   int   // elements in one name; default 64
	Ratio   int   // unpacked to packed bytes, once more than 64 MiB are unpacked; default 200
}

// Two bounds that no caller has a reason to move.
const (
	ratioFloor   = 64 << 20 // below this, any ratio is harmless
	manifestSize = 32 << 20
)

func (l Limits) withDefaults() Limits {
	orDefault(&l.Bytes, 1<<30)
	orDefault(&l.File, 256<<20)
	orDefault(&l.Entries, 100_000)
	orDefault(&l.Path, 1024)
	orDefault(&l.Depth, 64)
	orDefault(&l.Ratio, 200)
	return l
}

func orDefault[T int | int64](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Manifest says what an archive holds, sorted as it was packed: a directory comes
// before what is in it.
type Manifest struct {
	Version int       `json:"version"`
	Entries []Entry   `json:"entries"`
	Skipped []Skipped `json:"skipped,omitempty"`
}

// manifestVersion is what this package writes and the only one it reads.
const manifestVersion = 1

// Entry is one file or directory of an archive.
type Entry struct {
	Name   string      `json:"name"`             // slash-separated, relative
	Mode   fs.FileMode `json:"mode"`             // permission bits, and fs.ModeDir for a directory
	Size   int64       `json:"size,omitempty"`   // of a file
	SHA256 string      `json:"sha256,omitempty"` // of a file, hexadecimal
	// Changed says that the file was being written during each attempt to read
	// it, so that its bytes may be of more than one moment.
	Changed bool `json:"changed,omitempty"`
}

// Skipped is something that Pack found and left out.
type Skipped struct {
	Name   string `json:"name"` // quoted as a Go string if it is not a name that can be packed
	Reason string `json:"reason"`
}

// Size returns the sum of the file sizes.
func (m Manifest) Size() int64 {
	var n int64
	for _, e := range m.Entries {
		n += e.Size
	}
	return n
}

// Find returns the entry of that name.
func (m Manifest) Find(name string) (Entry, bool) {
	i := slices.IndexFunc(m.Entries, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		return Entry{}, false
	}
	return m.Entries[i], true
}

const (
	treePrefix   = "files/"
	manifestName = "manifest.json"
)

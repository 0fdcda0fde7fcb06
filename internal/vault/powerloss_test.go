package vault_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// platter is what a disk would hold if the power went now: contents as of each
// file's last fsync, and names as of each directory's.
type platter struct {
	root  string
	files map[uint64][]byte         // by inode
	dirs  map[string][]platterEntry // by path
}

type platterEntry struct {
	name  string
	inode uint64
	isDir bool
}

// newPlatter takes all that is below root as durable.
func newPlatter(t *testing.T, root string) *platter {
	p := &platter{root: root, files: map[uint64][]byte{}, dirs: map[string][]platterEntry{}}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			p.dirs[path] = entries(t, path)
		} else if err == nil {
			p.syncFile(t, path)
		}
		return err
	}))
	return p
}

func entries(t *testing.T, dir string) []platterEntry {
	found, err := os.ReadDir(dir)
	must(t, err)
	list := make([]platterEntry, len(found))
	for i, e := range found {
		list[i] = platterEntry{e.Name(), inode(t, filepath.Join(dir, e.Name())), e.IsDir()}
	}
	return list
}

func inode(t *testing.T, path string) uint64 {
	info, err := os.Lstat(path)
	must(t, err)
	return info.Sys().(*syscall.Stat_t).Ino
}

func (p *platter) syncFile(t *testing.T, path string) {
	data, err := os.ReadFile(path)
	must(t, err)
	p.files[inode(t, path)] = data
}

// watch is a hook that keeps p up to date and calls each after every step.
func (p *platter) watch(t *testing.T, each func()) vault.Hook {
	return func(when, step, path string) error {
		if when == "before" {
			return nil
		}
		switch step {
		case "create":
			delete(p.files, inode(t, path)) // the number may have been another's
		case "sync":
			p.syncFile(t, path)
		case "syncdir":
			p.dirs[path] = entries(t, path)
		}
		each()
		return nil
	}
}

// write makes the tree that is left after a loss of power. With all names, every
// change to a directory has reached the disk, though nobody asked for it.
func (p *platter) write(t *testing.T, from, to string, allNames bool) {
	must(t, os.Mkdir(to, 0o700))
	list := p.dirs[from]
	if allNames {
		list = entries(t, from)
	}
	for _, e := range list {
		if e.isDir {
			p.write(t, filepath.Join(from, e.name), filepath.Join(to, e.name), allNames)
		} else {
			must(t, os.WriteFile(filepath.Join(to, e.name), p.files[e.inode], 0o600))
		}
	}
}

// TestPowerLossLeavesGenerationNOrTheNextWhole takes the power away after each
// step of many commits, with all that was not synced lost, and again with names
// kept and only unsynced bytes lost.
func TestPowerLossLeavesGenerationNOrTheNextWhole(t *testing.T) {
	key := newKey(t)
	b := newFileBackend(t)
	v, err := vault.New(b, key, vault.Options{})
	must(t, err)
	p := newPlatter(t, b.Dir())
	images := 0
	var committed hub.Generation
	payload := func(gen hub.Generation) string { return strings.Repeat(string(rune('a'+gen%26)), 5000) }

	check := func(what string, least, most hub.Generation) {
		t.Helper()
		for _, allNames := range []bool{false, true} {
			images++
			image := filepath.Join(privateDir(t), "image")
			p.write(t, p.root, image, allNames)
			after, err := vault.New(openFile(t, image), key, vault.Options{})
			must(t, err)
			gen, err := after.Generation(t.Context(), alice, hub.KindLogin)
			if err != nil || gen < least || gen > most {
				t.Fatalf("%s: generation %d, %v; want %d to %d", what, gen, err, least, most)
			}
			if gen == 0 {
				continue
			}
			r, err := after.Latest(t.Context(), alice, hub.KindLogin)
			if err != nil || string(r.Payload) != payload(gen) {
				t.Fatalf("%s: generation %d is not whole: %v", what, gen, err)
			}
		}
	}
	b.SetHook(p.watch(t, func() {
		if committed < 2 || committed > 14 { // the others are like the second
			check("during the commit", committed, committed+1)
		}
	}))
	for range 18 { // the last but one removes old ones
		_, err := v.Commit(t.Context(), alice, hub.KindLogin, committed, []byte(payload(committed+1)))
		must(t, err)
		committed++
		check("after the commit", committed, committed)
	}
	if images < 90 {
		t.Errorf("only %d losses of power", images)
	}
}

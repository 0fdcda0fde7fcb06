package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// maxEntries bounds a walk: a hub has some hundred files of its own.
const maxEntries = 100_000

// entry is a file or directory of the hub's own.
type entry struct {
	path  string // from the hub's directory
	mode  fs.FileMode
	uid   int
	gid   int
	vital bool // the hub refuses to work when it is open to others
}

// entries lists what of the hub's directory has to be private: not what jobs, the
// CLI and npm write below directories that are.
func entries(root *os.Root) ([]entry, error) {
	var all []entry
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if name == "." {
				return err
			}
			return nil // closed, or gone meanwhile: its own mode was looked at
		}
		info, err := root.Lstat(name)
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && isOurs(name) && info.Mode()&fs.ModeSymlink == 0 {
			all = append(all, entry{name, info.Mode(), int(stat.Uid), int(stat.Gid), isVital(name)})
		}
		if len(all) > maxEntries {
			return fs.SkipAll
		}
		if d.IsDir() && !isWalked(name) {
			return fs.SkipDir
		}
		return nil
	})
	return all, err
}

// isOurs reports whether the hub itself makes name, which is private.
func isOurs(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	switch top {
	case ".", "key", "config.yaml", "default-profile", "hub.sock", "serve.lock", "agent.json",
		"vault", "refresh", "login", "runs", "containers", "set-aside":
		return true
	}
	return strings.HasPrefix(top, "hub.db")
}

func isVital(name string) bool { return name == "." || name == "key" || name == "vault" }

// isWalked reports whether what is in the directory is the hub's own, too.
func isWalked(name string) bool {
	depth := strings.Count(name, "/")
	switch top, _, _ := strings.Cut(name, "/"); top {
	case ".", "vault":
		return true
	case "refresh":
		return depth < 2
	case "login", "runs":
		return depth < 1
	}
	return false
}

var permissionsCheck = check{
	name: "permissions", group: groupHub, hub: true,
	looks: []Entry{{ID: "permissions", Level: LevelError, Fixable: true, Meaning: "something of the hub's is open to other users, or closed to its own"}},
	run:   lookAtPermissions,
}

// isOwn reports whether a file belongs to this user.
func isOwn(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

func lookAtPermissions(_ context.Context, p *patient) []Finding {
	if !isOwn(p.Dir) {
		return nil // the owner check says so
	}
	root, all, f := p.entries()
	if root != nil {
		defer root.Close()
	}
	if f != nil {
		return f
	}
	var wrong []entry
	level := LevelWarning
	for _, e := range all {
		if right(e) != e.mode.Perm() && e.uid == os.Geteuid() {
			wrong = append(wrong, e)
			if e.vital || e.mode.Perm()&0o600 != 0o600 {
				level = LevelError
			}
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	first, more := wrong[0], ""
	if exposed(wrong) {
		more = "; others could read the key, which opens the vault: if people whom you do not trust use this machine, make a new hub and sign in again"
	}
	words := make([]string, len(wrong))
	for i, e := range wrong {
		words[i] = fmt.Sprintf("%s (%04o)", filepath.Join(p.Dir, e.path), e.mode.Perm())
	}
	return []Finding{{
		ID: "permissions", Level: level,
		Symptom: fmt.Sprintf("wrong permissions on %s", some(words)),
		Cause:   "a copy, a restore, a chmod or an umask has opened it to other users of this machine, or closed it to its owner",
		Fix:     fmt.Sprintf("chmod %04o %s", right(first), quote(filepath.Join(p.Dir, first.path))) + more,
		repair:  func(context.Context) (string, error) { return p.chmod(wrong) },
	}}
}

// exposed reports whether the key was open to others and its directory, too.
func exposed(wrong []entry) bool {
	open := func(name string, bits fs.FileMode) bool {
		return slices.ContainsFunc(wrong, func(e entry) bool { return e.path == name && e.mode.Perm()&bits != 0 })
	}
	return open(".", 0o011) && open("key", 0o044)
}

// right returns the permissions that e should have: none for others, and for the
// owner what it takes to work with it.
func right(e entry) fs.FileMode {
	if e.mode.IsDir() {
		return e.mode.Perm()&0o700 | 0o700
	}
	return e.mode.Perm()&0o700 | 0o600
}

// chmod goes through a handle of the directory, so that no link leads it astray.
func (p *patient) chmod(wrong []entry) (string, error) {
	root, err := p.openHub()
	if errors.Is(err, fs.ErrPermission) {
		return p.open()
	}
	if err != nil {
		return "", err
	}
	defer root.Close()
	for i, e := range wrong {
		if err := chmodOwn(root, e.path, right(e)); err != nil {
			return fmt.Sprintf("set the permissions of %d of %d", i, len(wrong)), err
		}
	}
	return fmt.Sprintf("closed %s to other users", some(paths(wrong))), nil
}

// open opens the hub's directory to its own owner.
func (p *patient) open() (string, error) {
	f, err := os.OpenFile(p.Dir, unix.O_PATH|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && ownerOf(info) != os.Geteuid() {
		err = fmt.Errorf("%w: %s belongs to user %d", hub.ErrRefused, p.Dir, ownerOf(info))
	}
	if err != nil {
		return "", err
	}
	return "opened " + p.Dir + " to its owner", os.Chmod(through(f), 0o700) //nolint:gosec // a directory
}

// entries opens the hub's directory and lists it. Where that is refused, the
// finding says why.
func (p *patient) entries() (*os.Root, []entry, []Finding) {
	root, err := os.OpenRoot(p.Dir)
	var all []entry
	if err == nil {
		all, err = entries(root)
	}
	if err == nil {
		return root, all, nil
	}
	info, statErr := os.Stat(p.Dir)
	if statErr != nil {
		return root, nil, []Finding{} // removed while we looked
	}
	return root, nil, []Finding{{
		ID: "permissions", Level: LevelError,
		Symptom: fmt.Sprintf("the hub's directory can't be listed: %v", err),
		Cause:   fmt.Sprintf("its permissions (%04o) keep its own owner out", info.Mode().Perm()),
		Fix:     "chmod 0700 " + quote(p.Dir),
		repair:  func(context.Context) (string, error) { return p.chmod(nil) },
	}}
}

func paths(list []entry) []string {
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = path.Clean(e.path)
		if e.path == "." {
			names[i] = "the directory itself"
		}
	}
	return names
}

// some names the first few.
func some(names []string) string {
	const few = 3
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

var ownerCheck = check{
	name: "owner", group: groupHub, hub: true,
	looks: []Entry{{ID: "owner", Level: LevelError, Fixable: true, Meaning: "something of the hub's belongs to another user (after work as root, or in a container with another user number)"}},
	run:   lookAtOwners,
}

func lookAtOwners(_ context.Context, p *patient) []Finding {
	info, err := os.Stat(p.Dir)
	if err != nil {
		return nil
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if int(stat.Uid) != os.Geteuid() {
		return []Finding{{
			ID: "owner", Level: LevelError,
			Symptom: fmt.Sprintf("%s belongs to user %d, and this is user %d", p.Dir, stat.Uid, os.Geteuid()),
			Cause:   "the hub was made by somebody else: as root, or in a container whose user has another number",
			Fix:     fmt.Sprintf("run as that user (`sudo -u '#%d' claude-hub doctor`), or give the hub to this one: sudo chown -R %d:%d %s", stat.Uid, os.Geteuid(), os.Getegid(), quote(p.Dir)),
		}}
	}
	root, all, f := p.entries()
	if root != nil {
		defer root.Close()
	}
	if f != nil {
		return nil // permissions say so
	}
	var wrong []entry
	for _, e := range all {
		if e.uid != os.Geteuid() {
			wrong = append(wrong, e)
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	found := Finding{
		ID: "owner", Level: LevelError,
		Symptom: fmt.Sprintf("%s in %s belong to other users (the first to %d)", some(paths(wrong)), p.Dir, wrong[0].uid),
		Cause:   "somebody has worked in the hub's directory as another user, such as root, or restored it so",
		Fix:     fmt.Sprintf("sudo chown -R %d:%d %s", os.Geteuid(), os.Getegid(), quote(p.Dir)),
	}
	if os.Geteuid() == 0 {
		found.repair = func(context.Context) (string, error) { return p.chown(wrong, int(stat.Gid)) }
	}
	return []Finding{found}
}

func (p *patient) chown(wrong []entry, gid int) (string, error) {
	root, err := p.openHub()
	if err != nil {
		return "", err
	}
	defer root.Close()
	for i, e := range wrong {
		if err := chownOwn(root, e.path, gid); err != nil {
			return fmt.Sprintf("gave %d of %d back", i, len(wrong)), err
		}
	}
	return fmt.Sprintf("gave %s back to user %d", some(paths(wrong)), os.Geteuid()), nil
}

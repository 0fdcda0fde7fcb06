package bundle

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// Restore says what is to be restored, and where.
type Restore struct {
	Profile hub.Profile
	// Dir is the config directory that is made. It must not exist or be empty; its
	// parent must exist.
	Dir string
	// FullLogin writes the refresh token, too, and so makes a second writer. Without,
	// the directory is good until its access token expires or is rotated away.
	FullLogin bool
	// Replace removes what is in Dir, if that is a config directory with a
	// credential file. Whoever looks sees the old one or the new one, whole.
	Replace bool
	// UID and GID own all of it in the end; negative ones are left as they are.
	UID, GID int
}

// Restored is what was restored.
type Restored struct {
	Dir           string    `json:"dir"`
	Files         int       `json:"files"` // of the captured config directory
	FullLogin     bool      `json:"full_login"`
	Replaced      bool      `json:"replaced,omitempty"`
	AccessExpires time.Time `json:"access_expires"`
	LoginExpires  time.Time `json:"login_expires,omitzero"` // only with FullLogin
}

// Restore writes a profile's captured config directory and a credential file for
// other tools: files 0600 and directories 0700 (0700 for what was executable),
// all of it durable before it gets its name. On an error, and after a crash, Dir
// is as it was; what a killed Restore leaves beside it, the next one removes.
func (c *Carrier) Restore(ctx context.Context, o Restore) (Restored, error) {
	t, err := c.openTarget(o)
	if err != nil {
		return Restored{}, fmt.Errorf("restoring: %w", err)
	}
	defer t.parent.Close()
	hold, err := c.cfg.Hold(ctx, o.Profile.ID)
	if err != nil {
		return Restored{}, err
	}
	defer hold.Release()
	l, credential, err := c.restorable(ctx, o, hold)
	if err != nil {
		return Restored{}, err
	}
	snapshot, err := c.cfg.Vault.Latest(ctx, o.Profile.ID, hub.KindSnapshot)
	if err != nil && !errors.Is(err, hub.ErrNotFound) {
		return Restored{}, fmt.Errorf("reading the captured config directory: %w", err)
	}
	if err := t.begin(); err != nil {
		return Restored{}, fmt.Errorf("restoring: %w", err)
	}
	defer t.discard()
	names, err := t.unpack(snapshot.Payload)
	if err != nil {
		return Restored{}, fmt.Errorf("restoring: %w", err)
	}
	if o.FullLogin {
		h := hub.Handover{Generation: l.gen, To: []string{t.path}, At: c.cfg.Now().UTC(), Shared: true, Snapshot: snapshot.Generation}
		if err := c.step("copy", func() error { return c.commitHandover(ctx, o.Profile.ID, l, h) }); err != nil {
			return Restored{}, err
		}
	}
	r := Restored{Dir: t.path, Files: len(names.files), FullLogin: o.FullLogin, Replaced: t.full, AccessExpires: l.cred.ExpiresAt}
	if o.FullLogin {
		r.LoginExpires = l.cred.LoginExpiresAt
	}
	if err := t.finish(c, o, names, credential); err != nil {
		return Restored{}, fmt.Errorf("restoring: %w", err)
	}
	return r, nil
}

// restorable returns the login and the credential file that is restored.
func (c *Carrier) restorable(ctx context.Context, o Restore, hold Hold) (login, []byte, error) {
	l, err := c.readLogin(ctx, o.Profile.ID)
	if err != nil {
		return login{}, nil, err
	}
	if l.gen == 0 {
		return login{}, nil, hub.Hint(fmt.Errorf("%w: profile %q has no login", hub.ErrLoginRequired, o.Profile.Name), "sign in with `claude-hub login`")
	}
	if err := l.moved(); err != nil {
		return login{}, nil, err
	}
	now := c.cfg.Now()
	switch {
	case l.ended(now):
		return login{}, nil, hub.Hint(fmt.Errorf("%w: the login has reached the end of its life", hub.ErrLoginRequired), "sign in with `claude-hub login`")
	case o.FullLogin && l.cred.RefreshToken.IsZero():
		return login{}, nil, fmt.Errorf("%w: profile %q has no refresh token: its access token came alone", hub.ErrRefused, o.Profile.Name)
	case o.FullLogin:
		if err := hold.Settled(l.gen); err != nil {
			return login{}, nil, err
		}
		b, err := l.cred.Encode()
		return l, b, err
	case !now.Before(l.cred.ExpiresAt):
		return login{}, nil, hub.Hint(fmt.Errorf("%w: the access token has expired", hub.ErrLoginRequired), "refresh it with `claude-hub refresh`")
	}
	b, err := l.cred.WithoutRefreshToken().Encode()
	return l, b, err
}

// target is the directory that is restored, and the one beside it that becomes it.
// Everything is done through open directories: the parent may belong to somebody
// else, who can rename what is in it.
type target struct {
	path   string   // absolute
	parent *os.Root // of path
	name   string   // in parent
	full   bool     // there is something in it, which is to be replaced

	tempName string
	temp     *os.Root
	lock     *os.File // of temp's directory: says that its maker lives
}

// openTarget looks at what is there, and changes nothing.
func (c *Carrier) openTarget(o Restore) (*target, error) {
	path, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.Dir == "" || path == string(filepath.Separator) {
		return nil, fmt.Errorf("%w: %q can't be restored to", hub.ErrInvalid, o.Dir)
	}
	if err := c.apartFromHub(path); err != nil {
		return nil, err
	}
	parent, err := os.OpenRoot(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		err = hub.Hint(fmt.Errorf("%w: %s", hub.ErrNotFound, filepath.Dir(path)), "make that directory first")
	}
	if err != nil {
		return nil, err
	}
	t := &target{path: path, parent: parent, name: filepath.Base(path)}
	if err := t.look(o.Replace); err != nil {
		parent.Close()
		return nil, err
	}
	return t, nil
}

// apartFromHub refuses the hub's own directory, what is in it, and what holds it.
func (c *Carrier) apartFromHub(path string) error {
	own, err := filepath.EvalSymlinks(c.cfg.Dir)
	if err != nil {
		return err
	}
	real := path
	if parent, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		real = filepath.Join(parent, filepath.Base(path))
	}
	within := func(dir, in string) bool { return dir == in || strings.HasPrefix(dir, in+string(filepath.Separator)) }
	if within(real, own) || within(own, real) {
		return hub.Hint(fmt.Errorf("%w: %s is in the way of the hub's own directory, %s", hub.ErrRefused, path, own), "name a directory elsewhere")
	}
	return nil
}

func (t *target) look(replace bool) error {
	info, err := t.parent.Lstat(t.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return hub.Hint(fmt.Errorf("%w: %s is not a directory", hub.ErrExists, t.path), "name a directory that does not exist or is empty")
	}
	d, err := t.parent.Open(t.name)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); err == io.EOF {
		return nil
	} else if err != nil {
		return err
	}
	cred, err := t.parent.Lstat(filepath.Join(t.name, agent.CredentialFile))
	isConfig := err == nil && cred.Mode().IsRegular()
	switch {
	case !replace:
		return hub.Hint(fmt.Errorf("%w: %s is not empty", hub.ErrExists, t.path), "name a directory that does not exist or is empty; --force replaces a config directory, all of it")
	case !isConfig:
		return hub.Hint(fmt.Errorf("%w: %s holds no %s, so it is no config directory and is not replaced", hub.ErrRefused, t.path, agent.CredentialFile),
			"name a directory that does not exist or is empty")
	}
	t.full = true
	return nil
}

const tempMark = ".claude-hub-restore-"

// begin makes the directory beside the target, and removes those of dead ones.
func (t *target) begin() error {
	t.sweep()
	t.tempName = "." + t.name + tempMark + strings.ToLower(rand.Text()[:12])
	if err := t.parent.Mkdir(t.tempName, 0o700); err != nil {
		return err
	}
	before, err := t.parent.Lstat(t.tempName)
	if err != nil {
		return err
	}
	if t.temp, err = t.parent.OpenRoot(t.tempName); err != nil {
		return err
	}
	if t.lock, err = t.temp.Open("."); err != nil {
		return err
	}
	after, err := t.lock.Stat()
	if err != nil {
		return err
	}
	if s, ok := after.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() || !os.SameFile(before, after) {
		return fmt.Errorf("%w: the directory beside %s was replaced meanwhile", hub.ErrConflict, t.path)
	}
	if err := syscall.Flock(int(t.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("locking a directory: %w", err)
	}
	return t.lock.Chmod(0o700) // whatever the umask
}

// sweep removes what killed restores of the same directory have left. It asks the
// kernel whether their maker lives.
func (t *target) sweep() {
	d, err := t.parent.Open(".")
	if err != nil {
		return
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "."+t.name+tempMark) {
			continue
		}
		left, err := t.parent.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if syscall.Flock(int(left.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			t.parent.RemoveAll(name)
		}
		left.Close()
	}
}

// discard removes the directory beside the target, if it is still there.
func (t *target) discard() {
	if t.tempName != "" {
		t.parent.RemoveAll(t.tempName)
	}
	if t.lock != nil {
		t.lock.Close()
	}
	if t.temp != nil {
		t.temp.Close()
	}
}

// tree is what was unpacked: a directory comes before what is in it.
type tree struct{ files, dirs []string }

// unpack unpacks the snapshot and gives everything its mode.
func (t *target) unpack(snapshot []byte) (tree, error) {
	if snapshot == nil {
		return tree{}, nil
	}
	// By its descriptor: the name may lead elsewhere by now.
	self := fmt.Sprintf("/proc/self/fd/%d/.", t.lock.Fd())
	m, err := archive.Unpack(bytes.NewReader(snapshot), self, archive.Limits{})
	if err != nil {
		return tree{}, err
	}
	var names tree
	for _, e := range m.Entries {
		name := filepath.FromSlash(e.Name)
		mode := e.Mode.Perm()&0o700 | 0o600
		if e.Mode.IsDir() {
			mode = 0o700
			names.dirs = append(names.dirs, name)
		} else {
			names.files = append(names.files, name)
		}
		if err := t.temp.Chmod(name, mode); err != nil {
			return tree{}, err
		}
	}
	return names, nil
}

// finish writes the credential file, makes all of it durable and gives it its
// name, in this order.
func (t *target) finish(c *Carrier, o Restore, names tree, credential []byte) error {
	if err := c.step("credential", func() error { return t.writeCredential(credential) }); err != nil {
		return err
	}
	names.files = append(slices.DeleteFunc(names.files, func(s string) bool { return s == agent.CredentialFile }), agent.CredentialFile)
	if err := c.step("sync", func() error { return t.settle(o, names) }); err != nil {
		return err
	}
	if err := c.step("rename", t.rename); err != nil {
		return err
	}
	d, err := t.parent.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil || !t.full {
		return err
	}
	if err := t.parent.RemoveAll(t.tempName); err != nil {
		return fmt.Errorf("the new directory is in its place, but the old one is left as %s: %w", t.tempName, err)
	}
	return nil
}

// writeCredential writes the credential file in the place of whatever the snapshot
// may have of that name.
func (t *target) writeCredential(content []byte) error {
	if err := t.temp.Remove(agent.CredentialFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := t.temp.OpenFile(agent.CredentialFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Chmod(0o600)
}

// settle gives everything its owner and makes it durable, the outermost directory
// last: as long as that is ours, nobody else can get in.
func (t *target) settle(o Restore, names tree) error {
	one := func(name string) error {
		f, err := t.temp.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if o.UID >= 0 || o.GID >= 0 {
			if err := f.Chown(o.UID, o.GID); err != nil {
				return ownerError(o, err)
			}
		}
		return f.Sync()
	}
	var all errgroup.Group // several at once: a file system makes one journal entry of them
	all.SetLimit(syncsAtOnce)
	for _, name := range slices.Concat(names.files, names.dirs) {
		all.Go(func() error { return one(name) })
	}
	if err := all.Wait(); err != nil {
		return err
	}
	return one(".")
}

const syncsAtOnce = 16

func ownerError(o Restore, err error) error {
	if errors.Is(err, syscall.EPERM) {
		return hub.Hint(fmt.Errorf("%w: only root can give files to user %d, group %d", hub.ErrRefused, o.UID, o.GID), "run it as root, or as that user")
	}
	return err
}

// rename makes the directory the target, in one step: over nothing, over an empty
// directory, or in exchange with one that is to be replaced.
func (t *target) rename() error {
	d, err := t.parent.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	fd := int(d.Fd())
	if t.full {
		if err := unix.Renameat2(fd, t.tempName, fd, t.name, unix.RENAME_EXCHANGE); err != nil {
			return fmt.Errorf("replacing %s: %w", t.path, err)
		}
		return nil // discard removes the old one, which has the temporary name now
	}
	err = unix.Renameat(fd, t.tempName, fd, t.name)
	switch {
	case errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST):
		return hub.Hint(fmt.Errorf("%w: %s is not empty any more", hub.ErrExists, t.path), "name another directory")
	case errors.Is(err, syscall.EBUSY):
		return hub.Hint(fmt.Errorf("%w: %s is a mount point", hub.ErrRefused, t.path), "restore to a directory in it, or beside it")
	case err != nil:
		return fmt.Errorf("naming %s: %w", t.path, err)
	}
	t.tempName = ""
	return nil
}

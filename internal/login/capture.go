package login

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// captured is a login on disk, about to go into the vault.
type captured struct {
	dir     string            // the config directory
	extra   map[string]string // files from elsewhere that belong into it
	exclude []string          // names at the top of dir that are not the CLI's
	content []byte            // of the credential file
	creds   agent.Credentials
}

// keep checks and captures what a sign-in has left in its home.
func (l *Login) keep(ctx context.Context, profile hub.Profile, home *scratch, content []byte, creds agent.Credentials, ui any) (Result, error) {
	warning, err := l.check(ctx, creds, ui)
	if err != nil {
		return Result{}, err
	}
	progress(ui, StepCapturing)
	result, err := l.capture(ctx, profile, captured{dir: home.config(), content: content, creds: creds})
	if err != nil {
		return Result{}, err
	}
	if warning != "" {
		result.Warnings = append(result.Warnings, warning)
	}
	progress(ui, StepDone)
	return result, nil
}

// check asks the platform for a login that was just made. Only a clear no refuses
// it: to throw away a good login would be worse than to keep one that nobody can
// say anything about. Nothing is lost by asking first, other than with a rotation,
// whose answer has no second copy: the old login lives on whatever happens here.
func (l *Login) check(ctx context.Context, creds agent.Credentials, ui any) (warning string, err error) {
	if l.cfg.Accepted == nil || !creds.ExpiresAt.After(l.cfg.Now()) { // an expired one is refused, and can be refreshed
		return "", nil
	}
	progress(ui, StepChecking)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.patience.check)
	defer cancel()
	accepted, err := l.cfg.Accepted(ctx, creds.AccessToken)
	if err != nil {
		return fmt.Sprintf("The login is kept, but whether the platform accepts it could not be found out: %v.", err), nil
	}
	if !accepted {
		err := fmt.Errorf("%w: the platform does not accept the login that it has just given; nothing was captured, and an older login stays as it was", hub.ErrRefused)
		return "", hub.Hint(err, "start again with `claude-hub login`; if it happens again, look whether the clock is right and whether a proxy changes requests")
	}
	return "", nil
}

// capture commits a login. From here on ctx's end no longer counts: the code is
// spent, and this is the only copy.
//
// The order is: (1) pack the directory; (2) take the refresh's lock, so that no
// rotation of the old login is under way; (3) commit the snapshot and the name of
// the account; (4) commit the login; (5) forget what the refresher knew of the
// old login. Step 4 is the commit point. A crash before it leaves the old login
// as it was, at most with a newer snapshot and another account's name beside it,
// which hold no credential and which the next capture follows. A crash after it leaves a complete capture, and directories of the
// old login's refreshes; those are for a generation that is no longer the
// latest, so that the refresher can't commit them over the new one.
func (l *Login) capture(ctx context.Context, profile hub.Profile, c captured) (Result, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.patience.capture)
	defer cancel()
	var snapshot bytes.Buffer
	exclude, err := notCaptured(c.dir, c.exclude)
	if err != nil {
		return Result{}, fmt.Errorf("capturing the config directory: %w", err)
	}
	manifest, err := archive.Pack(&snapshot, c.dir, archive.Options{Exclude: exclude, Extra: c.extra})
	if err != nil {
		return Result{}, fmt.Errorf("capturing the config directory: %w", err)
	}
	result := Result{
		Kind:         hub.KindLogin,
		Files:        files(manifest),
		Subscription: c.creds.Subscription, AccessExpires: c.creds.ExpiresAt, LoginExpires: c.creds.LoginExpiresAt,
	}
	unlock, err := l.lockRefresh(ctx, profile.ID)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if _, err := l.commit(ctx, profile.ID, hub.KindSnapshot, snapshot.Bytes()); err != nil {
		return Result{}, fmt.Errorf("keeping the config directory: %w", err)
	}
	l.keepAccount(ctx, profile, c)
	record, err := l.commit(ctx, profile.ID, hub.KindLogin, c.content)
	if err != nil {
		return Result{}, fmt.Errorf("keeping the login: %w", err)
	}
	result.Generation = record.Generation
	if err := l.forgetRefreshes(profile.ID); err != nil {
		l.cfg.Log.Warn("the old login's refresh state could not be removed", "profile", profile.Name, "err", err)
		result.Warnings = append(result.Warnings, fmt.Sprintf("What the hub knew of the old login's refreshes could not be removed: %v.", err))
	}
	return result, nil
}

// maxSwaps bounds how often a commit that lost a race is tried again.
const maxSwaps = 10

// commit makes payload the latest generation, after whatever is the latest now.
func (l *Login) commit(ctx context.Context, profile hub.ProfileID, kind hub.Kind, payload []byte) (vault.Record, error) {
	for swap := 1; ; swap++ {
		latest, err := l.cfg.Vault.Generation(ctx, profile, kind)
		if err != nil {
			return vault.Record{}, err
		}
		record, err := l.cfg.Vault.Commit(ctx, profile, kind, latest, payload)
		if err != nil && !errors.Is(err, hub.ErrConflict) {
			// It may be stored or not: the same call finds out.
			record, err = l.cfg.Vault.Commit(ctx, profile, kind, latest, payload)
		}
		if !errors.Is(err, hub.ErrConflict) || swap == maxSwaps {
			return record, err
		}
	}
}

// The refresher's files in its folder for a profile.
const (
	refreshLock     = "lock"
	refreshStatus   = "status.json"
	refreshAttempts = "attempt-"
	refreshKept     = "kept-"
)

// lockRefresh waits for a refresh that is under way and keeps the next one out.
func (l *Login) lockRefresh(ctx context.Context, profile hub.ProfileID) (unlock func(), err error) {
	for _, dir := range []string{l.cfg.RefreshDir, l.refreshDir(profile)} {
		if err := privateDir(dir); err != nil {
			return nil, fmt.Errorf("locking out refreshes: %w", err)
		}
	}
	path := filepath.Join(l.refreshDir(profile), refreshLock)
	waiting := func() { l.cfg.Log.Info("waiting for a refresh of the old login to end", "lock", path) }
	f, err := lockFile(ctx, path, waiting)
	if err != nil {
		err = fmt.Errorf("waiting for a refresh of the old login: %w", err)
		return nil, hub.Hint(err, "see what holds the lock file open, then sign in again")
	}
	return func() { f.Close() }, nil
}

func (l *Login) refreshDir(profile hub.ProfileID) string {
	return filepath.Join(l.cfg.RefreshDir, string(profile))
}

// forgetRefreshes removes what the refresher keeps of the login that was just
// replaced: its health, attempts that nobody came back to, and answers that
// could not be committed.
func (l *Login) forgetRefreshes(profile hub.ProfileID) error {
	dir := l.refreshDir(profile)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() == refreshStatus || strings.HasPrefix(e.Name(), refreshAttempts) || strings.HasPrefix(e.Name(), refreshKept) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// notCaptured lists what a snapshot leaves out: credential files wherever they
// are (a killed CLI leaves a temporary one, and people keep copies), and the
// locks and temporary files of a CLI that was killed, which would lock out
// everybody who unpacks them.
func notCaptured(dir string, exclude []string) ([]string, error) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return nil // archive.Pack meets it too, and says what is wrong
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		base := strings.ToLower(d.Name())
		top := !strings.ContainsRune(name, filepath.Separator)
		dead := strings.HasSuffix(base, ".lock") || strings.Contains(base, ".json.tmp.")
		if strings.HasPrefix(base, agent.CredentialFile) || top && dead {
			exclude = append(exclude, filepath.ToSlash(name))
			if d.IsDir() {
				return filepath.SkipDir
			}
		}
		return nil
	})
	return exclude, err
}

func files(m archive.Manifest) int {
	n := 0
	for _, e := range m.Entries {
		if !e.Mode.IsDir() {
			n++
		}
	}
	return n
}

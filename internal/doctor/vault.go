package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

const groupVault = "key and vault"

var keyCheck = check{
	name: "key", group: groupVault, hub: true,
	looks: []Entry{
		{ID: "key-missing", Level: LevelError, Meaning: "the key file is gone: nobody can open the vault"},
		{ID: "key-invalid", Level: LevelError, Meaning: "the key file holds something else than one age key"},
	},
	run: lookAtKey,
}

func lookAtKey(_ context.Context, p *patient) []Finding {
	_, err := p.key()
	path := p.keyPath()
	switch {
	case err == nil || errors.Is(err, hub.ErrRefused) && !isLink(path) && p.KeyFile == "":
		return nil // permissions and owners have findings of their own
	case errors.Is(err, hub.ErrNotFound) && p.KeyFile != "":
		return []Finding{{
			ID: "key-missing", Level: LevelError,
			Symptom: fmt.Sprintf("there is no key at %s", path),
			Cause:   "CLAUDE_HUB_KEY_FILE names a secret that is not mounted here",
			Fix:     hub.HintOf(err),
		}}
	case errors.Is(err, hub.ErrNotFound) && !exists(p.path("vault")):
		return []Finding{{
			ID: "key-missing", Level: LevelError,
			Symptom: fmt.Sprintf("%s has neither a key nor a vault", p.Dir),
			Cause:   "`claude-hub init` was not run here, or was cut short",
			Fix:     "`claude-hub init` makes what is missing",
		}}
	case errors.Is(err, hub.ErrNotFound):
		return []Finding{{
			ID: "key-missing", Level: LevelError,
			Symptom: fmt.Sprintf("there is no key at %s", path),
			Cause:   "it was removed, or left out when the hub was copied, restored or mounted",
			Fix:     fmt.Sprintf("put your copy of it back to %s (mode 0600). With a recovery key instead: move the directory away, `claude-hub init`, `claude-hub recover`. Without either the login is lost: move it away, `claude-hub init`, `claude-hub login`", path),
		}}
	}
	return []Finding{{
		ID: "key-invalid", Level: LevelError,
		Symptom: fmt.Sprintf("the key can't be used: %v", err),
		Cause:   "another file was put in its place, or it was changed by hand",
		Fix:     hintOr(err, "put your copy of the key back to "+path),
	}}
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

var vaultCheck = check{
	name: "vault", group: groupVault, hub: true, limit: 2 * time.Minute,
	looks: []Entry{
		{ID: "vault-missing", Level: LevelError, Meaning: "the vault is gone, or is none"},
		{ID: "key-wrong", Level: LevelError, Meaning: "the key is not the one that the vault was sealed with"},
		{ID: "vault-damaged", Level: LevelError, Meaning: "a record of the vault does not open: cut off, changed, or in the place of another"},
		{ID: "vault-unknown", Level: LevelError, Fixable: true, Meaning: "there is something in the vault that does not belong there"},
		{ID: "vault-leftover", Level: LevelWarning, Fixable: true, Meaning: "a writer died and left its temporary file in the vault"},
	},
	run: lookAtVault,
}

func lookAtVault(ctx context.Context, p *patient) []Finding {
	if _, err := p.backend(); err != nil {
		switch {
		case errors.Is(err, hub.ErrNotFound) && !exists(p.keyPath()):
			return nil // the key check says that there was no init
		case errors.Is(err, hub.ErrRefused) && !isLink(p.path("vault")), errors.Is(err, fs.ErrPermission):
			return nil // permissions or owner
		}
		return []Finding{{
			ID: "vault-missing", Level: LevelError,
			Symptom: fmt.Sprintf("the vault can't be opened: %v", err),
			Cause:   "it was removed, left out when the hub was copied or mounted, or written by a newer version",
			Fix:     fmt.Sprintf("put your copy of it back to %s. Without one: move the directory away, `claude-hub init`, `claude-hub login`", p.path("vault")),
		}}
	}
	files, err := p.vaultFiles(ctx)
	if err != nil {
		return []Finding{{
			ID: "vault-damaged", Level: LevelError,
			Symptom: fmt.Sprintf("the vault can't be read: %v", err),
			Cause:   "its permissions, or a disk in trouble", Fix: "look for disk errors in the kernel's log (`dmesg`), and restore the vault from a backup",
		}}
	}
	found := append(p.strangers(files), p.leftovers(files)...)
	if v, err := p.vault(); err == nil {
		found = append(found, p.openAll(ctx, v, files)...)
	}
	return found
}

// vaultFile is what one file of the vault is, by its name.
type vaultFile struct {
	path    string // from the vault's directory
	kind    hub.Kind
	profile hub.ProfileID
	gen     hub.Generation // 0: not a record
	name    string         // of a profile, where it is a claim to it
	own     bool           // the vault's own, beside the records
	temp    bool
	breaks  bool // a stranger that keeps the profile's record from being found
	size    int64
}

// vaultFiles lists everything in the vault.
func (p *patient) vaultFiles(ctx context.Context) ([]vaultFile, error) {
	dir := p.path("vault")
	var files []vaultFile
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed while we looked
		case err != nil:
			return err
		case d.IsDir():
			return nil
		case len(files) > maxEntries:
			return fs.SkipAll
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f := parseVaultPath(filepath.ToSlash(rel))
		f.temp = f.temp && d.Type().IsRegular()
		if info, err := d.Info(); err == nil {
			f.size = info.Size()
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

// parseVaultPath says what a file of the vault is. It accepts any name.
func parseVaultPath(path string) vaultFile {
	f := vaultFile{path: path}
	elements := strings.Split(path, "/")
	base := elements[len(elements)-1]
	switch {
	case path == "format", path == ".lock":
		f.own = true
	case strings.HasPrefix(base, ".tmp-"):
		f.temp = true
	case vault.CheckKey(path) != nil:
	case len(elements) == 2 && elements[0] == "names":
		f.name = base
	case len(elements) == 4 && elements[0] == "records":
		f.profile, f.kind = hub.ProfileID(elements[1]), hub.Kind(elements[2])
		gen, err := strconv.ParseUint(base, 10, 64)
		if err == nil && gen > 0 && fmt.Sprintf("%020d", gen) == base {
			f.gen = hub.Generation(gen)
		} else {
			f.breaks = true
		}
	}
	return f
}

func (f vaultFile) stranger() bool { return f.gen == 0 && f.name == "" && !f.own && !f.temp }

// strangers finds what does not belong into a vault.
func (p *patient) strangers(files []vaultFile) []Finding {
	var names []string
	level := LevelWarning
	for _, f := range files {
		if f.stranger() {
			names = append(names, f.path)
			if f.breaks {
				level = LevelError
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Finding{{
		ID: "vault-unknown", Level: level,
		Symptom: fmt.Sprintf("the vault has in it what is no record: %s", some(names)),
		Cause:   "an editor, a backup program or a person has put it there; among the generations of a record it keeps the record from being read",
		Fix:     fmt.Sprintf("move it out of %s", quote(p.path("vault"))),
		repair:  func(context.Context) (string, error) { return p.setAside("vault", names) },
	}}
}

// setAside moves files of a directory of the hub's into one where they harm nobody.
func (p *patient) setAside(from string, names []string) (string, error) {
	aside := filepath.Join("set-aside", p.Now().UTC().Format("20060102T150405.000Z"))
	root, err := p.openHub()
	if err != nil {
		return "", err
	}
	defer root.Close()
	for i, name := range names {
		to := filepath.Join(aside, name)
		if err := root.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return fmt.Sprintf("moved %d of %d", i, len(names)), err
		}
		if err := root.Rename(filepath.Join(from, name), to); err != nil {
			return fmt.Sprintf("moved %d of %d", i, len(names)), err
		}
	}
	return fmt.Sprintf("moved %s to %s", some(names), p.path(aside)), nil
}

// leftovers finds temporary files whose writer has died: a living one holds the
// kernel's lock on its file.
func (p *patient) leftovers(files []vaultFile) []Finding {
	var names []string
	for _, f := range files {
		if f.temp && !isLocked(p.path("vault", f.path)) {
			names = append(names, f.path)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Finding{{
		ID: "vault-leftover", Level: LevelWarning,
		Symptom: fmt.Sprintf("%d temporary files in the vault belong to nobody: %s", len(names), some(names)),
		Cause:   "a program was killed while it wrote; nothing is lost by that",
		Fix:     "any command that opens the vault removes them: `claude-hub status`",
		repair: func(context.Context) (string, error) {
			_, err := vault.Open(p.path("vault"))
			return "removed " + some(names), err
		},
	}}
}

// isLocked reports whether somebody holds the kernel's lock on a file or directory.
func isLocked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// openAll opens every generation of every record, and every claim to a name.
func (p *patient) openAll(ctx context.Context, v *vault.Vault, files []vaultFile) []Finding {
	newest := map[string]hub.Generation{}
	for _, f := range files {
		if f.gen > 0 {
			dir := filepath.Dir(f.path)
			newest[dir] = max(newest[dir], f.gen)
		}
	}
	var foreign, current, old []string
	records := 0
	for _, f := range files {
		var err error
		switch {
		case f.gen > 0:
			_, err = v.Get(ctx, f.profile, f.kind, f.gen)
		case f.name != "":
			_, err = v.Profile(ctx, hub.ProfileName(f.name))
		default:
			continue
		}
		if f.gen > 0 && errors.Is(err, hub.ErrInvalid) {
			continue // a kind that a newer version keeps
		}
		records++
		switch {
		case err == nil, errors.Is(err, hub.ErrNotFound), ctx.Err() != nil: // pruned or renamed meanwhile; out of time
		case errors.Is(err, vault.ErrWrongKey):
			foreign = append(foreign, f.path)
		case f.gen > 0 && f.gen < newest[filepath.Dir(f.path)]:
			old = append(old, f.path)
		default:
			current = append(current, f.path)
		}
	}
	if err := ctx.Err(); err != nil {
		return []Finding{outOfTime(records)}
	}
	return p.unopened(records, foreign, current, old)
}

func outOfTime(records int) Finding {
	return Finding{
		ID: "vault-damaged", Level: LevelWarning,
		Symptom: fmt.Sprintf("the vault was not looked through to its end: %d records in two minutes", records),
		Cause:   "a slow disk, or a very large vault", Fix: "try again while the machine does nothing else",
	}
}

func (p *patient) unopened(records int, foreign, current, old []string) []Finding {
	var found []Finding
	if len(foreign) > 0 {
		cause := "the key file belongs to another hub's vault, or was made anew"
		if len(foreign) < records {
			cause = "records of another hub were copied into this vault, or the key was exchanged"
		}
		found = append(found, Finding{
			ID: "key-wrong", Level: LevelError,
			Symptom: fmt.Sprintf("the key does not open %d of the vault's %d records", len(foreign), records),
			Cause:   cause,
			Fix:     fmt.Sprintf("put the key that this vault was made with back to %s. With a recovery key instead: move the directory away, `claude-hub init`, `claude-hub recover`", p.keyPath()),
		})
	}
	if len(current) > 0 {
		found = append(found, Finding{
			ID: "vault-damaged", Level: LevelError,
			Symptom: fmt.Sprintf("a record in use does not open: %s", some(current)),
			Cause:   "it was cut off or changed: a full or failing disk, an incomplete restore, or somebody's hand",
			Fix:     "restore " + quote(p.path("vault")) + " from a backup, or sign in again with `claude-hub login`: an older generation is never used in its place, because its refresh token is spent",
		})
	}
	if len(old) > 0 {
		found = append(found, Finding{
			ID: "vault-damaged", Level: LevelWarning,
			Symptom: fmt.Sprintf("an old generation does not open: %s", some(old)),
			Cause:   "it was cut off or changed; nobody needs it, but a disk that does that does it again",
			Fix:     "look for disk errors in the kernel's log (`dmesg`); the record goes away by itself after some refreshes",
		})
	}
	return found
}

var recoveryCheck = check{
	name: "recovery", group: groupVault, hub: true,
	looks: []Entry{
		{ID: "recovery-none", Level: LevelWarning, Meaning: "no recovery recipients are set: when the key is lost, so is the vault"},
		{ID: "recovery-stale", Level: LevelWarning, Fixable: true, Meaning: "records in use were sealed to other recovery recipients than the present ones: one that was added can't open them, one that was withdrawn or exchanged still can"},
	},
	run: lookAtRecovery,
}

func lookAtRecovery(ctx context.Context, p *patient) []Finding {
	settings, err := p.settings()
	backend, berr := p.backend()
	if err != nil || berr != nil {
		return nil // they have findings of their own
	}
	var found []Finding
	if len(settings.RecoveryRecipients) == 0 {
		found = append(found, Finding{
			ID: "recovery-none", Level: LevelWarning,
			Symptom: fmt.Sprintf("only the key at %s opens the vault", p.keyPath()),
			Cause:   "config.yaml names no recovery_recipients",
			Fix:     "make a key with `age-keygen`, keep its secret half off this machine, and name the public half (age1…) in " + p.path("config.yaml") + "; or keep a copy of the key file somewhere safe",
		})
	}
	key, err := p.key()
	if err != nil {
		return found
	}
	files, err := p.vaultFiles(ctx)
	if err != nil {
		return found
	}
	note := key.RecoveryNote(settings.RecoveryRecipients)
	var stale []string
	for _, f := range current(files) {
		sealed, err := backend.Get(ctx, f.path, f.size+1)
		if err != nil || sealedTo(sealed) == 0 || !key.Sealed(sealed) { // damaged, or another key's: the vault check says so
			continue
		}
		if sealedTo(sealed) != 1+len(settings.RecoveryRecipients) || !noted(sealed, note) {
			stale = append(stale, f.path)
		}
	}
	if len(stale) == 0 {
		return found
	}
	return append(found, Finding{
		ID: "recovery-stale", Level: LevelWarning,
		Symptom: fmt.Sprintf("%d records in use do not open with the present recovery keys and no others: %s", len(stale), some(stale)),
		Cause:   "recovery_recipients were added, exchanged or withdrawn after these were written, or an older claude-hub wrote them, which did not note to whom; a record keeps the recipients that it was sealed to",
		Fix:     "`claude-hub doctor --fix` seals them anew; what they say stays as it is. Older generations and backups keep the recipients that they had: if a recovery key got into wrong hands, sign in anew, too",
		repair:  func(ctx context.Context) (string, error) { return p.reseal(ctx, settings.RecoveryRecipients) },
	})
}

// noted reports whether the age header of a sealed record has that line; "" is
// always there.
func noted(sealed []byte, note string) bool {
	head, _, _ := bytes.Cut(sealed, []byte("\n--- "))
	return note == "" || bytes.Contains(head, []byte("\n"+note+"\n"))
}

// current returns the newest generation of every record, and the names.
func current(files []vaultFile) []vaultFile {
	newest := map[string]hub.Generation{}
	for _, f := range files {
		newest[filepath.Dir(f.path)] = max(newest[filepath.Dir(f.path)], f.gen)
	}
	return slices.DeleteFunc(slices.Clone(files), func(f vaultFile) bool {
		return f.name == "" && (f.gen == 0 || f.gen < newest[filepath.Dir(f.path)])
	})
}

// reseal has the vault's records in use sealed to the present recipients.
func (p *patient) reseal(ctx context.Context, recipients []string) (string, error) {
	backend, err := vault.Open(p.path("vault"))
	if err != nil {
		return "", err
	}
	key, err := p.key()
	if err != nil {
		return "", err
	}
	v, err := vault.New(backend, key, vault.Options{Recipients: recipients})
	if err != nil {
		return "", err
	}
	n, err := v.Reseal(ctx)
	return fmt.Sprintf("sealed %d records anew, to the hub's key and %d recovery keys", n, len(recipients)), err
}

// maxStanzas bounds the lines of an age header that are read.
const maxStanzas = 1000

// sealedTo counts the recipients that a sealed record is encrypted to; 0 for what
// is no record. An age file does not say who they are.
func sealedTo(sealed []byte) int {
	n := 0
	for i := range maxStanzas {
		line, rest, ok := bytes.Cut(sealed, []byte("\n"))
		switch {
		case !ok, i == 0 && !bytes.HasPrefix(line, []byte("claude-hub-vault/")), i == 2 && !bytes.Equal(line, []byte("age-encryption.org/v1")):
			return 0
		case i > 2 && bytes.HasPrefix(line, []byte("--- ")):
			return n
		case i > 2 && bytes.HasPrefix(line, []byte("-> X25519 ")):
			n++
		}
		sealed = rest
	}
	return 0
}

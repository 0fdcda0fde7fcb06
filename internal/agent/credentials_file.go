package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// ReadCredentialFile reads a credential file that only its owner can have
// written and read: a regular file, no symlink, of the current user, closed to
// group and others, not empty, at most 1 MiB. Errors carry the command that mends
// the file as their hint. The content is for [ParseCredentials].
func ReadCredentialFile(path string) ([]byte, error) {
	// O_NONBLOCK, so that a fifo in the file's place cannot hang us.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the credential file: %w", err)
	}
	if err := checkInfo(path, info); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCredentialFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the credential file: %w", err)
	}
	switch {
	case len(b) == 0:
		return nil, invalid(hintSignIn, "%s is empty", path)
	case len(b) > maxCredentialFile:
		return nil, errCredentialSize(len(b))
	}
	return b, nil
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ELOOP):
		return invalid("name the real file: readlink -f "+shellQuote(path), "%s is a symbolic link", path)
	case errors.Is(err, fs.ErrNotExist):
		return hub.Hint(fmt.Errorf("%w: there is no %s", hub.ErrNotFound, path), hintSignIn)
	case errors.Is(err, fs.ErrPermission):
		return hub.Hint(fmt.Errorf("%w: %s may not be read by this user", hub.ErrInvalid, path), chownHint(path))
	}
	return fmt.Errorf("opening the credential file: %w", err)
}

func checkInfo(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return invalid(hintNotAFile, "%s is not a regular file", path)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%w: the owner of %s cannot be told on this system", hub.ErrInvalid, path)
	}
	if int(stat.Uid) != os.Geteuid() {
		return invalid(chownHint(path), "%s belongs to user %d, not to user %d who reads it", path, stat.Uid, os.Geteuid())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return invalid("chmod 600 "+shellQuote(path), "%s is open to other users (mode %04o)", path, info.Mode().Perm())
	}
	if info.Size() > maxCredentialFile {
		return errCredentialSize(int(info.Size()))
	}
	return nil
}

func chownHint(path string) string {
	return fmt.Sprintf("sudo chown %d %s", os.Geteuid(), shellQuote(path))
}

// shellQuote makes a hint safe to paste, whatever the path holds.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%", r)
	}
	if s != "" && s[0] != '-' && strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// maxSessionFile bounds the transcript that is kept for [Request.Resume].
const maxSessionFile = 64 << 20

// keepSession saves the CLI's transcript from the private home, which is about
// to be removed, so that a later run can go on where this one ended. The home is
// what the job made of it: nothing in it is followed out of it.
func keepSession(d *directory, session string) error {
	if !sessionName(session) {
		return nil // not a name that could be looked for
	}
	root, err := os.OpenRoot(d.in(homeDir)) // the job can change everything in it, but not itself
	if err != nil {
		return err
	}
	defer root.Close()
	project, text, err := findTranscript(root, session+".jsonl")
	if err != nil || project == "" {
		return err
	}
	dir := filepath.Join(d.in(sessionDir), project)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, session+".jsonl"), secret.Scrub(text), 0o600)
}

// maxProjects bounds the directories in which a transcript is looked for. The CLI
// makes one; a captured state may bring hundreds.
const maxProjects = 10_000

// findTranscript returns the first transcript of that name, and the name of the
// directory that it was in; "" if there is none.
func findTranscript(root *os.Root, name string) (project string, text []byte, err error) {
	projects := path.Join(path.Base(configDir), "projects")
	// In the place of a directory there may be a pipe, whose opening would never
	// return: O_DIRECTORY refuses it.
	dir, err := root.OpenFile(projects, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxProjects)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", nil, err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		text, err := readSession(root, path.Join(projects, entry.Name(), name))
		if !errors.Is(err, fs.ErrNotExist) {
			return entry.Name(), text, err
		}
	}
	return "", nil, nil
}

func readSession(root *os.Root, name string) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSessionFile {
		return nil, fmt.Errorf("%w: the session's transcript is no regular file or too large", hub.ErrInvalid)
	}
	return io.ReadAll(io.LimitReader(f, maxSessionFile))
}

// findSession looks up the session of the run that req goes on with.
func (r *Runner) findSession(ctx context.Context, req *Request) error {
	if req.Resume == "" {
		return nil
	}
	if _, err := hub.ParseRunID(string(req.Resume)); err != nil {
		return err
	}
	before, err := r.cfg.Store.Run(ctx, req.Resume)
	if err != nil {
		return err
	}
	same := before.ProfileID == req.Profile.ID || before.ProfileID == "" && before.Profile == req.Profile.Name
	if !same || before.Dir != req.Dir {
		return hub.Hint(fmt.Errorf("%w: run %s was of profile %s in %s", hub.ErrInvalid, before.ID, before.Profile, before.Dir),
			"go on with a run of the same profile, in the same directory")
	}
	left, err := hasSession(r.directory(before.ID))
	if err == nil && !left || before.AgentSession == "" || before.Verdict == "" {
		return hub.Hint(fmt.Errorf("%w: run %s has left no session", hub.ErrInvalid, before.ID), "start afresh, without the run")
	}
	req.session = before.AgentSession
	return err
}

// restoreSession puts the transcript where the CLI looks for it.
func (x *execution) restoreSession() error {
	if x.req.session == "" {
		return nil
	}
	to := filepath.Join(x.dir.in(configDir), "projects")
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("restoring the session: %w", err)
	}
	if err := copyTree(filepath.Join(x.directory(x.req.Resume), sessionDir), to); err != nil {
		return fmt.Errorf("restoring the session: %w", err)
	}
	return nil
}

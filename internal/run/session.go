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

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// maxSessionFile bounds the transcript that is kept for [Request.Resume].
const maxSessionFile = 64 << 20

// keepSession saves the CLI's transcript from the private home, which is about
// to be removed, so that a later run can go on where this one ended. The home is
// what the job made of it: nothing in it is followed out of it.
func (x *execution) keepSession() error {
	if (agent.Invocation{Prompt: "-", Resume: x.record.AgentSession}).Check() != nil || x.record.AgentSession == "" {
		return nil // not a name that could be looked for
	}
	root, err := os.OpenRoot(x.dir.in(configDir))
	if err != nil {
		return err
	}
	defer root.Close()
	names, err := fs.Glob(root.FS(), "projects/*/"+x.record.AgentSession+".jsonl")
	if err != nil || len(names) == 0 {
		return err
	}
	text, err := readSession(root, names[0])
	if err != nil {
		return err
	}
	dir := filepath.Join(x.dir.in(sessionDir), path.Base(path.Dir(names[0])))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, path.Base(names[0])), secret.Scrub(text), 0o600)
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
	if before.Profile != req.Profile.Name || before.Dir != req.Dir {
		return hub.Hint(fmt.Errorf("%w: run %s was of profile %s in %s", hub.ErrInvalid, before.ID, before.Profile, before.Dir),
			"go on with a run of the same profile, in the same directory")
	}
	_, err = os.Stat(filepath.Join(r.directory(before.ID), sessionDir))
	if errors.Is(err, fs.ErrNotExist) || before.AgentSession == "" || before.Verdict == "" {
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

package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/archive"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// Platform is what runs need that talk to the platform themselves.
type Platform interface {
	// Credential returns the profile's credential file, at best without its
	// refresh token, and its generation. [hub.ErrLoginRequired] if it is dead.
	Credential(ctx context.Context, profile hub.ProfileID) ([]byte, hub.Generation, error)

	// Changed returns nil once there is a generation after the given one.
	Changed(ctx context.Context, profile hub.ProfileID, after hub.Generation) error

	// Snapshot returns the captured state as a stream for [archive.Unpack].
	// [hub.ErrNotFound] if nothing was captured.
	Snapshot(ctx context.Context, profile hub.ProfileID) (io.ReadCloser, error)

	// Egress serves, on a unix socket that it makes, a proxy that admits the
	// platform's API and nothing else, until it is closed.
	Egress(ctx context.Context, socket string) (io.Closer, error)
}

// retryPause is the pause after a rotation could not be written or awaited.
const retryPause = 2 * time.Second

// openCopy makes the seed's kind of run: the captured state read-only, a working
// copy of it as the CLI's own, and a way to the platform's API alone.
func (x *execution) openCopy(ctx context.Context) (*way, error) {
	if err := x.unpack(ctx); err != nil {
		return nil, err
	}
	credential, generation, err := x.credential(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the login: %w", err)
	}
	if err := x.writeHome(credential); err != nil {
		return nil, err
	}
	socket, err := x.dir.socket(platformSock)
	if err != nil {
		return nil, fmt.Errorf("making the egress socket: %w", err)
	}
	door, err := x.cfg.Platform.Egress(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("opening the egress: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // also while the CLI is being interrupted
	var updating sync.WaitGroup
	updating.Go(func() { x.followRotations(ctx, generation) })
	w := &way{
		env:     map[string]string{"HTTPS_PROXY": insideURL, "https_proxy": insideURL},
		mounts:  []sandbox.Mount{{Source: x.dir.in(capturedDir), Target: capturedIn}},
		socket:  x.dir.in(platformSock),
		usage:   func() hub.Usage { return hub.Usage{} },
		refusal: func() *Refusal { return nil },
		close: sync.OnceValue(func() error {
			cancel()
			updating.Wait()
			return door.Close()
		}),
	}
	x.addAuthorities(w)
	return w, nil
}

// unpack lays out the captured state, and the working copy of it.
func (x *execution) unpack(ctx context.Context) error {
	snapshot, err := x.cfg.Platform.Snapshot(ctx, x.req.Profile.ID)
	if errors.Is(err, hub.ErrNotFound) {
		return os.Mkdir(x.dir.in(capturedDir), 0o700) // a login without a captured directory works too
	}
	if err != nil {
		return fmt.Errorf("reading the captured state: %w", err)
	}
	defer snapshot.Close()
	if _, err := archive.Unpack(snapshot, x.dir.in(capturedDir), archive.Limits{}); err != nil {
		return fmt.Errorf("unpacking the captured state: %w", err)
	}
	if err := copyTree(x.dir.in(capturedDir), x.dir.in(configDir)); err != nil {
		return fmt.Errorf("making the working copy: %w", err)
	}
	// The captured directory may be older than the split, or hold one by accident.
	for _, dir := range []string{capturedDir, configDir} {
		if err := os.RemoveAll(filepath.Join(x.dir.in(dir), agent.CredentialFile)); err != nil {
			return fmt.Errorf("making the working copy: %w", err)
		}
	}
	return nil
}

// credential returns the current login without its refresh token, whatever the
// platform's side has left in it.
func (x *execution) credential(ctx context.Context) (agent.Credentials, hub.Generation, error) {
	file, generation, err := x.cfg.Platform.Credential(ctx, x.req.Profile.ID)
	if err != nil {
		return agent.Credentials{}, 0, err
	}
	c, err := agent.ParseCredentials(file)
	return c.WithoutRefreshToken(), generation, err
}

// platformRefusal finds out what a 401 of the platform means: the CLI has only
// seen that its token is dead.
func (x *execution) platformRefusal(ctx context.Context, r *agent.Result) *Refusal {
	if r == nil || r.APIStatus != http.StatusUnauthorized {
		return nil
	}
	if _, _, err := x.credential(ctx); errors.Is(err, hub.ErrLoginRequired) {
		return &Refusal{Verdict: hub.VerdictLoginRequired, Reason: err.Error()}
	}
	return nil
}

// followRotations gives each new access token to the working copy: the CLI reads
// the file again when the platform answers 401.
func (x *execution) followRotations(ctx context.Context, generation hub.Generation) {
	for ctx.Err() == nil {
		err := x.cfg.Platform.Changed(ctx, x.req.Profile.ID, generation)
		if err == nil {
			var c agent.Credentials
			var next hub.Generation
			if c, next, err = x.credential(ctx); err == nil && next > generation {
				if err = replaceCredential(x.dir.in(homeDir), c); err == nil {
					generation = next
					continue
				}
			}
		}
		if ctx.Err() != nil {
			return
		}
		x.log.Warn("a working copy did not get the newer access token yet", "generation", generation, "err", err)
		within(ctx.Done(), retryPause)
	}
}

// replaceCredential replaces the credential file in a home that a job is using.
// The job may have put links anywhere in it: everything goes through an
// [os.Root], and the file is swapped, never written in place.
func replaceCredential(home string, c agent.Credentials) (err error) {
	file, err := c.Encode()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(home)
	if err != nil {
		return err
	}
	defer root.Close()
	dir := path.Base(configDir)
	name := path.Join(dir, agent.CredentialFile)
	next := name + ".next"
	if err := root.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(next, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(file)
	if err := errors.Join(err, f.Close()); err != nil {
		root.Remove(next)
		return err
	}
	return root.Rename(next, name)
}

// addAuthorities makes the certificate authorities of the hub's environment
// known inside: behind a company's proxy the platform is signed by them.
func (x *execution) addAuthorities(w *way) {
	for _, kv := range x.cfg.Environ {
		name, file, _ := strings.Cut(kv, "=")
		if name != "SSL_CERT_FILE" && name != "NODE_EXTRA_CA_CERTS" || file == "" {
			continue
		}
		real, err := filepath.EvalSymlinks(file)
		if err != nil || !filepath.IsAbs(real) {
			x.log.Warn("a file of certificate authorities cannot be used", "variable", name, "file", file, "err", err)
			continue
		}
		w.env[name] = caDir + "/" + name + ".pem"
		w.mounts = append(w.mounts, sandbox.Mount{Source: real, Target: w.env[name]})
	}
}

// copyTree copies a tree of files and directories, which is all that an archive
// can hold, into an existing directory. Everything is the owner's to write.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(p, from))
		if entry.IsDir() {
			if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		}
		return copyFile(p, target)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, info.Mode().Perm()|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in) // a clone, where the file system can
	return errors.Join(err, out.Close())
}

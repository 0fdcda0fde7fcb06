// Package docker runs sandboxes in containers of Docker or Podman, on this
// machine's own engine. Beyond what package sandbox promises:
//
//  1. The container has no network, a read-only root, no capability, no way to
//     gain one, and a user who is not root outside; beside the engine's own filter
//     of system calls it runs under ours. The user is not root inside either, but
//     with Docker without root, where user 0 inside is the hub's user outside.
//  2. Neither command, environment, input nor output goes through the engine: they
//     pass over pipes that the shim fetches from a socket, which answers once and
//     is gone before the command starts.
//  3. The container ends when the hub ends, however that does. What is left of it,
//     a container that has stopped, is found by its labels and removed by the next
//     [Driver.Sweep] of the same hub, and never one that is alive.
//  4. Files that the job writes belong to the hub's own user on the host.
package docker

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/client"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/seccomp"
)

// The kinds of engines.
const (
	KindDocker = "docker"
	KindPodman = "podman"
)

// Config is the driver's settings.
type Config struct {
	// Kind is KindDocker or KindPodman: where the engine is looked for, and the
	// driver's name.
	Kind string
	// Dir is a directory of the hub's own, for what containers need while they
	// live, on this and on other engines. It is made, with mode 0700, when it is
	// needed. Hubs may not share one.
	Dir string
	// Image is what containers are made of; it must be on the engine already.
	Image string
	// Environ is where DOCKER_HOST and the like are looked up. Nil is this
	// process's own environment.
	Environ []string
	// Host is the engine's address, such as unix:///run/docker.sock. "" looks for
	// it as the engine's own client does.
	Host string
	// Shim is the binary that is PID 1 inside: one whose main starts with package
	// shim, and one that can run in the image, so a static one. "" is this
	// process's own.
	Shim string
	// Grace is how long a command that was interrupted has until it is killed. 0
	// is 5 s.
	Grace time.Duration
	// Interval is the time between two looks at memory and disk. 0 is 250 ms.
	Interval time.Duration
	// Log gets what is odd but no error. Nil is slog.Default.
	Log *slog.Logger
}

// Driver is a sandbox.Driver.
type Driver struct {
	cfg     Config
	address address
	log     *slog.Logger
	client  *client.Client
	userns  *idmap // nil where files keep their owners
	filter  []byte

	podman atomic.Bool // known once the engine has answered

	mu    sync.Mutex
	ready *engine // nil until the engine has answered once
}

// New returns a driver. It asks nothing of the engine; see Check.
func New(cfg Config) (*Driver, error) {
	if cfg.Kind != KindDocker && cfg.Kind != KindPodman {
		return nil, fmt.Errorf("%w: there is no container engine of kind %q", hub.ErrInvalid, cfg.Kind)
	}
	if !filepath.IsAbs(cfg.Dir) || cfg.Image == "" {
		return nil, fmt.Errorf("%w: the %s driver needs a directory and an image", hub.ErrInvalid, cfg.Kind)
	}
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	cfg.Grace = cmp.Or(cfg.Grace, 5*time.Second)
	cfg.Interval = cmp.Or(cfg.Interval, 250*time.Millisecond)
	at, err := findEngine(cfg.Kind, cfg.Host, variables(cfg.Environ))
	if err != nil {
		return nil, err
	}
	d := &Driver{address: at, log: cmp.Or(cfg.Log, slog.Default()), filter: seccomp.Filter()}
	// Podman tells who it is in every answer; asking it takes seconds.
	d.client, err = at.client(client.WithHTTPResponseHook(func(r *http.Response) {
		if r.Header.Get("Libpod-Api-Version") != "" {
			d.podman.Store(true)
		}
	}))
	if err != nil {
		return nil, hub.Hint(fmt.Errorf("%w: the %s engine's address %q: %w", hub.ErrInvalid, cfg.Kind, at.host, err), addressHint)
	}
	// A sweep must not take the containers of another engine for gone.
	digest := sha256.Sum256([]byte(at.host))
	cfg.Dir = filepath.Join(cfg.Dir, cfg.Kind+"-"+hex.EncodeToString(digest[:4]))
	d.cfg = cfg
	if os.Getuid() == 0 {
		d.userns = &idmap{host: 0, inside: agentUser}
	}
	return d, nil
}

// Name is "docker" or "podman".
func (d *Driver) Name() string { return d.cfg.Kind }

// Address is where the engine is.
func (d *Driver) Address() string { return d.address.host }

// agentUser is the user and the group inside, where files belong to root outside.
// It is the same number outside, so it must be nobody's there: whoever has it may
// enter the job's /proc/<pid>/root and write what root then owns. Accounts of the
// machine and of directory services (SSSD ends at 2,000,200,000), ranges of
// /etc/subuid and of systemd's containers lie below, systemd's foreign images and
// what engines refuse (2^31) above.
const agentUser = 2_100_010_001

// Ready reports whether the engine answers and has the image, without making a
// container. Start does no more than that by itself.
func (d *Driver) Ready(ctx context.Context) error {
	_, err := d.engine(ctx)
	return err
}

// Check runs a command in a container that reads a file of this machine's, which
// it can't where the engine is elsewhere.
func (d *Driver) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	d.forget()
	if err := d.prepareDir(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(d.cfg.Dir, "check-")
	if err != nil {
		return fmt.Errorf("checking the %s engine: %w", d.cfg.Kind, err)
	}
	defer os.Remove(dir)
	file := filepath.Join(dir, "nonce")
	defer os.Remove(file)
	nonce := rand.Text()
	if err := os.WriteFile(file, []byte(nonce), 0o600); err != nil {
		return fmt.Errorf("checking the %s engine: %w", d.cfg.Kind, err)
	}
	var out, errs limited
	s, err := d.Start(ctx, sandbox.Spec{
		Name: "check", Args: []string{"/bin/cat", "/check/nonce"}, Dir: "/",
		Mounts: []sandbox.Mount{{Source: dir, Target: "/check"}}, Stdout: &out, Stderr: &errs,
	})
	if err != nil {
		return err
	}
	exit, err := s.Wait()
	switch {
	case err != nil:
		return err
	case exit.Code != 0 || out.String() != nonce:
		return hub.Hint(fmt.Errorf("the %s engine at %s does not share this machine's files: a container there ended with code %d, %q",
			d.cfg.Kind, d.address.host, exit.Code, errs.String()), elsewhereHint)
	}
	return nil
}

// limited keeps the first bytes of what is written.
type limited struct{ strings.Builder }

func (l *limited) Write(b []byte) (int, error) {
	l.Builder.Write(b[:min(len(b), max(0, 500-l.Len()))])
	return len(b), nil
}

// shim returns the path of the binary that is to be PID 1: this very program, not
// what an update has put in its place since it started.
func (d *Driver) shim() (string, error) {
	if d.cfg.Shim != "" {
		return d.cfg.Shim, nil
	}
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("finding this program's own file: %w", err)
	}
	if path, err := os.Readlink("/proc/self/exe"); err == nil {
		if there, err := os.Stat(path); err == nil && os.SameFile(running, there) {
			return path, nil
		}
	}
	path := filepath.Join(d.cfg.Dir, fmt.Sprintf("shim-%d-%d", running.Size(), running.ModTime().UnixNano()))
	if there, err := os.Stat(path); err == nil && there.Size() == running.Size() {
		return path, nil
	}
	return path, copyProgram(path, "/proc/self/exe")
}

func copyProgram(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copying this program: %w", err)
	}
	defer src.Close()
	dst, err := os.CreateTemp(filepath.Dir(to), "copy-")
	if err != nil {
		return fmt.Errorf("copying this program: %w", err)
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Chmod(0o755), dst.Close()); err == nil {
		err = os.Rename(dst.Name(), to)
	}
	if err != nil {
		os.Remove(dst.Name())
		return fmt.Errorf("copying this program: %w", err)
	}
	return nil
}

// Close ends the driver's idle connections to the engine. Sandboxes that run go on.
func (d *Driver) Close() { d.client.Close() }

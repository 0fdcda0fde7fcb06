package login

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// Box is a sandbox for the time of one sign-in: a clean container, or a bubblewrap
// sandbox. The CLI sees nothing of this machine but itself, the scratch home, and
// the files of certificate authorities; its only way out is what Egress opens.
type Box struct {
	// Driver makes the sandbox. Required.
	Driver sandbox.Driver
	// Called is what the owner is told, such as "in a container". Required.
	Called string
	// Agent is the path of the claude CLI on this machine, which is made visible
	// inside. Required.
	Agent string
	// Environ is the environment of which the CLI gets language, time zone,
	// terminal, and the files of certificate authorities.
	Environ []string
	// Egress serves, on a unix socket that it makes, a proxy that admits what a
	// sign-in needs and nothing else, until it is closed. Required.
	Egress func(socket string) (io.Closer, error)
	Log    *slog.Logger // nil discards
}

// Where things are inside.
const (
	insideAgent = "/opt/claude-hub/agent"
	insideCA    = "/opt/claude-hub/ca"
	insidePort  = 47319
)

// boxLimits are generous: they are against a CLI that runs wild.
var boxLimits = sandbox.Limits{Memory: 4 << 30, Processes: 1024, FileSize: 1 << 30, Temp: 512 << 20}

// Name is what the owner is told.
func (b *Box) Name() string { return b.Called }

func (b *Box) start(ctx context.Context, home *scratch, w work) (program, error) {
	path, listen := home.socket()
	door, err := b.Egress(listen)
	if err != nil {
		return nil, fmt.Errorf("opening the way out of the sandbox: %w", err)
	}
	p := &boxed{door: door, gone: make(chan struct{})}
	var keys *io.PipeReader
	keys, p.keys = io.Pipe()
	spec, err := b.spec(home, w)
	if err == nil {
		spec.Sockets = []sandbox.Socket{{Host: path, Port: insidePort}}
		spec.Stdin = keys
		err = p.launch(ctx, b.Driver, spec)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the claude CLI %s: %w", b.Called, err), door.Close())
	}
	go p.wait(keys)
	return p, nil
}

func (b *Box) spec(home *scratch, w work) (sandbox.Spec, error) {
	mounts, bin, err := mountAgent(b.Agent)
	if err != nil {
		return sandbox.Spec{}, err
	}
	proxy := "http://127.0.0.1:" + strconv.Itoa(insidePort)
	set := map[string]string{"PATH": sandbox.Path, "HTTPS_PROXY": proxy, "https_proxy": proxy, "LANG": "C.UTF-8"}
	var parent []string // what means something inside
	for _, kv := range b.Environ {
		switch name, value, _ := strings.Cut(kv, "="); {
		case name == "LANG" && value != "":
			set["LANG"] = value
		case name == "TZ" || name == "TERM" || strings.HasPrefix(name, "LC_"):
			parent = append(parent, kv)
		case (name == "SSL_CERT_FILE" || name == "NODE_EXTRA_CA_CERTS") && value != "":
			real, err := filepath.EvalSymlinks(value)
			if err != nil {
				return sandbox.Spec{}, hub.Hint(fmt.Errorf("%w: %s: %w", hub.ErrInvalid, name, err), "name a file of certificates that is there, or unset the variable")
			}
			set[name] = insideCA + "/" + name + ".pem"
			mounts = append(mounts, sandbox.Mount{Source: real, Target: set[name]})
		}
	}
	maps.Copy(set, w.more)
	c := w.build(bin, sandbox.Home)
	return sandbox.Spec{
		Name: "sign-in", Args: c.Args, Env: c.Environ(parent, set), Mounts: mounts, Home: home.home(), Limits: boxLimits,
		Terminal: true, Size: w.size, Stdout: w.screen,
	}, nil
}

// mountAgent returns what makes the CLI at path appear inside, and its path there.
// A native CLI is one file; one for Node needs the package it lies in.
func mountAgent(path string) ([]sandbox.Mount, string, error) {
	magic := make([]byte, 2)
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		var f *os.File
		if f, err = os.Open(real); err == nil {
			defer f.Close()
			_, _ = io.ReadFull(f, magic) // a file without two bytes fails when it is started
		}
	}
	if err != nil {
		return nil, "", hub.Hint(fmt.Errorf("%w: the claude CLI: %w", hub.ErrNotFound, err), "fetch the tested one with `claude-hub agent install`")
	}
	if bytes.Equal(magic, []byte("#!")) {
		return []sandbox.Mount{{Source: filepath.Dir(real), Target: insideAgent}}, insideAgent + "/" + filepath.Base(real), nil
	}
	return []sandbox.Mount{{Source: real, Target: insideAgent + "/claude"}}, insideAgent + "/claude", nil
}

// boxed is a program in a sandbox.
type boxed struct {
	box  sandbox.Sandbox
	keys *io.PipeWriter
	door io.Closer
	gone chan struct{} // see exited
	err  error         // how it ended; read it after gone

	asked atomic.Bool // to end, by us
}

// errFromOutside is why a sandbox ended that neither its command nor we have ended.
var errFromOutside = errors.New("it was stopped from outside")

// launch starts the sandbox. Its life is not ctx's: a sign-in whose login is
// written may come to its end.
func (p *boxed) launch(ctx context.Context, driver sandbox.Driver, spec sandbox.Spec) error {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	box, err := driver.Start(life, spec)
	switch {
	case !stop() && err == nil: // it is being ended
		_ = box.Kill()
		_, _ = box.Wait()
		fallthrough
	case err != nil && ctx.Err() != nil:
		return cancelled(ctx)
	case err != nil:
		cancel()
		return err
	}
	p.box = box
	go func() { <-p.gone; cancel() }()
	return nil
}

// wait returns how it ended once nothing of it is left.
func (p *boxed) wait(keys *io.PipeReader) {
	exit, err := p.box.Wait()
	switch {
	case err != nil:
		p.err = errors.Join(errFromOutside, err)
	case exit.Code == 128+int(unix.SIGTERM) && !p.asked.Load(): // as `docker stop` and an engine that ends do
		p.err = errFromOutside
	case exit.Reason != sandbox.ReasonNone && exit.Reason != sandbox.ReasonKilled:
		p.err = fmt.Errorf("the sandbox's limit: %s", exit.Reason)
	case exit.Signal != "":
		p.err = fmt.Errorf("signal: %s", exit.Signal)
	case exit.Code != 0:
		p.err = fmt.Errorf("exit status %d", exit.Code)
	}
	keys.CloseWithError(errGone)
	if err := p.door.Close(); err != nil {
		p.err = errors.Join(p.err, err)
	}
	close(p.gone)
}

func (p *boxed) exited() <-chan struct{} { return p.gone }
func (p *boxed) failure() error          { return p.err }

func (p *boxed) enter(keys []byte) error {
	_, err := p.keys.Write(slices.Clone(keys))
	return err
}

func (p *boxed) resize(size sandbox.Size) {
	_ = p.box.Resize(size.Rows, size.Cols) // one that has ended needs no size
}

// end asks the command to end, and then lets no process live.
func (p *boxed) end() {
	if hasEnded(p) {
		return
	}
	p.asked.Store(true)
	_ = p.box.Interrupt() // what does not hear it is killed
	kill := time.AfterFunc(endGrace, sync.OnceFunc(func() { _ = p.box.Kill() }))
	defer kill.Stop()
	<-p.gone
}

package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/claude-hub/claude-hub/internal/hub"
)

const (
	addressHint   = "use an engine of this machine, with an address such as unix:///var/run/docker.sock"
	elsewhereHint = "use an engine of this machine: one in a virtual machine or on another host does not see the workspace"
	imageHint     = "make it with `claude-hub image build`"
	archHint      = "make the image on this machine, with `claude-hub image build`"
	spaceHint     = "make room where the engine keeps its files (`docker system df` and `docker system prune`)"
	tooOldHint    = "Docker 19.03 or newer, or Podman 4.0 or newer, is needed"
	ownerHint     = "run claude-hub as the engine's user, or give it the system's engine"
	boundsHint    = "an engine without root needs control groups of version 2 (a systemd of this decade), or storage without FUSE"
	apartHint     = "start claude-hub as root without what gives a unit mounts of its own (`claude-hub install systemd --system` prints one); or run it as an ordinary user"
	idmapHint     = "as root, claude-hub needs Linux 5.12 or newer and a workspace on a file system that can map owners (ext4, xfs, btrfs, tmpfs); or run it as an ordinary user"
)

var downHints = map[string]string{
	KindDocker: "start it (`sudo systemctl start docker`), or name another in DOCKER_HOST",
	KindPodman: "start its socket (`systemctl --user enable --now podman.socket`, as root without --user), or name another in CONTAINER_HOST",
}

var deniedHints = map[string]string{
	KindDocker: "let your user use it: `sudo usermod -aG docker $USER`, then sign in to the machine again (who is in that group is as good as root)",
	KindPodman: "use your own, with `systemctl --user enable --now podman.socket`",
}

// explain adds to what an engine said what a person can do about it.
func (d *Driver) explain(what string, err error) error {
	if err == nil || hub.HintOf(err) != "" || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	text := err.Error()
	said := fmt.Errorf("%s: %w", what, err)
	has := func(part string) bool { return strings.Contains(text, part) }
	switch {
	case client.IsErrConnectionFailed(err) && has("permission denied"):
		return hub.Hint(said, deniedHints[d.cfg.Kind])
	case client.IsErrConnectionFailed(err):
		return hub.Hint(said, downHints[d.cfg.Kind])
	case has("is not supported by this client"), has("is too old"), has("is too new"):
		return hub.Hint(said, tooOldHint)
	case errdefs.IsNotFound(err) && (has("o such image") || has("image not known")):
		return hub.Hint(fmt.Errorf("%w: %w", hub.ErrNotFound, said), imageHint)
	case has("no space left on device"), has("ENOSPC"):
		return hub.Hint(said, spaceHint)
	case has("exec format error"):
		return hub.Hint(said, archHint)
	}
	return said
}

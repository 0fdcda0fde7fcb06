package main

import (
	"bytes"
	_ "embed" // the templates
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker/image"
)

func (a *app) installCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "install",
		Short: "Print what runs the daemon as a service: a systemd unit, or a compose file",
		Args:  args(cobra.NoArgs),
	}
	c.AddCommand(a.installSystemdCommand(), a.installComposeCommand())
	return c
}

//go:embed install/systemd.service
var systemdUnit string

//go:embed install/compose.yaml
var composeFile string

// installation is what the templates are filled with.
type installation struct {
	Program, Dir, KeyFile string
	System                bool   // a unit of the system's rather than of a user's own
	User                  string // its name

	UID, GID, SocketGroup int
	Image, Socket         string
	Workspaces            []string
}

// newInstallation looks at this hub and this program. keyFile is where the key is,
// "" for where it is now.
func (a *app) newInstallation(keyFile string) (installation, *home, error) {
	h, err := a.openHome()
	if err != nil {
		return installation{}, nil, err
	}
	i := installation{Dir: h.dir, KeyFile: keyFile, UID: os.Getuid(), GID: os.Getgid()}
	if i.KeyFile == "" {
		i.KeyFile = a.getenv("CLAUDE_HUB_KEY_FILE")
	}
	if i.KeyFile != "" {
		if i.KeyFile, err = filepath.Abs(i.KeyFile); err != nil {
			return i, nil, err
		}
	}
	if i.Program, err = os.Executable(); err != nil {
		return i, nil, fmt.Errorf("finding this program's own path: %w", err)
	}
	i.User = strconv.Itoa(i.UID)
	if u, err := user.LookupId(i.User); err == nil { // systemd takes the number, too
		i.User = u.Username
	}
	return i, h, nil
}

// print fills a template. With --json what comes out is one JSON string.
func (a *app) printTemplate(text string, i installation) error {
	t, err := template.New("").Funcs(template.FuncMap{"unit": unitString, "yaml": composeString}).Parse(text)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, i); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(out.String())
	}
	_, err = out.WriteTo(a.stdout)
	return err
}

// unitString quotes a text for a unit file, where $ and % have a meaning.
func unitString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(s) + `"`
}

// composeString quotes a text for a compose file: as JSON, and with compose's own
// meaning of $ taken away.
func composeString(s string) (string, error) {
	quoted, err := json.Marshal(s)
	return strings.ReplaceAll(string(quoted), "$", "$$"), err
}

const keyFileUsage = "where the key is, if not in the hub's directory"

func (a *app) installSystemdCommand() *cobra.Command {
	var system bool
	var keyFile string
	c := &cobra.Command{
		Use:   "systemd",
		Short: "Print a systemd unit for this hub",
		Long: `Prints a unit that runs claude-hub serve for this hub. It is one of your own user:

  claude-hub install systemd > ~/.config/systemd/user/claude-hub.service
  systemctl --user enable --now claude-hub
  loginctl enable-linger        # so that it runs while you are not logged in

With --system it is one of the system's, which runs as your user:

  claude-hub install systemd --system | sudo tee /etc/systemd/system/claude-hub.service
  sudo systemctl enable --now claude-hub

With --key-file, systemd hands the key to the daemon as a credential, and the
hub's directory need not hold it.`,
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			i, _, err := a.newInstallation(keyFile)
			if err != nil {
				return err
			}
			for _, text := range []string{i.Program, i.Dir, i.KeyFile} {
				if strings.ContainsAny(text, "\n\r") {
					return fmt.Errorf("%w: a unit can't name the path %q", hub.ErrInvalid, text)
				}
			}
			i.System = system
			return a.printTemplate(systemdUnit, i)
		},
	}
	c.Flags().BoolVar(&system, "system", false, "a unit of the system's, not of your user")
	c.Flags().StringVar(&keyFile, "key-file", "", keyFileUsage)
	return c
}

func (a *app) installComposeCommand() *cobra.Command {
	var keyFile string
	var workspaces []string
	c := &cobra.Command{
		Use:   "compose",
		Short: "Print a compose file for this hub",
		Long: `Prints a compose file that runs claude-hub serve for this hub in a container,
and each run in another, beside it, on this machine's Docker. Build the images
first. With Podman, a systemd unit does the same with less: claude-hub install systemd.

  claude-hub image build
  claude-hub install compose --workspace ~/work > compose.yaml
  docker compose up -d

The container has the hub's directory, each workspace and this program under the
paths that they have on the machine, because the engine knows them by those.`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			i, h, err := a.newInstallation(keyFile)
			if err != nil {
				return err
			}
			if err := a.addContainer(c, &i, h, workspaces); err != nil {
				return err
			}
			return a.printTemplate(composeFile, i)
		},
	}
	c.Flags().StringVar(&keyFile, "key-file", "", keyFileUsage)
	c.Flags().StringArrayVar(&workspaces, "workspace", nil, "a directory that runs may work in (may be repeated)")
	return c
}

// addContainer adds what a compose file has to say beyond a unit.
func (a *app) addContainer(c *cobra.Command, i *installation, h *home, workspaces []string) error {
	if i.UID == 0 {
		return hub.Hint(fmt.Errorf("%w: this hub belongs to root, and its container would have to run as root", hub.ErrRefused),
			"make the hub as an ordinary user who may use the engine")
	}
	for _, w := range workspaces {
		w, err := filepath.Abs(w)
		if err != nil {
			return err
		}
		if info, err := os.Stat(w); err != nil || !info.IsDir() {
			return fmt.Errorf("%w: there is no directory %s", hub.ErrNotFound, w)
		}
		i.Workspaces = append(i.Workspaces, w)
	}
	cli, version, err := h.agentIdentity(c.Context())
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(i.Dir, cli); err != nil || !filepath.IsLocal(rel) {
		return hub.Hint(fmt.Errorf("%w: the claude CLI is at %s, which the container doesn't have", hub.ErrInvalid, cli),
			"have one in the hub's directory, with `claude-hub agent install`")
	}
	i.Image = image.Name(image.Agent, version)
	if i.KeyFile == "" {
		i.KeyFile = keyPath(i.Dir)
	}
	d, err := docker.New(docker.Config{Kind: docker.KindDocker, Dir: containersPath(i.Dir), Image: i.Image, Environ: a.environ})
	if err != nil {
		return err
	}
	defer d.Close()
	var isUnix bool
	if i.Socket, isUnix = strings.CutPrefix(d.Address(), "unix://"); !isUnix {
		return hub.Hint(fmt.Errorf("%w: the docker engine is at %s", hub.ErrInvalid, d.Address()), "use an engine of this machine, with a unix socket")
	}
	info, err := os.Stat(i.Socket)
	if err != nil {
		return fmt.Errorf("looking at the engine's socket: %w", err)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		i.SocketGroup = int(s.Gid)
	}
	return nil
}

// OwnMounts reports whether the daemon makes mounts that others have to see: root's
// does, for containers.
func (i installation) OwnMounts() bool { return i.UID == 0 }

// Identity is the container's user.
func (i installation) Identity() string { return strconv.Itoa(i.UID) + ":" + strconv.Itoa(i.GID) }

// Health is the shell command that tells whether the daemon answers.
func (i installation) Health() string {
	quoted := "'" + strings.ReplaceAll(i.Program, "'", `'\''`) + "'"
	return quoted + ` status --json | grep -q '"daemon"'`
}

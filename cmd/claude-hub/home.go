package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v4"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// home is an opened hub directory. Everything in it is reached through here.
type home struct {
	dir    string
	config config
	key    vault.Key
	vault  *vault.Vault
}

// config is config.yaml. Unknown keys are errors.
type config struct {
	// RecoveryRecipients are age public keys ("age1…") that can open every record
	// written from now on, beside the hub's own key. None is needed.
	RecoveryRecipients []string `yaml:"recovery_recipients"`
	// TrustedSenders are the hubs whose bundles are imported without --from, as
	// `claude-hub key show` prints them there: "hubsig1…".
	TrustedSenders []string `yaml:"trusted_senders"`
	// Sandbox is what confines runs: auto, bubblewrap, docker or podman. Empty is
	// auto; CLAUDE_HUB_SANDBOX outranks it.
	Sandbox string `yaml:"sandbox"`
	// Image is what containers of runs are made of. Empty is what `claude-hub image
	// build` has made.
	Image string `yaml:"image"`
	// CPUs bounds what one run takes of the processors, such as 1.5. Zero is no bound.
	CPUs float64 `yaml:"cpus"`
	// Listen is where the daemon serves the operator's page, host:port. Nil means
	// 127.0.0.1:3002 if that is free; "" or "off" means nowhere.
	Listen *string `yaml:"listen"`
	// PublicURL is the page's address for browsers. Empty means http:// and the
	// address that is listened on.
	PublicURL string `yaml:"public_url"`
	// ListenInsecure allows a page without TLS that other machines can reach.
	ListenInsecure bool `yaml:"listen_insecure"`
	// Notify are the services through which the daemon tells a person what needs
	// them: URLs of shoutrrr, or file:PATH or env:NAME that hold one. None is needed.
	Notify serviceURLs `yaml:"notify"`
	// KeepRuns is for how long runs that have ended are kept, with their logs: days
	// ("30d"), a duration or "forever". Empty is 90d.
	KeepRuns string `yaml:"keep_runs"`
}

const configTemplate = `# claude-hub's settings. Every key may be left out.

# Age public keys (age1…) that can open what is written from now on, beside the
# hub's own key: the way back to your login when that key is lost. Make one with
# age-keygen and keep its secret half off this machine.
recovery_recipients: []

# Hubs of yours (hubsig1…) whose bundles are imported without --from: what
# claude-hub key show prints there as sender.
trusted_senders: []

# What confines runs: bubblewrap, docker, podman, or auto, which takes the first
# of these that works here.
sandbox: auto

# The image of runs in containers; "" is the one of claude-hub image build.
image: ""

# How many processors one run may take, such as 1.5; 0 is all.
cpus: 0

# Where the daemon serves the operator's page, for sign-ins without a terminal;
# "off" for nowhere. Other machines reach it through a proxy with TLS, whose
# address is then the public_url.
#listen: 127.0.0.1:3002
#public_url: https://hub.example.com

# Through which services the daemon tells you that a login needs you: URLs of
# github.com/nicholas-fedor/shoutrrr. Such a URL is a secret: better name a file
# that holds one, or a variable.
#notify: [file:/etc/claude-hub/ntfy-url, env:SLACK_URL]

# For how long runs that have ended are kept, with their logs; or "forever".
keep_runs: 90d
`

// maxConfig bounds config.yaml, in bytes.
const maxConfig = 1 << 20

func keyPath(dir string) string    { return filepath.Join(dir, "key") }
func vaultPath(dir string) string  { return filepath.Join(dir, "vault") }
func configPath(dir string) string { return filepath.Join(dir, "config.yaml") }
func socketPath(dir string) string { return filepath.Join(dir, "hub.sock") }
func storePath(dir string) string  { return filepath.Join(dir, "hub.db") }

// openHome opens the hub's directory, which `init` has made.
func (a *app) openHome() (*home, error) {
	dir, err := a.hubDir()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, hub.Hint(fmt.Errorf("%w: there is no hub at %s", hub.ErrNotFound, dir),
			"make one with `claude-hub init`, or set CLAUDE_HUB_DIR to where yours is")
	}
	if err := checkHome(dir); err != nil {
		return nil, err
	}
	cfg, err := readConfig(configPath(dir))
	if err != nil {
		return nil, err
	}
	backend, err := vault.Open(vaultPath(dir))
	if err != nil {
		return nil, err
	}
	key, err := a.readKey(dir)
	if err != nil {
		return nil, err
	}
	v, err := vault.New(backend, key, vault.Options{Recipients: cfg.RecoveryRecipients})
	if err != nil {
		return nil, err
	}
	return &home{dir: dir, config: cfg, key: key, vault: v}, nil
}

// readKey reads the hub's key: from its directory, or from the file that a secret
// store has put elsewhere.
func (a *app) readKey(dir string) (vault.Key, error) {
	if path := a.getenv("CLAUDE_HUB_KEY_FILE"); path != "" {
		return vault.ReadMountedKey(path)
	}
	return vault.ReadKey(keyPath(dir))
}

// readConfig reads the settings; a file that is not there holds the defaults.
func readConfig(path string) (config, error) {
	var c config
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("opening the settings: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return c, fmt.Errorf("reading the settings: %w", err)
	}
	if len(data) > maxConfig {
		return c, fmt.Errorf("%w: %s has more than %d bytes", hub.ErrInvalid, path, maxConfig)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return c, nil
	}
	if err := yaml.Load(data, &c, yaml.WithKnownFields()); err != nil {
		return c, hub.Hint(fmt.Errorf("%w: %s: %w", hub.ErrInvalid, path, err), "mend the line that it names")
	}
	return c, nil
}

// profile finds a profile by the name given on the command line.
func (h *home) profile(ctx context.Context, name string) (hub.Profile, error) {
	parsed, err := hub.ParseProfileName(name)
	if err != nil {
		return hub.Profile{}, err
	}
	p, err := h.vault.Profile(ctx, parsed)
	if errors.Is(err, hub.ErrNotFound) {
		hint := "list them with `claude-hub profile list`"
		if parsed == hub.DefaultProfile {
			hint = "sign in with `claude-hub login`"
		}
		return p, hub.Hint(fmt.Errorf("%w: there is no profile %q", hub.ErrNotFound, parsed), hint)
	}
	return p, err
}

// signedIn finds a profile whose login is about to be used; "" is the default
// one. That nobody has signed in yet is a matter of a sign-in, as much as a login
// that has ended.
func (h *home) signedIn(ctx context.Context, name string) (hub.Profile, error) {
	if name == "" { // another program asks the daemon
		standard, err := h.defaultProfile(ctx)
		if err != nil {
			return standard, err
		}
		name = string(standard.Name)
	}
	p, err := h.profile(ctx, name)
	if errors.Is(err, hub.ErrNotFound) && name == string(hub.DefaultProfile) {
		err = hub.Hint(fmt.Errorf("%w: nobody has signed in, there is no profile %q", hub.ErrLoginRequired, name), hub.HintOf(err))
	}
	return p, err
}

// agentPath finds the claude CLI.
func (h *home) agentPath() (string, error) { return agent.Find(h.dir) }

package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/moby/client"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// address is where an engine listens.
type address struct {
	host  string // unix:///path or tcp://host:port
	certs string // directory of ca.pem, cert.pem and key.pem, for tcp; "" is without TLS
}

func (a address) client(more ...client.Opt) (*client.Client, error) {
	opts := append([]client.Opt{client.WithHost(a.host), client.WithUserAgent("claude-hub")}, more...)
	if a.certs != "" {
		at := func(name string) string { return filepath.Join(a.certs, name) }
		opts = append(opts, client.WithTLSClientConfig(at("ca.pem"), at("cert.pem"), at("key.pem")))
	}
	return client.New(opts...)
}

// ofAnother reports whether the engine's socket belongs to another user than root.
// Podman did not always say that it is such a user's.
func (a address) ofAnother() bool {
	path, isUnix := strings.CutPrefix(a.host, "unix://")
	if !isUnix {
		return false
	}
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid != 0
}

// variables looks up a variable of an environment, "" if it is not set.
func variables(environ []string) func(string) string {
	return func(name string) string {
		for _, kv := range environ {
			if n, value, ok := strings.Cut(kv, "="); ok && n == name {
				return value
			}
		}
		return ""
	}
}

// findEngine returns an engine's address: the given one, or where the engine's
// own client would look. It does not try whether anybody answers.
func findEngine(kind, given string, env func(string) string) (address, error) {
	at := address{host: given}
	switch {
	case given != "":
	case kind == KindPodman:
		at.host = env("CONTAINER_HOST")
		if at.host == "" {
			at.host = "unix://" + podmanSocket(env)
		}
	case env("DOCKER_HOST") != "":
		at.host = env("DOCKER_HOST")
		if env("DOCKER_TLS_VERIFY") != "" {
			at.certs = env("DOCKER_CERT_PATH")
		}
	default:
		var err error
		if at, err = contextAddress(env); err != nil {
			return address{}, err
		}
	}
	if !strings.HasPrefix(at.host, "unix:///") && !strings.HasPrefix(at.host, "tcp://") {
		return address{}, hub.Hint(fmt.Errorf("%w: the %s engine's address %q", hub.ErrInvalid, kind, at.host), addressHint)
	}
	return at, nil
}

func podmanSocket(env func(string) string) string {
	if os.Getuid() == 0 {
		return "/run/podman/podman.sock"
	}
	return filepath.Join(runtimeDir(env), "podman", "podman.sock")
}

func runtimeDir(env func(string) string) string {
	if dir := env("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return dir
	}
	return "/run/user/" + strconv.Itoa(os.Getuid())
}

// contextAddress returns the address in the docker context that is in use.
func contextAddress(env func(string) string) (address, error) {
	dir := env("DOCKER_CONFIG")
	if dir == "" && env("HOME") != "" {
		dir = filepath.Join(env("HOME"), ".docker")
	}
	name := env("DOCKER_CONTEXT")
	if name == "" && dir != "" {
		data, err := readBounded(filepath.Join(dir, "config.json"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return address{}, fmt.Errorf("reading docker's settings: %w", err)
		}
		if name, err = currentContext(data); err != nil {
			return address{}, err
		}
	}
	if name == "" || name == "default" {
		return address{host: "unix://" + dockerSocket(env)}, nil
	}
	digest := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(digest[:])
	data, err := readBounded(filepath.Join(dir, "contexts", "meta", id, "meta.json"))
	if err != nil {
		return address{}, hub.Hint(fmt.Errorf("%w: the docker context %q: %w", hub.ErrNotFound, name, err),
			"list them with `docker context ls`, or set DOCKER_HOST")
	}
	host, err := contextHost(data)
	if err != nil {
		return address{}, err
	}
	at := address{host: host}
	if certs := filepath.Join(dir, "contexts", "tls", id, "docker"); strings.HasPrefix(host, "tcp://") {
		if _, err := os.Stat(certs); err == nil {
			at.certs = certs
		}
	}
	return at, nil
}

// dockerSocket is the system's, or the user's own where there is none of the
// system's.
func dockerSocket(env func(string) string) string {
	const system = "/var/run/docker.sock"
	if _, err := os.Stat(system); errors.Is(err, fs.ErrNotExist) && os.Getuid() != 0 {
		own := filepath.Join(runtimeDir(env), "docker.sock")
		if _, err := os.Stat(own); err == nil {
			return own
		}
	}
	return system
}

// maxSettings bounds docker's own files, in bytes.
const maxSettings = 1 << 20

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSettings+1))
	if err == nil && len(data) > maxSettings {
		err = fmt.Errorf("%w: %s has more than %d bytes", hub.ErrTooLarge, path, maxSettings)
	}
	return data, err
}

// currentContext reads the context's name from docker's config.json, which may be
// empty. Logins in the same file are not looked at.
func currentContext(config []byte) (string, error) {
	if len(config) == 0 {
		return "", nil
	}
	var c struct {
		CurrentContext string `json:"currentContext"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return "", hub.Hint(fmt.Errorf("%w: docker's config.json is not readable", hub.ErrFormat), "mend it, or set DOCKER_HOST")
	}
	return c.CurrentContext, nil
}

// contextHost reads the engine's address from a context's meta.json.
func contextHost(meta []byte) (string, error) {
	var m struct {
		Endpoints map[string]struct{ Host string }
	}
	if err := json.Unmarshal(meta, &m); err != nil || m.Endpoints["docker"].Host == "" {
		return "", hub.Hint(fmt.Errorf("%w: the docker context has no address", hub.ErrFormat), "look at it with `docker context inspect`, or set DOCKER_HOST")
	}
	return m.Endpoints["docker"].Host, nil
}

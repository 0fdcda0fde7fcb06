package run

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// Where things are inside the sandbox.
const (
	optDir     = "/opt/claude-hub" // everything of ours that is mounted
	agentDir   = optDir + "/agent"
	capturedIn = optDir + "/captured"
	caDir      = optDir + "/ca"
	insidePort = 47318 // where the way out is; unlikely to be wanted by a job
)

var insideURL = "http://127.0.0.1:" + strconv.Itoa(insidePort)

// writeHome writes the login that the CLI finds. Nothing runs in the home yet.
func (x *execution) writeHome(c agent.Credentials) error {
	file, err := c.Encode()
	if err != nil {
		return fmt.Errorf("writing the sandbox's login: %w", err)
	}
	if err := os.WriteFile(filepath.Join(x.dir.in(configDir), agent.CredentialFile), file, 0o600); err != nil {
		return fmt.Errorf("writing the sandbox's login: %w", err)
	}
	return nil
}

// environ is the whole environment of the CLI inside. Of the host's, only the
// language and the time zone mean anything there.
func (x *execution) environ(w *way) []string {
	set := map[string]string{}
	parent := slices.DeleteFunc(slices.Clone(x.cfg.Environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name != "LANG" && name != "TZ" && !strings.HasPrefix(name, "LC_")
	})
	if !slices.ContainsFunc(parent, func(kv string) bool { return strings.HasPrefix(kv, "LANG=") }) {
		set["LANG"] = "C.UTF-8"
	}
	maps.Copy(set, w.env)
	return agent.RunEnviron(parent, sandbox.Home, sandbox.Path, w.baseURL, set)
}

// agentMounts returns what makes the CLI at path appear inside, and its path
// there. A native CLI is one file; one for Node needs the package it lies in.
func agentMounts(path string) ([]sandbox.Mount, string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, "", hub.Hint(fmt.Errorf("%w: the claude CLI: %w", hub.ErrNotFound, err), "get it with `claude-hub agent install`")
	}
	f, err := os.Open(real)
	if err != nil {
		return nil, "", fmt.Errorf("reading the claude CLI: %w", err)
	}
	defer f.Close()
	magic := make([]byte, 4)
	n, _ := io.ReadFull(f, magic)
	if bytes.HasPrefix(magic[:n], []byte("#!")) {
		return []sandbox.Mount{{Source: filepath.Dir(real), Target: agentDir}}, agentDir + "/" + filepath.Base(real), nil
	}
	return []sandbox.Mount{{Source: real, Target: agentDir + "/claude"}}, agentDir + "/claude", nil
}

package docker_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// contextMeta is where docker keeps a context of that name.
func contextMeta(dir, name string) string {
	digest := sha256.Sum256([]byte(name))
	return filepath.Join(dir, "contexts", "meta", hex.EncodeToString(digest[:]), "meta.json")
}

func TestEngineIsFoundAsItsOwnClientDoes(t *testing.T) {
	home := t.TempDir()
	config, other := filepath.Join(home, ".docker"), filepath.Join(home, "other")
	write(t, filepath.Join(config, "config.json"), `{"auths":{"x":{"auth":"Zm9v"}},"currentContext":"mine"}`)
	write(t, contextMeta(config, "mine"), `{"Name":"mine","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///run/mine.sock","SkipTLSVerify":false}}}`)
	write(t, contextMeta(config, "Über uns"), `{"Endpoints":{"docker":{"Host":"tcp://127.0.0.1:2376"}}}`)
	write(t, filepath.Join(other, "config.json"), `{}`)
	for name, c := range map[string]struct {
		kind, host string
		env        []string
		want       string
	}{
		"the context in use":            {docker.KindDocker, "", []string{"HOME=" + home}, "unix:///run/mine.sock"},
		"a context by a variable":       {docker.KindDocker, "", []string{"HOME=" + home, "DOCKER_CONTEXT=Über uns"}, "tcp://127.0.0.1:2376"},
		"the default context":           {docker.KindDocker, "", []string{"HOME=" + home, "DOCKER_CONTEXT=default"}, "unix:///var/run/docker.sock"},
		"DOCKER_HOST outranks contexts": {docker.KindDocker, "", []string{"HOME=" + home, "DOCKER_CONTEXT=mine", "DOCKER_HOST=unix:///x.sock"}, "unix:///x.sock"},
		"DOCKER_CONFIG":                 {docker.KindDocker, "", []string{"HOME=" + home, "DOCKER_CONFIG=" + other}, "unix:///var/run/docker.sock"},
		"no settings at all":            {docker.KindDocker, "", []string{}, "unix:///var/run/docker.sock"},
		"what is given outranks all":    {docker.KindDocker, "unix:///given.sock", []string{"HOME=" + home, "DOCKER_HOST=unix:///x.sock"}, "unix:///given.sock"},
		"podman by its variable":        {docker.KindPodman, "", []string{"CONTAINER_HOST=unix:///p.sock", "DOCKER_HOST=unix:///x.sock"}, "unix:///p.sock"},
	} {
		d, err := docker.New(docker.Config{Kind: c.kind, Host: c.host, Environ: c.env, Dir: t.TempDir(), Image: "x"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d.Address() != c.want {
			t.Errorf("%s: %s; want %s", name, d.Address(), c.want)
		}
		d.Close()
	}
}

func TestSettingsThatMakeNoSense(t *testing.T) {
	home := t.TempDir()
	write(t, filepath.Join(home, "bad", "config.json"), `{"currentContext": 3}`)
	write(t, filepath.Join(home, "big", "config.json"), strings.Repeat(" ", 2<<20))
	write(t, filepath.Join(home, "far", "config.json"), `{"currentContext":"far"}`)
	write(t, contextMeta(filepath.Join(home, "far"), "far"), `{"Endpoints":{"docker":{"Host":"ssh://me@example.com"}}}`)
	write(t, filepath.Join(home, "empty", "config.json"), `{"currentContext":"none"}`)
	write(t, contextMeta(filepath.Join(home, "empty"), "none"), `{"Endpoints":{}}`)
	write(t, filepath.Join(home, "gone", "config.json"), `{"currentContext":"gone"}`)
	for name, c := range map[string]struct {
		env  string
		want error
		hint string
	}{
		"not as docker writes it":   {"DOCKER_CONFIG=" + home + "/bad", hub.ErrFormat, "DOCKER_HOST"},
		"too large":                 {"DOCKER_CONFIG=" + home + "/big", hub.ErrTooLarge, ""},
		"another machine":           {"DOCKER_CONFIG=" + home + "/far", hub.ErrInvalid, "this machine"},
		"a context without address": {"DOCKER_CONFIG=" + home + "/empty", hub.ErrFormat, "context inspect"},
		"a context that is gone":    {"DOCKER_CONFIG=" + home + "/gone", hub.ErrNotFound, "context ls"},
		"no address":                {"DOCKER_HOST=here", hub.ErrInvalid, "unix:///"},
		"a windows pipe":            {"DOCKER_HOST=npipe:////./pipe/docker_engine", hub.ErrInvalid, "unix:///"},
	} {
		_, err := docker.New(docker.Config{Kind: docker.KindDocker, Environ: []string{c.env}, Dir: t.TempDir(), Image: "x"})
		if !errors.Is(err, c.want) || !strings.Contains(hub.HintOf(err), c.hint) {
			t.Errorf("%s: %v, hint %q; want %v and %q", name, err, hub.HintOf(err), c.want, c.hint)
		}
	}
	for name, cfg := range map[string]docker.Config{
		"kind": {Kind: "lxc", Dir: home, Image: "x"}, "directory": {Kind: docker.KindDocker, Dir: "x", Image: "x"}, "image": {Kind: docker.KindDocker, Dir: home},
	} {
		if _, err := docker.New(cfg); !errors.Is(err, hub.ErrInvalid) {
			t.Errorf("without a good %s: %v", name, err)
		}
	}
}

func FuzzContext(f *testing.F) {
	f.Add([]byte(`{"currentContext":"mine","auths":{}}`))
	f.Add([]byte(`{"Endpoints":{"docker":{"Host":"unix:///x"}}}`))
	f.Add([]byte(`{"Endpoints":{"docker":null}}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := docker.CurrentContext(data); err != nil && strings.Contains(err.Error(), fmt.Sprintf("%.20s", data)) && len(data) > 20 {
			t.Errorf("the error quotes the settings, in which there are logins: %v", err)
		}
		if host, err := docker.ContextHost(data); err == nil && host == "" {
			t.Error("no address, and no error")
		}
	})
}

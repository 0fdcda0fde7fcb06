package image_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker/image"
)

// scripted is an engine that answers a build with given lines, for failures
// that a real one can't be brought to. Its architecture is arch.
func scripted(t *testing.T, arch, baseArch string, lines ...string) *client.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("API-Version", "1.41")
		switch path := r.URL.Path; {
		case strings.HasSuffix(path, "/_ping"):
		case strings.HasSuffix(path, "/version"):
			fmt.Fprintf(w, `{"ApiVersion":"1.41","Arch":%q}`, arch)
		case strings.HasSuffix(path, "/build"):
			io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, strings.Join(lines, "\n"))
		default:
			fmt.Fprintf(w, `{"Id":"sha256:1","Architecture":%q}`, baseArch)
		}
	}))
	t.Cleanup(server.Close)
	return dial(t, "tcp://"+strings.TrimPrefix(server.URL, "http://"))
}

func options(t *testing.T) image.Options {
	return image.Options{CLI: hubtest.Claude(t), Version: "0.0.1-fails", HubVersion: "v0"}
}

func TestBuildFails(t *testing.T) {
	from, run := `{"stream":"Step 2/12 : FROM ${BASE}\n"}`, `{"stream":"Step 3/12 : RUN apt-get update\n"}`
	for _, tt := range []struct {
		name        string
		lines       []string
		words, hint string
	}{
		{"no space", []string{from, run, `{"stream":"unpacking\n"}`, `{"errorDetail":{"message":"write /x: no space left on device"},"error":"write /x: no space left on device"}`}, "unpacking", "docker system prune"},
		{"another processor", []string{from, run, `{"error":"exec /bin/sh: exec format error"}`}, "exec format", "another kind of processor"},
		{"not Debian", []string{from, run, `{"stream":"/bin/sh: apt-get: not found\n"}`, `{"error":"returned a non-zero code: 127"}`}, "127", "Debian"},
		{"no network", []string{from, run, `{"stream":"\u001b[91mE: Unable to connect to archive:80\u001b[0m\r\n"}`, `{"error":"returned a non-zero code: 100"}`}, "\n    E: Unable to connect to archive:80", "network and proxy"},
		{"gone", []string{from, run}, "went away at step 3 of 12", "--verbose"},
		{"gone before anything", nil, "went away at step 0", "--verbose"},
		{"cut short", []string{from, `{"stream":"Step 3/`}, "reading the engine's answer", "--verbose"},
		{"garbage", []string{"<html>"}, "reading the engine's answer", "--verbose"},
		{"base not to be had", []string{from, `{"error":"pull access denied for x"}`}, "can't fetch", "docker pull " + image.DefaultBase},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantHint(t, image.Build(t.Context(), scripted(t, runtime.GOARCH, runtime.GOARCH, tt.lines...), image.Setup, options(t)), nil, tt.words, tt.hint)
		})
	}
}

// TestOutputIsTame: what a build prints can't steer a terminal, and a secret of
// that shape is no less readable for it.
func TestOutputIsTame(t *testing.T) {
	var got []string
	o := options(t)
	o.Progress = func(p image.Progress) { got = append(got, p.Text) }
	engine := scripted(t, runtime.GOARCH, runtime.GOARCH,
		`{"stream":"Step 1/1 : RUN x\n"}`, `{"stream":"\u001b]0;title\u0007\u001b[2Jcleared\u009b\n 10%\r 100%\r\n\n`+strings.Repeat("x", 2000)+`\n"}`, `{"aux":{"ID":"sha256:1"}}`)
	if err := image.Build(t.Context(), engine, image.Setup, o); err != nil {
		t.Fatal(err)
	}
	for _, line := range got {
		if strings.ContainsAny(line, "\x1b\x07\u009b\r\n") || len(line) > 600 {
			t.Errorf("%q", line)
		}
	}
	if len(got) != 4 || got[2] != "100%" {
		t.Errorf("%q", got)
	}
}

func TestRefusedBeforeTheBuild(t *testing.T) {
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	script := filepath.Join(t.TempDir(), "claude")
	hubtest.Script(t, script, "#!/bin/sh\nexec node cli.js \"$@\"\n")
	for _, tt := range []struct {
		name           string
		arch, baseArch string
		change         func(*image.Options)
		kind           error
		words, hint    string
	}{
		{"engine of another processor", other, other, nil, hub.ErrInvalid, "the engine for " + other, "on the machine"},
		{"base of another processor", runtime.GOARCH, other, nil, hub.ErrInvalid, "is for " + other, "--base"},
		{"a script for a CLI", runtime.GOARCH, runtime.GOARCH, func(o *image.Options) { o.CLI = script }, hub.ErrInvalid, "not the CLI's native program", "agent install"},
		{"no CLI", runtime.GOARCH, runtime.GOARCH, func(o *image.Options) { o.CLI = script + "x" }, os.ErrNotExist, "looking for", "agent install"},
		{"a base that is no name", runtime.GOARCH, runtime.GOARCH, func(o *image.Options) { o.Base = "x\nRUN id" }, hub.ErrInvalid, "not the name", image.DefaultBase},
		{"a version that is none", runtime.GOARCH, runtime.GOARCH, func(o *image.Options) { o.Version = "$(id)" }, hub.ErrInvalid, "no version", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t)
			if tt.change != nil {
				tt.change(&o)
			}
			engine := scripted(t, tt.arch, tt.baseArch, `{"aux":{"ID":"sha256:1"}}`)
			wantHint(t, image.Build(t.Context(), engine, image.Setup, o), tt.kind, tt.words, tt.hint)
		})
	}
	if err := image.Build(t.Context(), nil, "other", options(t)); err == nil {
		t.Error("an unknown image was built")
	}
}

// TestNames: the name of an image is one that engines take, whatever the version.
func TestNames(t *testing.T) {
	if got := image.Name(image.Agent, "2.1.330+x/y"); !strings.HasPrefix(got, "claude-hub-agent:2.1.330_x_y-") {
		t.Error(got)
	}
	if image.Name(image.Agent, "1") == image.Name(image.Agent, "2") || image.Dockerfile("other") != "" {
		t.Error("names or texts are mixed up")
	}
}

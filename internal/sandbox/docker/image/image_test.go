package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"go.uber.org/goleak"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/hubtest"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker"
	"github.com/claude-hub/claude-hub/internal/sandbox/docker/image"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t *testing.T, host string) *client.Client {
	t.Helper()
	c, err := docker.Dial(t.Context(), docker.KindDocker, host, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var kinds = []string{"docker", "podman"}

// TestImages builds both Dockerfiles as they are, on real engines, and looks at
// what came out.
func TestImages(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			engine := dial(t, hubtest.Engine(t, kind))
			for _, k := range image.Kinds() {
				build(t, engine, k)
				t.Run(string(k), func(t *testing.T) { testImage(t, engine, k) })
			}
			testInspect(t, engine)
		})
	}
}

func build(t *testing.T, engine *client.Client, k image.Kind) {
	t.Helper()
	steps, start := 0, time.Now()
	err := image.Build(t.Context(), engine, k, image.Options{
		CLI: hubtest.Claude(t), Version: agent.TestedVersion, HubVersion: "v0.0.0-test",
		Progress: func(p image.Progress) {
			steps = max(steps, p.Step)
			if p.Kind != k || p.Text == "" || p.Of < p.Step {
				t.Errorf("progress %+v", p)
			}
		},
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, hub.HintOf(err))
	}
	if steps < 10 {
		t.Errorf("progress got to step %d only", steps)
	}
	t.Logf("%s in %s", k, time.Since(start).Round(100*time.Millisecond))
}

func testImage(t *testing.T, engine *client.Client, k image.Kind) {
	name := image.Name(k, agent.TestedVersion)
	got, err := engine.ImageInspect(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %.1f MB", name, float64(got.Size)/1e6)
	if got.Config.User != "1000:1000" {
		t.Errorf("the image's user is %q", got.Config.User)
	}
	for label, want := range map[string]string{
		"io.claude-hub.agent.version": agent.TestedVersion, "io.claude-hub.image": string(k),
		"org.opencontainers.image.title": "claude-hub-" + string(k), "org.opencontainers.image.version": "v0.0.0-test",
		"org.opencontainers.image.base.name": image.DefaultBase,
	} {
		if got.Config.Labels[label] != want {
			t.Errorf("label %s is %q, want %q", label, got.Config.Labels[label], want)
		}
	}
	history, err := engine.ImageHistory(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal([]any{history.Items, got.Config})
	if err != nil {
		t.Fatal(err)
	}
	// The base's full name is the engine's way of writing it.
	checkSilent(t, strings.ReplaceAll(string(text), "FROM docker.io/library/"+image.DefaultBase, ""))
	out := inside(t, engine, name, `id -u; claude --version; command -v node npm sudo; test -w /usr/local/bin/claude && echo writable; ls -A /home/agent; stat -c '%U %a %Y' /usr/local/bin/claude; command -v git`)
	want := "1000\n" + agent.TestedVersion + " (Claude Code)\nroot 755 0\n"
	if k == image.Agent {
		want += "/usr/bin/git\n"
	}
	if out != want {
		t.Errorf("inside: %q, want %q", out, want)
	}
	checkSBOM(t, inside(t, engine, name, "cat "+image.SBOMPath), inside(t, engine, name, `dpkg-query -W -f '${Package} ${Version}\n'`))
}

// checkSilent demands that an image's description names no secret and no host.
func checkSilent(t *testing.T, text string) {
	t.Helper()
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"://", "sk-ant-", "oauth", "TOKEN", "PROXY", "proxy", ".com", ".org/", ".io/", os.TempDir(), "/root", `"` + hostname + `"`} {
		if strings.Contains(text, word) {
			t.Errorf("the image's history or settings have %q: %s", word, text)
		}
	}
}

// purl is what the package URL specification allows in these.
var purl = regexp.MustCompile(`^pkg:(deb/debian|npm)/[0-9A-Za-z.%-]+(/[0-9A-Za-z.-]+)?@[0-9A-Za-z.~%-]+(\?arch=[a-z0-9]+)?$`)

// checkSBOM compares the list of packages in the image with dpkg's own.
func checkSBOM(t *testing.T, text, packages string) {
	t.Helper()
	var bom struct {
		BOMFormat, SpecVersion string
		Components             []struct{ Type, Name, Version, PURL string }
	}
	if err := json.Unmarshal([]byte(text), &bom); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	var listed []string
	for i, c := range bom.Components {
		if !purl.MatchString(c.PURL) {
			t.Errorf("%q is no package URL", c.PURL)
		}
		if i == 0 && (c.Name != "claude" || c.Version != agent.TestedVersion) {
			t.Errorf("the first component is %+v, not the CLI", c)
		}
		if i > 0 {
			listed = append(listed, c.Name+" "+c.Version)
		}
	}
	if want := strings.Split(strings.TrimSpace(packages), "\n"); !slices.Equal(listed, want) || len(want) < 50 {
		t.Errorf("the list has %d packages, dpkg %d", len(listed), len(want))
	}
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion != "1.5" {
		t.Errorf("the list calls itself %s %s", bom.BOMFormat, bom.SpecVersion)
	}
}

// inside runs a shell script in the image without network and returns its output.
func inside(t *testing.T, engine *client.Client, name, script string) string {
	t.Helper()
	ctx := t.Context()
	made, err := engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &container.Config{Image: name, Cmd: []string{"bash", "-c", script}, Tty: true},
		HostConfig: &container.HostConfig{NetworkMode: "none", Resources: container.Resources{
			Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1024, Hard: 1024}, {Name: "nproc", Soft: 1024, Hard: 1024}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := engine.ContainerRemove(context.WithoutCancel(ctx), made.ID, client.ContainerRemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}()
	wait := engine.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := engine.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-wait.Error:
		t.Fatal(err)
	case <-wait.Result:
	}
	logs, err := engine.ContainerLogs(ctx, made.ID, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(logs); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n")
}

// testInspect follows TestImages' builds.
func testInspect(t *testing.T, engine *client.Client) {
	list, err := image.Inspect(t.Context(), engine, agent.TestedVersion)
	if err != nil {
		t.Fatal(err)
	}
	current := map[image.Kind]image.Info{}
	for _, info := range list {
		if info.Stale == "" {
			current[info.Kind] = info
		}
	}
	for _, k := range image.Kinds() {
		info := current[k]
		if info.Packages < 50 || !bytes.Contains(info.SBOM, []byte(`"libc6"`)) || info.Problem != "" {
			t.Errorf("%s: %d packages, problem %q", k, info.Packages, info.Problem)
		}
		if info.Size < 100e6 || time.Since(info.Created) > 30*24*time.Hour || info.Base != image.DefaultBase || info.AgentVersion != agent.TestedVersion {
			t.Errorf("%s: %+v", k, info)
		}
	}
	for _, info := range must(image.Inspect(t.Context(), engine, "9.9.9"))(t) {
		if !strings.Contains(info.Stale, "9.9.9") {
			t.Errorf("%v is not stale beside another CLI: %q", info.Names, info.Stale)
		}
	}
	left, err := engine.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", "io.claude-hub.kind=image")})
	if err != nil || len(left.Items) > 0 {
		t.Errorf("%d containers were left (%v)", len(left.Items), err)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestRemoveReplaced: an image of ours that has lost its name goes, but not while
// it is young, or used; nobody else's does.
func TestRemoveReplaced(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			engine := dial(t, hubtest.Engine(t, kind))
			ctx := t.Context()
			commit := func(label string) string { // an image without a name
				text := "FROM " + image.DefaultBase + "\nLABEL " + image.LabelKind + "=" + label + " test=" + rand.Text() + "\n"
				var archive bytes.Buffer
				w := tar.NewWriter(&archive)
				if err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Size: int64(len(text)), Mode: 0o644}); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(w, text); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				built := must(engine.ImageBuild(ctx, &archive, client.ImageBuildOptions{Remove: true}))(t)
				defer built.Body.Close()
				if _, err := io.Copy(io.Discard, built.Body); err != nil {
					t.Fatal(err)
				}
				list := must(engine.ImageList(ctx, client.ImageListOptions{Filters: client.Filters{}.Add("label", image.LabelKind+"="+label)}))(t)
				if len(list.Items) != 1 {
					t.Fatalf("%d images with the label %s", len(list.Items), label)
				}
				id := list.Items[0].ID
				t.Cleanup(func() {
					engine.ImageRemove(context.WithoutCancel(ctx), id, client.ImageRemoveOptions{Force: true})
				})
				return id
			}
			there := func(id string) bool {
				_, err := engine.ImageInspect(ctx, id)
				return err == nil
			}
			replaced, other := commit("test-replaced"), commit("test-other")
			image.RemoveReplaced(ctx, engine, "test-replaced", time.Hour)
			if !there(replaced) {
				t.Error("a young image was removed")
			}
			user := must(engine.ContainerCreate(ctx, client.ContainerCreateOptions{Config: &container.Config{Image: replaced, Cmd: []string{"true"}}}))(t)
			image.RemoveReplaced(ctx, engine, "test-replaced", -time.Hour)
			if !there(replaced) {
				t.Error("an image that is used was removed")
			}
			must(engine.ContainerRemove(ctx, user.ID, client.ContainerRemoveOptions{Force: true}))(t)
			image.RemoveReplaced(ctx, engine, "test-replaced", -time.Hour)
			if there(replaced) || !there(other) {
				t.Errorf("the replaced image is there: %t; the other: %t", there(replaced), there(other))
			}
		})
	}
}

// TestNoBase: an engine that can't get the base image says what to do about it.
// The registry is a port of this machine where nothing listens.
func TestNoBase(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			engine := dial(t, hubtest.Engine(t, kind))
			base := "127.0.0.1:1/nothing:here"
			err := image.Build(t.Context(), engine, image.Setup, image.Options{CLI: hubtest.Claude(t), Version: "0.0.1-nobase", HubVersion: "v0", Base: base})
			wantHint(t, err, hub.ErrNotFound, base, "docker pull "+base)
			if _, err := engine.ImageInspect(t.Context(), image.Name(image.Setup, "0.0.1-nobase")); !errdefs.IsNotFound(err) {
				t.Errorf("an image was left: %v", err)
			}
		})
	}
}

func wantHint(t *testing.T, err, kind error, words, hint string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if kind != nil && !errors.Is(err, kind) || !strings.Contains(err.Error(), words) || !strings.Contains(hub.HintOf(err), hint) {
		t.Errorf("%v\nhint: %s\nwant %v with %q, hint with %q", err, hub.HintOf(err), kind, words, hint)
	}
}

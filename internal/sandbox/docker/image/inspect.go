package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Info is what there is to say of one image.
type Info struct {
	Names        []string          `json:"names"`
	ID           string            `json:"id"`
	Kind         Kind              `json:"kind"`
	Size         int64             `json:"size"` // bytes, with the layers that it shares
	Created      time.Time         `json:"created"`
	Base         string            `json:"base,omitempty"`
	AgentVersion string            `json:"agent_version,omitempty"`
	HubVersion   string            `json:"hub_version,omitempty"`
	Labels       map[string]string `json:"labels"`
	Stale        string            `json:"stale,omitempty"` // why it is not what this hub would build; "" if it is
	Packages     int               `json:"packages"`        // in SBOM
	SBOM         json.RawMessage   `json:"sbom,omitempty"`
	Problem      string            `json:"problem,omitempty"` // why there is no SBOM
}

// Inspect returns every image on the engine that carries our label, the newest first. version is
// that of the CLI that the hub has installed, which tells what is stale. For each image there is
// a container for a moment, which never starts; one that was left by a process that was
// killed is removed.
func Inspect(ctx context.Context, engine *client.Client, version string) ([]Info, error) {
	if err := removeReaders(ctx, engine); err != nil {
		return nil, err
	}
	list, err := engine.ImageList(ctx, client.ImageListOptions{Filters: client.Filters{}.Add("label", LabelKind)})
	if err != nil {
		return nil, fmt.Errorf("listing the engine's images: %w", err)
	}
	all := []Info{}
	for _, summary := range list.Items {
		info, err := inspect(ctx, engine, summary.ID, version)
		if errdefs.IsNotFound(err) {
			continue // it went in between
		}
		if err != nil {
			return nil, err
		}
		info.SBOM, err = readSBOM(ctx, engine, summary.ID)
		if err != nil {
			info.Problem = err.Error()
		}
		info.Packages = countComponents(info.SBOM)
		all = append(all, info)
	}
	slices.SortStableFunc(all, func(a, b Info) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}

func inspect(ctx context.Context, engine *client.Client, id, version string) (Info, error) {
	image, err := engine.ImageInspect(ctx, id)
	if err != nil {
		return Info{}, fmt.Errorf("looking at the image %s: %w", id, err)
	}
	info := Info{Names: image.RepoTags, ID: image.ID, Size: image.Size, Labels: map[string]string{}}
	info.Created, _ = time.Parse(time.RFC3339Nano, image.Created) // zero where an engine does not say
	if image.Config != nil && image.Config.Labels != nil {
		info.Labels = image.Config.Labels
	}
	info.Kind, info.Base = Kind(info.Labels[LabelKind]), info.Labels[labelBase]
	info.AgentVersion, info.HubVersion = info.Labels[LabelVersion], info.Labels[labelHub]
	info.Stale = stale(info, version)
	return info, nil
}

func stale(info Info, version string) string {
	current := Name(info.Kind, version)
	switch {
	case info.AgentVersion != version:
		return fmt.Sprintf("it has claude %s, the hub %s", info.AgentVersion, version)
	case !slices.ContainsFunc(info.Names, func(name string) bool { return name == current || strings.HasSuffix(name, "/"+current) }):
		return "this hub would build it from another Dockerfile, or a newer build has its name"
	}
	return ""
}

// The bounds on what an image says of itself.
const (
	maxSBOM       = 8 << 20
	maxComponents = 100_000
)

// The mark of a container that lends an image's files, and how long one can be at work.
const (
	labelReader = "io.claude-hub.kind"
	readerKind  = "image"
	readerAge   = 10 * time.Minute
)

// removeReaders removes such containers of processes that were killed.
func removeReaders(ctx context.Context, engine *client.Client) error {
	left, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", labelReader+"="+readerKind)})
	if err != nil {
		return fmt.Errorf("listing the engine's containers: %w", err)
	}
	for _, c := range left.Items {
		if time.Since(time.Unix(c.Created, 0)) < readerAge {
			continue
		}
		if _, err := engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true}); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("removing a container that was left: %w", err)
		}
	}
	return nil
}

// readSBOM copies the list of packages out of an image. An engine reads files of
// containers only, so there is one for that time; it is never started.
func readSBOM(ctx context.Context, engine *client.Client, id string) (json.RawMessage, error) {
	made, err := engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config:     &container.Config{Image: id, Labels: map[string]string{labelReader: readerKind}, Cmd: []string{"true"}},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err != nil {
		return nil, fmt.Errorf("opening the image: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		// Where this fails, a later removeReaders does it.
		engine.ContainerRemove(ctx, made.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	}()
	copied, err := engine.CopyFromContainer(ctx, made.ID, client.CopyFromContainerOptions{SourcePath: SBOMPath})
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%w: the image has no %s", hub.ErrNotFound, SBOMPath)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", SBOMPath, err)
	}
	defer copied.Content.Close()
	return parseSBOM(copied.Content)
}

// bom is the part of a CycloneDX document that is looked at.
type bom struct {
	Format     string            `json:"bomFormat"`
	Components []json.RawMessage `json:"components"`
}

// parseSBOM reads a tar archive of one regular file, a CycloneDX document.
func parseSBOM(stream io.Reader) (json.RawMessage, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %w", hub.ErrInvalid, SBOMPath, fmt.Errorf(format, args...))
	}
	archive := tar.NewReader(io.LimitReader(stream, maxSBOM+64<<10))
	header, err := archive.Next()
	if err != nil {
		return nil, bad("reading the engine's archive: %w", err)
	}
	if header.Typeflag != tar.TypeReg || header.Size > maxSBOM {
		return nil, bad("it is no regular file of at most %d bytes", maxSBOM)
	}
	data, err := io.ReadAll(io.LimitReader(archive, maxSBOM))
	if err != nil {
		return nil, bad("reading the engine's archive: %w", err)
	}
	var b bom
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, bad("%w", err)
	}
	if b.Format != "CycloneDX" || len(b.Components) == 0 || len(b.Components) > maxComponents {
		return nil, bad("%w", errors.New("it is no CycloneDX document with components"))
	}
	return data, nil
}

// countComponents counts what parseSBOM has let through.
func countComponents(document json.RawMessage) int {
	var b bom
	if json.Unmarshal(document, &b) != nil {
		return 0
	}
	return len(b.Components)
}

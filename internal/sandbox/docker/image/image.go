// Package image builds the hub's two container images and says what is in them.
//
// What it guarantees: the Dockerfiles are part of this program, so that an installed
// binary needs no checkout; what goes into an image is the base, Debian's packages and the
// claude CLI that the hub has installed, as one file, and nothing else of this machine: no
// login, no setting, no name of a host. Each image lists its packages in a file of its own
// ([SBOMPath]), which is read back with bounds, as foreign bytes.
package image

import (
	"crypto/sha256"
	_ "embed" // the Dockerfiles
	"encoding/hex"
	"regexp"
)

// Kind is one of the two images.
type Kind string

// The images: one to sign in with, one for jobs.
const (
	Setup Kind = "setup"
	Agent Kind = "agent"
)

// Kinds returns all of them, in the order in which they are built.
func Kinds() []Kind { return []Kind{Setup, Agent} }

// DefaultBase is what the Dockerfiles build on unless the caller names another image.
const DefaultBase = "debian:bookworm-slim"

// SBOMPath is where an image has its list of packages: CycloneDX, in JSON.
const SBOMPath = "/usr/share/claude-hub/sbom.json"

// The labels that the images carry, beside org.opencontainers.image.*.
const (
	LabelKind    = "io.claude-hub.image"         // a Kind
	LabelVersion = "io.claude-hub.agent.version" // the CLI's version
	labelHub     = "org.opencontainers.image.version"
	labelBase    = "org.opencontainers.image.base.name"
)

//go:embed Dockerfile.setup
var dockerfileSetup string

//go:embed Dockerfile.agent
var dockerfileAgent string

// Dockerfile returns the text that the image is built from, "" for an unknown kind.
func Dockerfile(k Kind) string {
	switch k {
	case Setup:
		return dockerfileSetup
	case Agent:
		return dockerfileAgent
	}
	return ""
}

// outsideTag is what a tag can't have.
var outsideTag = regexp.MustCompile(`[^0-9A-Za-z_.-]`)

// Name returns the name of the image for a version of the CLI: it changes with the version and with our
// Dockerfile, so that an image of that name is what this program would build.
func Name(k Kind, version string) string {
	sum := sha256.Sum256([]byte(Dockerfile(k)))
	return "claude-hub-" + string(k) + ":" + outsideTag.ReplaceAllString(version, "_") + "-" + hex.EncodeToString(sum[:4])
}

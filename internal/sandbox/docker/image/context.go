package image

import (
	"archive/tar"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// contextDockerfile and contextCLI are the files of the build context.
const (
	contextDockerfile = "Dockerfile"
	contextCLI        = "claude"
)

// architectures maps what a program is for to what engines call it.
var architectures = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

// program is the CLI's native program, opened and looked at.
type program struct {
	*os.File
	size int64
	arch string // as engines call it
}

// openProgram opens the CLI at path. What an npm package of old or somebody's wrapper
// has there is a script, which would not start in an image without its surroundings.
func openProgram(path string) (program, error) {
	const hint = "fetch the tested version with `claude-hub agent install`"
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return program{}, hub.Hint(fmt.Errorf("looking for the claude CLI: %w", err), hint)
	}
	file, err := os.Open(path)
	if err != nil {
		return program{}, fmt.Errorf("opening the claude CLI: %w", err)
	}
	p := program{File: file}
	if err := p.look(); err != nil {
		file.Close()
		return program{}, hub.Hint(fmt.Errorf("%w: %s is not the CLI's native program for Linux: %w", hub.ErrInvalid, path, err), hint)
	}
	return p, nil
}

func (p *program) look() error {
	info, err := p.Stat()
	if err != nil {
		return err
	}
	head, err := elf.NewFile(p.File)
	if err != nil {
		return err
	}
	p.size, p.arch = info.Size(), architectures[head.Machine]
	if p.arch == "" {
		return fmt.Errorf("it is for %s", head.Machine)
	}
	return nil
}

// writeContext writes the build context to w: two files that are root's and of no
// particular time, so that the same CLI gives the same layer anywhere.
func writeContext(w io.Writer, k Kind, p program) error {
	if _, err := p.Seek(0, io.SeekStart); err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	text := Dockerfile(k)
	for _, h := range []tar.Header{
		{Name: contextDockerfile, Mode: 0o644, Size: int64(len(text))},
		{Name: contextCLI, Mode: 0o755, Size: p.size},
	} {
		h.Typeflag, h.Format = tar.TypeReg, tar.FormatUSTAR
		if err := archive.WriteHeader(&h); err != nil {
			return err
		}
		var err error
		if h.Name == contextCLI {
			_, err = io.CopyN(archive, p, p.size)
		} else {
			_, err = io.WriteString(archive, text)
		}
		if err != nil {
			return err
		}
	}
	return archive.Close()
}

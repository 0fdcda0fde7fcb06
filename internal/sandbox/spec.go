package sandbox

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// systemPaths are what a mount of the caller's may not cover: drivers put the
// system's own files there.
var systemPaths = []string{
	"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32",
	"/proc", "/sbin", "/sys", "/usr",
}

// Inside returns the path that the host's directory dir should have inside: its
// own, so that the paths that tools print, keep in their caches and look up
// again mean the same on both sides; or [Workspace], where its own would hide a
// part of the system.
func Inside(dir string) string {
	dir = filepath.Clean(dir)
	if shadows(dir) != "" {
		return Workspace
	}
	return dir
}

// shadows returns what a mount at target would hide, or "".
func shadows(target string) string {
	if target == Home || within(Home, target) {
		return Home
	}
	for _, p := range systemPaths {
		if within(target, p) || within(p, target) {
			return p
		}
	}
	if target == "/tmp" {
		return target
	}
	return ""
}

// within reports whether path is dir or lies below it. Both are clean.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// Validate reports the first thing in the spec that no driver accepts, as a
// hub.ErrInvalid. It does not look at the file system.
func (s Spec) Validate() error {
	if len(s.Args) == 0 || s.Args[0] == "" {
		return invalid("the sandbox has no command")
	}
	for _, text := range slices.Concat(s.Args, s.Env, []string{s.Dir, s.Home}) {
		if strings.ContainsRune(text, 0) {
			return invalid("a NUL byte in the sandbox's arguments, environment or paths")
		}
	}
	for _, kv := range s.Env {
		if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
			return invalid("%q in the sandbox's environment is not NAME=VALUE", name)
		}
	}
	if s.Dir != "" && !clean(s.Dir) {
		return invalid("the sandbox's directory %q is not a clean absolute path", s.Dir)
	}
	if s.Home != "" && !clean(s.Home) {
		return invalid("the sandbox's home %q is not a clean absolute path", s.Home)
	}
	if err := s.validateMounts(); err != nil {
		return err
	}
	if err := s.validateSockets(); err != nil {
		return err
	}
	return s.Limits.validate()
}

func (s Spec) validateMounts() error {
	for i, m := range s.Mounts {
		if !clean(m.Source) || !clean(m.Target) || strings.ContainsRune(m.Source+m.Target, 0) {
			return invalid("mount %q at %q: both must be clean absolute paths", m.Source, m.Target)
		}
		if m.Source == "/" {
			return invalid("mount %q: that is the whole host", m.Source)
		}
		if hidden := shadows(m.Target); hidden != "" {
			return invalid("mount at %q: that would hide the sandbox's %s", m.Target, hidden)
		}
		// The point to mount on would be made inside a tree that a job writes to,
		// where a link could lead it anywhere.
		for _, outer := range s.Mounts[:i] {
			if outer.Writable && m.Target != outer.Target && within(m.Target, outer.Target) {
				return invalid("mount at %q: it lies inside the writable %q", m.Target, outer.Target)
			}
		}
		if slices.ContainsFunc(s.Mounts[:i], func(o Mount) bool { return within(o.Target, m.Target) }) {
			return invalid("mount at %q: it would hide an earlier one", m.Target)
		}
	}
	return nil
}

func (s Spec) validateSockets() error {
	seen := map[int]bool{}
	for _, sock := range s.Sockets {
		if !clean(sock.Host) || strings.ContainsRune(sock.Host, 0) {
			return invalid("socket %q is not a clean absolute path", sock.Host)
		}
		if sock.Port < 1024 || sock.Port > 65535 || seen[sock.Port] {
			return invalid("port %d for socket %q: use 1024 to 65535, each once", sock.Port, sock.Host)
		}
		seen[sock.Port] = true
	}
	return nil
}

func (l Limits) validate() error {
	if l.Memory < 0 || l.Processes < 0 || l.Time < 0 || l.Output < 0 || l.FileSize < 0 || l.MinFree < 0 || l.Temp < 0 || !(l.CPUs >= 0) {
		return invalid("a limit of the sandbox is negative")
	}
	return nil
}

func clean(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", hub.ErrInvalid, fmt.Sprintf(format, args...))
}

package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/sandbox"
	"github.com/claude-hub/claude-hub/internal/sandbox/shim/boot"
	"github.com/claude-hub/claude-hub/internal/sandbox/supervise"
)

// The labels of our containers.
const (
	LabelHub   = "io.claude-hub.hub"   // the hub that made it
	LabelRun   = "io.claude-hub.run"   // Spec.Name
	LabelKind  = "io.claude-hub.kind"  // "run" for a run, else Spec.Name
	labelPlace = "io.claude-hub.place" // its directory
)

// Where our own files are inside: below a directory of the system's, where no
// mount of a spec's can be.
const (
	insideDir  = "/etc/claude-hub"
	insideShim = insideDir + "/shim"
	insideDoor = insideDir + "/" + doorName
)

// defaultTemp is Limits.Temp where none is given.
const defaultTemp = 1 << 30

// systemTemp bounds each of the system's other directories for temporary files.
const systemTemp = 16 << 20

// bind is one mount of the container's.
type bind struct {
	source, target string
	writable       bool
}

// binds lists what a container sees of the host.
func (d *Driver) binds(spec sandbox.Spec, p *place, e *engine) ([]bind, error) {
	shimPath, err := d.shim()
	if err != nil {
		return nil, err
	}
	all := []bind{{source: shimPath, target: insideShim}, {source: p.in(doorName), target: insideDoor}}
	for _, f := range etcFiles(e) {
		path, err := p.file(f.name, f.text)
		if err != nil {
			return nil, fmt.Errorf("writing the container's %s: %w", f.name, err)
		}
		all = append(all, bind{source: path, target: "/etc/" + f.name})
	}
	if spec.Home != "" {
		all = append(all, bind{source: spec.Home, target: sandbox.Home, writable: true})
	}
	for _, m := range spec.Mounts {
		if _, err := os.Stat(m.Source); err != nil {
			return nil, fmt.Errorf("%w: mounting %s: %w", hub.ErrInvalid, m.Source, err)
		}
		if err := noLinks(m.Target, spec.Home); err != nil {
			return nil, err
		}
		all = append(all, bind{m.Source, m.Target, m.Writable})
	}
	return all, nil
}

// noLinks refuses a mount inside the home where a link is on the way: the engine
// would make the point to mount on wherever it leads.
func noLinks(target, home string) error {
	rest, inHome := strings.CutPrefix(target, sandbox.Home+"/")
	if !inHome || home == "" {
		return nil
	}
	path := home
	for _, part := range strings.Split(rest, "/") {
		path = filepath.Join(path, part)
		info, err := os.Lstat(path)
		if err != nil {
			return nil
		}
		if info.Mode()&os.ModeSymlink != 0 {
			return fmt.Errorf("%w: mounting at %s: %s is a symbolic link", hub.ErrInvalid, target, path)
		}
	}
	return nil
}

type etcFile struct{ name, text string }

// etcFiles describe a machine with one user. Names, users and resolvers of the
// host stay outside.
func etcFiles(e *engine) []etcFile {
	ids := strconv.Itoa(e.uid) + ":" + strconv.Itoa(e.gid)
	return []etcFile{
		{"passwd", "agent:x:" + ids + "::" + sandbox.Home + ":/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"},
		{"group", "agent:x:" + strconv.Itoa(e.gid) + ":\nnogroup:x:65534:\n"},
		{"hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"},
		{"resolv.conf", ""},
	}
}

// mounts brings the binds into the engine's form. Where owners are mapped, the
// sources are mounts in the place, which have no odd names.
func (d *Driver) mounts(binds []bind, p *place, e *engine) ([]mount.Mount, error) {
	var all []mount.Mount
	for _, b := range binds {
		m := mount.Mount{
			Type: mount.TypeBind, Source: b.source, Target: b.target, ReadOnly: !b.writable,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate},
		}
		if d.userns != nil {
			var err error
			if m.Source, err = p.mapped(d.userns, b.source, !b.writable); err != nil {
				return nil, err
			}
		} else if !b.writable {
			// What is mounted below would stay writable with engines before 25.
			m.BindOptions.NonRecursive = true
		}
		if e.podman && strings.ContainsAny(m.Source+m.Target, ",\"\r\n") { // it takes its mounts apart there
			return nil, hub.Hint(fmt.Errorf("%w: podman can't mount %q at %q: there is a comma, a quote or the end of a line in it", hub.ErrInvalid, b.source, b.target), "rename the directory")
		}
		all = append(all, m)
	}
	return all, nil
}

// options is the container as the engine is asked for it. There is nothing in it
// that a job may not know, and nothing secret.
func (d *Driver) options(spec sandbox.Spec, e *engine, hubID string, p *place, mounts []mount.Mount) client.ContainerCreateOptions {
	temp := spec.Limits.Temp
	if temp == 0 {
		temp = defaultTemp
	}
	// Podman puts the other two over a read-only root by itself, as large as half of
	// the memory.
	tmpfs := map[string]string{"/tmp": tmpfsOptions(temp), "/run": tmpfsOptions(systemTemp), "/var/tmp": tmpfsOptions(systemTemp)}
	if spec.Home == "" {
		tmpfs[sandbox.Home] = tmpfsOptions(temp)
	}
	noInit := false
	host := &container.HostConfig{
		LogConfig: container.LogConfig{Type: "none"}, NetworkMode: "none", IpcMode: container.IPCModePrivate,
		CgroupnsMode: container.CgroupnsModePrivate, UsernsMode: container.UsernsMode(e.userns),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		CapDrop:       []string{"ALL"}, SecurityOpt: []string{"no-new-privileges", "label=disable"},
		ReadonlyRootfs: true, Tmpfs: tmpfs, ShmSize: temp, Mounts: mounts, Init: &noInit,
		OomScoreAdj: 500, // the kernel takes the job before the hub
		MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths,
		Resources: container.Resources{Ulimits: ulimits()},
	}
	if e.podman { // it takes them this way only
		host.SecurityOpt = append(host.SecurityOpt, "mask="+strings.Join(maskedPaths, ":"))
	}
	if limit := spec.Limits.Memory; limit > 0 && e.bounds {
		host.Memory, host.MemorySwap = limit, limit
	}
	if cpus := spec.Limits.CPUs; cpus > 0 && e.bounds { // an engine refuses more than there are
		host.NanoCPUs = int64(min(max(cpus, 0.01), float64(runtime.NumCPU())) * 1e9)
	}
	if limit := int64(spec.Limits.Processes); limit > 0 && e.bounds {
		limit += supervise.Slack
		host.PidsLimit = &limit
	}
	var healthcheck *container.HealthConfig
	if e.healthcheck {
		healthcheck = &container.HealthConfig{Test: []string{"NONE"}}
	}
	kind := spec.Name
	if _, err := hub.ParseRunID(spec.Name); err == nil {
		kind = "run"
	}
	return client.ContainerCreateOptions{
		Name: "claude-hub-" + p.id,
		Config: &container.Config{
			Image: d.cfg.Image, User: e.user, Hostname: "sandbox", WorkingDir: "/",
			Entrypoint:  []string{insideShim, boot.Arg, insideDoor + "/" + socketName},
			Healthcheck: healthcheck,
			Labels:      map[string]string{LabelHub: hubID, LabelRun: spec.Name, LabelKind: kind, labelPlace: p.id},
		},
		HostConfig: host,
	}
}

func tmpfsOptions(size int64) string {
	return "rw,exec,nosuid,nodev,mode=1777,size=" + strconv.FormatInt(size, 10)
}

// What the engine masks by default, and /sys, which tells much about the machine.
var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
	"/sys", "/dev/mqueue",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// ulimits are those of this process within what every engine may set: one that is
// not allowed to raise its own limits fails at its default.
func ulimits() []*container.Ulimit {
	var all []*container.Ulimit
	for _, l := range []struct {
		name       string
		what, most int
	}{{"nofile", unix.RLIMIT_NOFILE, 1 << 16}, {"nproc", unix.RLIMIT_NPROC, 1 << 15}} {
		var own unix.Rlimit
		if unix.Getrlimit(l.what, &own) != nil {
			continue
		}
		most := int64(min(own.Max, uint64(l.most)))
		all = append(all, &container.Ulimit{Name: l.name, Soft: most, Hard: most})
	}
	return all
}

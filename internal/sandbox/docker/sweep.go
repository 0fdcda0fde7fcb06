package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// sweepers bounds how many containers are removed at once.
const sweepers = 8

// Left reports whether a process of this hub's has died and left a container
// behind. It asks no engine.
func (d *Driver) Left() bool {
	dead, _ := deadPlaces(d.cfg.Dir)
	for _, p := range dead {
		p.abandon()
	}
	return len(dead) > 0
}

// deadPlaces returns the places in dir whose processes are gone, locked. What could be
// looked at is returned, also with an error.
func deadPlaces(dir string) ([]*place, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	var dead []*place
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), placePrefix) {
			continue
		}
		p, perr := deadPlace(dir, e.Name())
		if perr != nil {
			err = perr
		}
		if p != nil {
			dead = append(dead, p)
		}
	}
	return dead, err
}

// Sweep removes the containers of this hub whose process is gone, running or not,
// with all that belongs to them, and what is still mounted on the host for them and
// for those on other engines, which it asks nothing.
// It returns how many containers there were. Those of a process that lives, of this
// one or another, stay. It may run beside anything else, another Sweep included.
func (d *Driver) Sweep(ctx context.Context) (int, error) {
	d.unmountElsewhere()
	if _, err := os.Stat(d.cfg.Dir); os.IsNotExist(err) {
		return 0, nil // nothing was ever made
	}
	unlock := d.lockSweeps()
	dead, lookErr := deadPlaces(d.cfg.Dir)
	unlock()
	defer func() {
		for _, p := range dead {
			p.abandon()
		}
	}()
	for _, p := range dead {
		if err := p.unmount(); err != nil {
			return 0, err
		}
	}
	ids, err := d.orphans(ctx, dead)
	if err != nil {
		return 0, err
	}
	removed, err := d.removeAll(ctx, ids)
	if err != nil {
		return removed, err
	}
	for _, p := range dead {
		if err := p.remove(); err != nil {
			return removed, fmt.Errorf("removing what a container has left: %w", err)
		}
	}
	dead = nil
	return removed, lookErr
}

// lockSweeps keeps the other engines' sweeps from looking at the places, so that
// none takes for alive what another is just looking at. Where it can't be locked,
// the next sweep finds what this one misses.
func (d *Driver) lockSweeps() (unlock func()) {
	f, err := os.OpenFile(filepath.Join(filepath.Dir(d.cfg.Dir), "sweep.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return func() {}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		d.log.Warn("sweeps could not be kept apart", "error", err)
	}
	return func() { f.Close() }
}

// unmountElsewhere takes away what processes that are gone have left mounted on the
// host for engines at other addresses, which nobody may ask any more. Their
// directories stay until somebody does.
func (d *Driver) unmountElsewhere() {
	root := filepath.Dir(d.cfg.Dir)
	defer d.lockSweeps()()
	entries, err := os.ReadDir(root)
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if dir == d.cfg.Dir || !e.IsDir() {
			continue
		}
		dead, derr := deadPlaces(dir)
		err = errors.Join(err, derr)
		for _, p := range dead {
			err = errors.Join(err, p.unmount())
			p.abandon()
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("what is mounted for containers of other engines could not be taken away", "error", err)
	}
}

// alive are the states of a container that has processes; "stopping" is Podman's.
var alive = []container.ContainerState{container.StateRunning, container.StatePaused, container.StateRestarting, "stopping"}

// orphans lists the containers of this hub that belong to a dead place, or that
// belong to none and don't run.
func (d *Driver) orphans(ctx context.Context, dead []*place) ([]string, error) {
	id, err := d.hubID()
	if err != nil {
		return nil, err
	}
	list, err := d.client.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", LabelHub+"="+id),
	})
	if err != nil {
		return nil, d.explain("listing the hub's containers", err)
	}
	gone := map[string]bool{}
	for _, p := range dead {
		gone[p.id] = true
	}
	var ids []string
	for _, c := range list.Items {
		at := c.Labels[labelPlace]
		if gone[at] {
			ids = append(ids, c.ID)
			continue
		}
		// One that runs without a place is not of this directory, whatever it says:
		// of one that this is a snapshot of. It ends with its own hub.
		_, err := os.Stat(d.cfg.Dir + "/" + placePrefix + at)
		if at != "" && os.IsNotExist(err) && !slices.Contains(alive, c.State) {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

func (d *Driver) removeAll(ctx context.Context, ids []string) (int, error) {
	var removed atomic.Int64
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(sweepers)
	for _, id := range ids {
		all.Go(func() error {
			if err := d.removeContainer(ctx, id); err != nil {
				return d.explain("removing a container", err)
			}
			if n := removed.Add(1); n%50 == 0 {
				d.log.Info("removing containers of runs that have died", "removed", n, "of", len(ids))
			}
			return nil
		})
	}
	err := all.Wait()
	return int(removed.Load()), err
}

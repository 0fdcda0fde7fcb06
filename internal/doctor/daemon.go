package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/store"
)

const groupDaemon = "daemon and runs"

var daemonCheck = check{
	name: "daemon", group: groupDaemon, hub: true,
	looks: []Entry{
		{ID: "daemon-stuck", Level: LevelError, Meaning: "a daemon runs and does not answer"},
		{ID: "daemon-version", Level: LevelWarning, Meaning: "the daemon is of another version than this program"},
		{ID: "socket-stale", Level: LevelWarning, Fixable: true, Meaning: "a daemon was killed and left its socket"},
		{ID: "runs-parked", Level: LevelWarning, Meaning: "runs are parked, and no daemon is there to resume them"},
	},
	run: lookAtDaemon,
}

func lookAtDaemon(ctx context.Context, p *patient) []Finding {
	locked := isLocked(p.path("serve.lock"))
	d, err := p.daemon(ctx)
	switch {
	case err == nil && d.Version != p.Version && p.Version != "":
		return []Finding{{
			ID: "daemon-version", Level: LevelWarning,
			Symptom: fmt.Sprintf("the daemon (pid %d) is version %s, and this program is %s", d.PID, d.Version, p.Version),
			Cause:   "the program was updated, and the daemon not restarted",
			Fix:     "restart it: `systemctl --user restart claude-hub`, or stop pid " + fmt.Sprint(d.PID) + " and start `claude-hub serve`",
		}}
	case err == nil:
		return nil
	case locked:
		return []Finding{{
			ID: "daemon-stuck", Level: LevelError,
			Symptom: fmt.Sprintf("a daemon holds %s and does not answer: %v", p.path("serve.lock"), err),
			Cause:   "it is just starting or stopping, or it hangs, or its socket was removed",
			Fix:     "its pid is in that file: look at its log, and restart it",
		}}
	}
	var found []Finding
	if exists(p.path("hub.sock")) {
		found = append(found, Finding{
			ID: "socket-stale", Level: LevelWarning,
			Symptom: fmt.Sprintf("nobody listens on %s", p.path("hub.sock")),
			Cause:   "the daemon was killed",
			Fix:     "the next `claude-hub serve` replaces it",
			repair:  func(context.Context) (string, error) { return p.removeSocket() },
		})
	}
	return append(found, p.parked(ctx)...)
}

func (p *patient) daemon(ctx context.Context) (api.Daemon, error) {
	client, err := api.Dial(ctx, p.path("hub.sock"))
	if err != nil {
		return api.Daemon{}, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return client.Daemon(ctx)
}

// removeSocket removes the socket while no daemon can be there.
func (p *patient) removeSocket() (string, error) {
	if exists(p.path("serve.lock")) {
		lock, err := lockDir(p.path("serve.lock"))
		if err != nil {
			return "", err
		}
		defer lock.Close()
	}
	info, err := os.Lstat(p.path("hub.sock"))
	if err != nil {
		return "", err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return "", fmt.Errorf("%w: %s is not a socket", hub.ErrRefused, p.path("hub.sock"))
	}
	return "removed the socket of a dead daemon", os.Remove(p.path("hub.sock"))
}

// parked finds runs that wait for a daemon that is not there.
func (p *patient) parked(ctx context.Context) []Finding {
	n, err := store.CountParked(ctx, p.path("hub.db"))
	if err != nil || n == 0 {
		return nil // a store that can't be read has a finding of its own
	}
	return []Finding{{
		ID: "runs-parked", Level: LevelWarning,
		Symptom: fmt.Sprintf("%d runs are parked, and no daemon runs", n),
		Cause:   "a parked run is resumed by the daemon when the login is back or the plan's window opens",
		Fix:     "start `claude-hub serve`, or cancel them: `claude-hub runs`, `claude-hub cancel`",
	}}
}

var storeCheck = check{
	name: "store", group: groupDaemon, hub: true, limit: time.Minute,
	looks: []Entry{
		{ID: "store-missing", Level: LevelError, Fixable: true, Meaning: "the database of runs is gone"},
		{ID: "store-damaged", Level: LevelError, Fixable: true, Meaning: "the database of runs is damaged, or of another program or a newer version"},
	},
	run: lookAtStore,
}

func lookAtStore(ctx context.Context, p *patient) []Finding {
	if !exists(p.keyPath()) && !exists(p.path("vault")) {
		return nil // no init was made here: the key check says so
	}
	path := p.path("hub.db")
	err := store.Check(ctx, path)
	switch {
	case err == nil, ctx.Err() != nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return nil // permissions or owner
	case errors.Is(err, hub.ErrNotFound):
		return []Finding{{
			ID: "store-missing", Level: LevelError,
			Symptom: fmt.Sprintf("there is no database of runs at %s", path),
			Cause:   "it was removed, or left out when the hub was copied; no login is in it",
			Fix:     "`claude-hub doctor --fix` makes an empty one",
			repair: func(ctx context.Context) (string, error) {
				s, err := store.Create(ctx, path)
				if err != nil {
					return "", err
				}
				return "made an empty database of runs", s.Close()
			},
		}}
	}
	if !errors.Is(err, hub.ErrFormat) && probeWrite(p.Dir) != nil {
		return nil // SQLite can't even read where it can't write; the disk check says so
	}
	return []Finding{p.damagedStore(err)}
}

func (p *patient) damagedStore(err error) Finding {
	f := Finding{
		ID: "store-damaged", Level: LevelError,
		Symptom: fmt.Sprintf("the database of runs can't be used: %v", err),
		Cause:   "a failing disk, an incomplete copy of it, or a newer version of the program; no login is in it",
		Fix:     "`claude-hub doctor --fix` moves it away and makes an empty one; what ran before is then not listed any more",
	}
	if !errors.Is(err, hub.ErrFormat) || hub.HintOf(err) == newerStore {
		f.Fix = hintOr(err, "look at the file and its disk")
		return f
	}
	f.repair = p.replaceStore
	return f
}

// newerStore is the hint of the one fault that an update of the program mends.
const newerStore = "it was written by a newer claude-hub: update this one"

// replaceStore moves the database away and makes an empty one, while no daemon is
// at work on it.
func (p *patient) replaceStore(ctx context.Context) (string, error) {
	if isLocked(p.path("serve.lock")) {
		return "", hub.Hint(fmt.Errorf("%w: a daemon uses it", hub.ErrLocked), "stop the daemon first")
	}
	names := []string{"hub.db"}
	for _, name := range []string{"hub.db-wal", "hub.db-shm"} {
		if exists(p.path(name)) {
			names = append(names, name)
		}
	}
	did, err := p.setAside("", names)
	if err != nil {
		return did, err
	}
	s, err := store.Create(ctx, p.path("hub.db"))
	if err != nil {
		return did, err
	}
	return did + ", and made an empty one", s.Close()
}

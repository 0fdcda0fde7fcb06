package login

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// keepAccount commits who is signed in, so that a person is shown a name and not
// a UUID. A login is worth more than its name: whatever goes wrong here is
// logged, and the capture goes on. An account that is not told replaces the one
// that was there.
func (l *Login) keepAccount(ctx context.Context, profile hub.Profile, c captured) {
	account, err := c.account()
	if err != nil {
		l.cfg.Log.Info("the config directory does not say who is signed in", "profile", profile.Name, "err", err)
		before, err := l.cfg.Vault.Generation(ctx, profile.ID, hub.KindAccount)
		if err == nil && before == 0 {
			return
		}
	}
	record, err := account.Encode()
	if err == nil {
		_, err = l.commit(ctx, profile.ID, hub.KindAccount, record)
	}
	if err != nil {
		l.cfg.Log.Warn("who is signed in could not be kept", "profile", profile.Name, "err", err)
	}
}

// account reads the CLI's global file from where the snapshot has it from.
func (c captured) account() (agent.Account, error) {
	path, beside := c.extra[agent.GlobalFile]
	if !beside {
		path = filepath.Join(c.dir, agent.GlobalFile)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // a fifo must not hang us
	if err != nil {
		return agent.Account{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return agent.Account{}, err
	}
	if !info.Mode().IsRegular() {
		return agent.Account{}, fmt.Errorf("%w: %s is not a regular file", hub.ErrInvalid, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, agent.MaxGlobalFile+1))
	if err != nil {
		return agent.Account{}, err
	}
	return agent.ParseAccount(b)
}

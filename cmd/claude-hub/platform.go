package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/refresh"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// apiHost is the only host that a run with delivery "copy" reaches.
const apiHost = "api.anthropic.com:443"

// changedInterval is how often the vault is asked for a newer generation, which
// another process may have committed.
const changedInterval = 250 * time.Millisecond

// platform gives runs with delivery "copy" what they need; see run.Platform.
type platform struct {
	vault     *vault.Vault
	refresher *refresh.Refresher
}

// Credential returns the credential file without its refresh token, fresh.
func (p platform) Credential(ctx context.Context, profile hub.ProfileID) ([]byte, hub.Generation, error) {
	_, gen, err := p.refresher.AccessToken(ctx, profile, 0)
	if err != nil {
		return nil, 0, err
	}
	if gen&refresh.SpareBit != 0 { // the login itself has ended, or was moved to another hub
		return nil, 0, hub.Hint(fmt.Errorf("%w: only the setup token is left, which no working copy gets", hub.ErrLoginRequired),
			"sign in with `claude-hub login`, or run it without `--delivery copy`")
	}
	record, err := p.vault.Latest(ctx, profile, hub.KindLogin)
	if err != nil {
		return nil, 0, err
	}
	c, err := agent.ParseCredentials(record.Payload)
	if err != nil {
		return nil, 0, err
	}
	file, err := c.WithoutRefreshToken().Encode()
	return file, record.Generation, err
}

// Changed waits for a generation after the given one, and has it made when it is
// due: a run that talks to the platform itself asks nobody else.
func (p platform) Changed(ctx context.Context, profile hub.ProfileID, after hub.Generation) error {
	tick := time.NewTicker(changedInterval)
	defer tick.Stop()
	for {
		if _, gen, err := p.refresher.AccessToken(ctx, profile, 0); gen > after || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Snapshot returns the captured config directory.
func (p platform) Snapshot(ctx context.Context, profile hub.ProfileID) (io.ReadCloser, error) {
	record, err := p.vault.Latest(ctx, profile, hub.KindSnapshot)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(record.Payload)), nil
}

// Egress opens a door to the API's host alone.
func (p platform) Egress(_ context.Context, socket string) (io.Closer, error) {
	return openEgress(socket, apiHost)
}

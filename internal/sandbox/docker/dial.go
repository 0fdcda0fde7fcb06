package docker

import (
	"context"
	"fmt"
	"os"

	"github.com/moby/moby/client"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Dial returns a client of the engine that a driver of this kind uses, for what is
// not about containers, once the engine has answered. Host and environ are as in
// Config. Errors say what can be done. The caller closes the client.
func Dial(ctx context.Context, kind, host string, environ []string) (*client.Client, error) {
	if environ == nil {
		environ = os.Environ()
	}
	at, err := findEngine(kind, host, variables(environ))
	if err != nil {
		return nil, err
	}
	c, err := at.client()
	if err != nil {
		return nil, hub.Hint(fmt.Errorf("%w: the %s engine's address %q: %w", hub.ErrInvalid, kind, at.host, err), addressHint)
	}
	if _, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		c.Close()
		d := &Driver{cfg: Config{Kind: kind}}
		return nil, d.explain(fmt.Sprintf("the %s engine at %s", kind, at.host), err)
	}
	return c, nil
}

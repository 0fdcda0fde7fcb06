package api

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// Client talks to the daemon on one socket. It is safe for concurrent use.
type Client struct{ http *http.Client }

// maxLine bounds one line of a stream: the largest event of the CLI, and the
// frame around it.
const maxLine = 17 << 20

// Dial returns a client for the daemon that listens on socket, or an error of
// kind hub.ErrNotFound if none does, and hub.ErrRefused if it is another user's:
// prompts are for nobody else to read. Call [Client.Close] when done.
func Dial(ctx context.Context, socket string) (*Client, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, fmt.Errorf("%w: no daemon listens on %s", hub.ErrNotFound, socket)
		}
		if !IsOwn(conn) {
			conn.Close()
			return nil, hub.Hint(fmt.Errorf("%w: the process that listens on %s is another user's", hub.ErrRefused, socket), "remove that socket")
		}
		return conn, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	conn.Close()
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true}}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Daemon asks the daemon who it is.
func (c *Client) Daemon(ctx context.Context) (Daemon, error) {
	var d Daemon
	resp, err := c.do(ctx, http.MethodGet, "/daemon", nil)
	if err != nil {
		return d, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLine)).Decode(&d); err != nil {
		return d, fmt.Errorf("reading the daemon's answer: %w", err)
	}
	return d, nil
}

// Run starts a run and calls event with each line of the CLI's event stream, in
// order, until the run has ended. Cancelling ctx cancels the run.
func (c *Client) Run(ctx context.Context, req RunRequest, event func(line []byte)) (hub.Run, error) {
	resp, err := c.do(ctx, http.MethodPost, "/runs", req)
	if err != nil {
		return hub.Run{}, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		var line RunLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return hub.Run{}, fmt.Errorf("reading the daemon's answer: %w", err)
		}
		switch {
		case line.Error != nil && line.Run != nil:
			return *line.Run, line.Error.asError()
		case line.Error != nil:
			return hub.Run{}, line.Error.asError()
		case line.Run != nil:
			return *line.Run, nil
		default:
			event(line.Event)
		}
	}
	if ctx.Err() != nil {
		return hub.Run{}, fmt.Errorf("%w: the daemon was told to stop the run", hub.ErrCancelled)
	}
	err = cmp.Or(lines.Err(), io.ErrUnexpectedEOF)
	return hub.Run{}, hub.Hint(fmt.Errorf("the daemon's answer broke off: %w", err), "see how the run ended with `claude-hub runs`")
}

// Lease asks for a lease on a gateway of the daemon's. It ends when it is
// closed, when ctx ends, or when this process does.
func (c *Client) Lease(ctx context.Context, req LeaseRequest) (*HeldLease, error) {
	resp, err := c.do(ctx, http.MethodPost, "/leases", req)
	if err != nil {
		return nil, err
	}
	var lease Lease
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&lease); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("reading the daemon's answer: %w", err)
	}
	return &HeldLease{url: lease.URL, token: secret.New(lease.Token), conn: resp.Body}, nil
}

// HeldLease is a lease that lives until it is closed.
type HeldLease struct {
	url   string
	token secret.Text
	conn  io.Closer
}

// URL is the gateway's base URL, on loopback.
func (l *HeldLease) URL() string { return l.url }

// Token is the lease token.
func (l *HeldLease) Token() secret.Text { return l.token }

// Close ends the lease. It may be called twice.
func (l *HeldLease) Close() error { return l.conn.Close() }

// Cancel asks the daemon to end a run. It returns when the daemon has been told,
// not when the run has ended.
func (c *Client) Cancel(ctx context.Context, id hub.RunID) error {
	resp, err := c.do(ctx, http.MethodPost, "/runs/"+string(id)+"/cancel", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon/api/"+Version+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	wire := &Error{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(wire); err != nil {
		return nil, fmt.Errorf("asking the daemon: it answered %s", resp.Status)
	}
	return nil, wire.asError()
}

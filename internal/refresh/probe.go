package refresh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/claude-hub/claude-hub/internal/secret"
)

// Probe asks the platform whether it accepts an access token. An error means
// that this could not be found out now.
type Probe func(ctx context.Context, accessToken secret.Text) (accepted bool, err error)

// profileURL answers to a live access token of a full sign-in. The CLI asks it,
// too; no model is involved.
const profileURL = "https://api.anthropic.com/api/oauth/profile"

const probeTimeout = 15 * time.Second

// NewProbe returns the probe that asks the platform through client.
func NewProbe(client *http.Client) Probe {
	noRedirect := *client
	noRedirect.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return func(ctx context.Context, accessToken secret.Text) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, profileURL, nil)
		if err != nil {
			return false, err
		}
		req.Header.Set("Authorization", "Bearer "+accessToken.Reveal())
		req.Header.Set("Anthropic-Beta", "oauth-2025-04-20")
		req.Header.Set("User-Agent", "claude-hub")
		resp, err := noRedirect.Do(req)
		if err != nil {
			return false, fmt.Errorf("asking whether the access token is still accepted: %w", err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
		switch resp.StatusCode {
		case http.StatusOK:
			return true, nil
		case http.StatusUnauthorized:
			return false, nil
		}
		return false, fmt.Errorf("asking whether the access token is still accepted: the platform answered %d", resp.StatusCode)
	}
}

// PlatformClient returns a client for the few requests of our own. It obeys the
// variables that the CLI obeys: HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE (Go does
// that by itself) and NODE_EXTRA_CA_CERTS.
func PlatformClient() (*http.Client, error) {
	tr := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second}
	if extra := os.Getenv("NODE_EXTRA_CA_CERTS"); extra != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("reading the system's certificates: %w", err)
		}
		pem, err := os.ReadFile(extra)
		if err != nil {
			return nil, fmt.Errorf("reading NODE_EXTRA_CA_CERTS: %w", err)
		}
		pool.AppendCertsFromPEM(pem)
		tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: tr}, nil
}

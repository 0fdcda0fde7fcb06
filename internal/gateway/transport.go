package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// NewTransport returns a transport to an upstream that honours the environment:
// HTTPS_PROXY and NO_PROXY in either case, and NODE_EXTRA_CA_CERTS beside the
// system's roots (which crypto/x509 takes from SSL_CERT_FILE).
func NewTransport(getenv func(string) string) (*http.Transport, error) {
	proxy, err := proxyFrom(getenv)
	if err != nil {
		return nil, err
	}
	roots, err := rootsFrom(getenv)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:                  proxy,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	return t, nil
}

func rootsFrom(getenv func(string) string) (*x509.CertPool, error) {
	file := getenv("NODE_EXTRA_CA_CERTS")
	if file == "" {
		return nil, nil // the system's
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, hub.Hint(fmt.Errorf("reading NODE_EXTRA_CA_CERTS: %w", err), "unset it or set it to a readable PEM file")
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, hub.Hint(fmt.Errorf("%w: NODE_EXTRA_CA_CERTS: no certificate in %s", hub.ErrInvalid, file), "unset it or set it to a readable PEM file")
	}
	return pool, nil
}

// proxyFrom reads the environment now, unlike http.ProxyFromEnvironment, which
// reads it once for the whole process.
func proxyFrom(getenv func(string) string) (func(*http.Request) (*url.URL, error), error) {
	either := func(name string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return getenv(strings.ToLower(name))
	}
	raw := either("HTTPS_PROXY")
	if raw == "" {
		return nil, nil
	}
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	proxy, err := url.Parse(raw)
	if err != nil || proxy.Host == "" {
		// The error would show the proxy's password.
		return nil, hub.Hint(errors.Join(hub.ErrInvalid, errors.New("HTTPS_PROXY is not a URL")), "write it as http://user:password@host:port")
	}
	direct := either("NO_PROXY")
	return func(r *http.Request) (*url.URL, error) {
		if r.URL.Scheme != "https" || loopback(r.URL.Hostname()) || matchesNoProxy(direct, r.URL.Hostname()) {
			return nil, nil
		}
		return proxy, nil
	}, nil
}

// matchesNoProxy reports whether list has host or a domain that it is in.
func matchesNoProxy(list, host string) bool {
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if name, _, ok := strings.Cut(entry, ":"); ok {
			entry = name
		}
		entry = strings.TrimPrefix(strings.TrimPrefix(entry, "*"), ".")
		if entry == "" {
			if list == "*" {
				return true
			}
			continue
		}
		if host == entry || strings.HasSuffix(host, "."+entry) {
			return true
		}
	}
	return false
}

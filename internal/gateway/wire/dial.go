package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	keepAlive        = 15 * time.Second // finds an origin that is gone without a word
)

// Dialer returns a function that connects to origin as the environment says:
// HTTPS_PROXY and NO_PROXY in either case, and NODE_EXTRA_CA_CERTS beside the
// system's roots (which crypto/x509 takes from SSL_CERT_FILE). Loopback is always
// reached directly.
func Dialer(origin *url.URL, getenv func(string) string) (func(context.Context) (net.Conn, error), error) {
	addr := hostPort(origin)
	proxy, err := proxyFor(origin, getenv)
	if err != nil {
		return nil, err
	}
	d := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	connect := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	if origin.Scheme != "https" {
		return connect, nil
	}
	roots, err := rootsFrom(getenv)
	if err != nil {
		return nil, err
	}
	if proxy != nil {
		proxyTLS := &tls.Config{RootCAs: roots, ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12}
		connect = func(ctx context.Context) (net.Conn, error) { return tunnel(ctx, d, proxy, proxyTLS, addr) }
	}
	cfg := &tls.Config{
		RootCAs: roots, ServerName: origin.Hostname(), MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}
	return func(ctx context.Context) (net.Conn, error) {
		c, err := connect(ctx)
		if err != nil {
			return nil, err
		}
		return handshake(ctx, c, cfg)
	}, nil
}

func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
}

func handshake(ctx context.Context, c net.Conn, cfg *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS with %s: %w", cfg.ServerName, err), ignoreClosed(c.Close()))
	}
	return t, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// tunnel asks a proxy for a connection to addr.
func tunnel(ctx context.Context, d *net.Dialer, proxy *url.URL, cfg *tls.Config, addr string) (net.Conn, error) {
	c, err := d.DialContext(ctx, "tcp", hostPort(proxy))
	if err != nil {
		return nil, fmt.Errorf("dialling the proxy: %w", err)
	}
	if proxy.Scheme == "https" {
		if c, err = handshake(ctx, c, cfg); err != nil {
			return nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := askProxy(c, proxy, addr); err != nil {
		return nil, errors.Join(err, ignoreClosed(c.Close()))
	}
	return c, nil
}

func askProxy(c net.Conn, proxy *url.URL, addr string) error {
	if err := c.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	head := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n"
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		head += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)) + "\r\n"
	}
	if _, err := c.Write([]byte(head + "\r\n")); err != nil {
		return fmt.Errorf("asking the proxy: %w", err)
	}
	in := input{c: c}
	defer in.drop()
	answer, err := in.head(maxAnswerHead, nil)
	if err != nil {
		return fmt.Errorf("asking the proxy: %w", err)
	}
	a, err := ParseAnswer(answer, false, nil)
	if err != nil {
		return fmt.Errorf("asking the proxy: %w", err)
	}
	if a.Status != 200 || len(in.held()) > 0 {
		return fmt.Errorf("the proxy answered %d", a.Status)
	}
	return c.SetDeadline(time.Time{})
}

func rootsFrom(getenv func(string) string) (*x509.CertPool, error) {
	file := getenv("NODE_EXTRA_CA_CERTS")
	if file == "" {
		return nil, nil // the system's
	}
	const hint = "unset it or set it to a readable PEM file"
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, hub.Hint(fmt.Errorf("reading NODE_EXTRA_CA_CERTS: %w", err), hint)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, hub.Hint(fmt.Errorf("%w: NODE_EXTRA_CA_CERTS: no certificate in %s", hub.ErrInvalid, file), hint)
	}
	return pool, nil
}

// proxyFor returns the proxy for origin, or nil.
func proxyFor(origin *url.URL, getenv func(string) string) (*url.URL, error) {
	either := func(name string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return getenv(strings.ToLower(name))
	}
	raw := either("HTTPS_PROXY")
	if raw == "" || origin.Scheme != "https" || Loopback(origin.Hostname()) || exempt(either("NO_PROXY"), origin.Hostname()) {
		return nil, nil
	}
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	proxy, err := url.Parse(raw)
	if err != nil || proxy.Hostname() == "" || proxy.Scheme != "http" && proxy.Scheme != "https" {
		// The parser's error would show the proxy's password.
		return nil, hub.Hint(fmt.Errorf("%w: HTTPS_PROXY is not the URL of an HTTP proxy", hub.ErrInvalid), "write it as http://user:password@host:port")
	}
	return proxy, nil
}

// exempt reports whether a NO_PROXY list has host or a domain that it is in.
func exempt(list, host string) bool {
	for entry := range strings.SplitSeq(list, ",") {
		entry, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(entry)), ":")
		if entry == "*" {
			return true
		}
		entry = strings.TrimPrefix(strings.TrimPrefix(entry, "*"), ".")
		if entry != "" && (host == entry || strings.HasSuffix(host, "."+entry)) {
			return true
		}
	}
	return false
}

// Loopback reports whether host is this machine.
func Loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

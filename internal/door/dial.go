package door

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// dial connects to address, through the upstream proxy if there is one.
func (d *Door) dial(address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.life, d.cfg.DialTimeout)
	defer cancel()
	if d.cfg.Upstream == nil {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("connecting to %s: %w", address, err)
		}
		return c, nil
	}
	c, err := dialProxy(ctx, d.cfg.Upstream)
	if err != nil {
		return nil, fmt.Errorf("connecting to the proxy %s: %w", d.cfg.Upstream.Host, err)
	}
	stop := context.AfterFunc(ctx, func() { c.Close() }) // a proxy that never answers
	t, err := throughProxy(c, d.cfg.Upstream, address)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("asking the proxy %s for %s: %w", d.cfg.Upstream.Host, address, err)
	}
	return t, nil
}

func dialProxy(ctx context.Context, proxy *url.URL) (net.Conn, error) {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	}
	address := net.JoinHostPort(proxy.Hostname(), port)
	if proxy.Scheme == "https" {
		return (&tls.Dialer{Config: &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", address)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// throughProxy asks the proxy at the other end of c for a tunnel to address.
func throughProxy(c net.Conn, proxy *url.URL, address string) (net.Conn, error) {
	ask := "CONNECT " + address + " HTTP/1.1\r\nHost: " + address + "\r\n"
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		ask += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(c, ask+"\r\n"); err != nil {
		return nil, err
	}
	r := bufio.NewReader(io.LimitReader(c, maxHeader))
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %d", resp.StatusCode)
	}
	return &tunnel{Conn: c, r: resume(r, c)}, nil
}

// resume returns a reader of what header holds unread, and then of r.
func resume(header *bufio.Reader, r io.Reader) io.Reader {
	early, _ := header.Peek(header.Buffered()) // all of it is in memory
	return io.MultiReader(bytes.NewReader(bytes.Clone(early)), r)
}

// tunnel is a connection of which some bytes were read already.
type tunnel struct {
	net.Conn
	r io.Reader
}

func (t *tunnel) Read(p []byte) (int, error) { return t.r.Read(p) }

// CloseWrite passes on the end of what the client sends.
func (t *tunnel) CloseWrite() error {
	if w, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return t.Close()
}

package doctor

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const groupNetwork = "network and clock"

var proxyCheck = check{
	name: "proxy", group: groupNetwork,
	looks: []Entry{
		{ID: "proxy-invalid", Level: LevelError, Meaning: "HTTPS_PROXY is not the address of a proxy"},
		{ID: "proxy-unreachable", Level: LevelError, Meaning: "the proxy of the environment can't be reached: neither sign-ins nor refreshes nor runs get out"},
	},
	run: lookAtProxy,
}

// proxyPatience is for the connection to the owner's own proxy.
const proxyPatience = 3 * time.Second

func lookAtProxy(ctx context.Context, p *patient) []Finding {
	var found []Finding
	seen := map[string]bool{}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
		text := p.getenv(name)
		if text == "" || seen[text] {
			continue
		}
		seen[text] = true
		address, err := proxyAddress(text)
		if err != nil {
			found = append(found, Finding{
				ID: "proxy-invalid", Level: LevelError,
				Symptom: fmt.Sprintf("%s is not the address of a proxy", name), // it may hold a password
				Cause:   err.Error(),
				Fix:     fmt.Sprintf("export %s=http://HOST:PORT", name),
			})
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, proxyPatience)
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		cancel()
		if err == nil {
			conn.Close()
			continue
		}
		found = append(found, Finding{
			ID: "proxy-unreachable", Level: LevelError,
			Symptom: fmt.Sprintf("the proxy that %s names can't be reached: %v", name, err),
			Cause:   "it is down, its name is not resolved here, or the variable is left over from another network",
			Fix:     fmt.Sprintf("correct or unset %s", name),
		})
	}
	return found
}

// proxyAddress returns the host and port of a proxy, as the CLI and the hub read
// it. The error quotes nothing.
func proxyAddress(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return "", fmt.Errorf("it names no host")
	}
	port := u.Port()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("proxies of type %.20q are not supported: http and https are", u.Scheme)
	case port == "" && u.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

var caCheck = check{
	name: "certificates", group: groupNetwork,
	looks: []Entry{
		{ID: "ca-unreadable", Level: LevelError, Meaning: "NODE_EXTRA_CA_CERTS or SSL_CERT_FILE names a file that can't be read"},
		{ID: "ca-invalid", Level: LevelError, Meaning: "that file holds no certificate"},
		{ID: "ca-expired", Level: LevelError, Meaning: "all certificates in that file have expired, or are not valid yet"},
		{ID: "ca-expiring", Level: LevelWarning, Meaning: "the last certificate in that file ends within 14 days"},
	},
	run: lookAtCertificates,
}

// tellCA is when a person is told of certificates that end.
const tellCA = 14 * 24 * time.Hour

// maxPEM bounds a file of certificates; a system's own has 250 KB.
const maxPEM = 8 << 20

func lookAtCertificates(_ context.Context, p *patient) []Finding {
	var found []Finding
	for _, name := range []string{"NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"} {
		path := p.getenv(name)
		if path == "" {
			continue
		}
		if f, ok := p.certificates(name, path); ok {
			found = append(found, f)
		}
	}
	return found
}

func (p *patient) certificates(name, path string) (Finding, bool) {
	f := Finding{Level: LevelError, Fix: fmt.Sprintf("correct %s, or unset it if there is no company proxy here", name)}
	if !filepath.IsAbs(path) {
		f.ID = "ca-unreadable"
		f.Symptom = fmt.Sprintf("%s=%s is a relative path", name, path)
		f.Cause = "the CLI runs in directories of its own, where that leads nowhere"
		return f, true
	}
	data, err := readRegular(path, maxPEM)
	if err != nil {
		f.ID = "ca-unreadable"
		f.Symptom = fmt.Sprintf("the certificates of %s can't be read: %v", name, err)
		f.Cause = "the file was moved or removed, or this user may not read it"
		return f, true
	}
	certs := parseCertificates(data)
	if len(certs) == 0 {
		f.ID = "ca-invalid"
		f.Symptom = fmt.Sprintf("%s, which %s names, holds no certificate", path, name)
		f.Cause = "it is not in PEM form (-----BEGIN CERTIFICATE-----), or is damaged"
		return f, true
	}
	now := p.Now()
	var last time.Time
	for _, c := range certs {
		if !now.Before(c.NotBefore) && c.NotAfter.After(last) {
			last = c.NotAfter
		}
	}
	switch {
	case !now.Before(last):
		f.ID = "ca-expired"
		f.Symptom = fmt.Sprintf("no certificate in %s, which %s names, is valid now", path, name)
		f.Cause = "they have expired, or the clock of this machine is wrong"
		f.Fix = "get the company's present certificates, and name them in " + name
	case now.Add(tellCA).After(last):
		f.ID, f.Level = "ca-expiring", LevelWarning
		f.Symptom = fmt.Sprintf("the certificates in %s, which %s names, end on %s", path, name, day(last))
		f.Cause = "a certificate of authority is good for some years"
		f.Fix = "get the company's next certificates, and name them in " + name
	default:
		return f, false
	}
	return f, true
}

func parseCertificates(data []byte) []*x509.Certificate {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		block, data = pem.Decode(bytes.TrimSpace(data))
		if block == nil {
			return certs
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			certs = append(certs, c)
		}
	}
}

// readRegular reads a regular file of at most limit bytes; no fifo can hold it up.
func readRegular(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err == nil && info.Size() > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

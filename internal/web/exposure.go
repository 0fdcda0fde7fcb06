package web

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// exposure is who can reach the page, and under which names.
type exposure struct {
	public *url.URL // what links begin with; nil until the listener is open where it's derived
	named  bool     // public comes from the settings
	listen string   // as configured
}

// newExposure refuses an address on which cookies and codes would go over a
// network in the clear, unless insecure says that something else protects them.
func newExposure(listen, publicURL string, insecure bool) (exposure, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		err := fmt.Errorf("%w: listen: %q is not host:port", hub.ErrInvalid, listen)
		return exposure{}, hub.Hint(err, "write it like 127.0.0.1:3002, or off for no page")
	}
	e := exposure{listen: listen}
	if publicURL != "" {
		if e.public, err = parsePublic(publicURL); err != nil {
			return exposure{}, err
		}
		e.named = true
	}
	secure := e.named && e.public.Scheme == "https"
	switch {
	case insecure || secure:
	case !isLoopback(host):
		err := fmt.Errorf("%w: listen: %s is reached from other machines, and the page has no TLS", hub.ErrInvalid, listen)
		return exposure{}, hub.Hint(err, "put a proxy with TLS in front and name it in public_url (https://…), or say listen_insecure: true where something else protects the way")
	case e.named && !isLoopback(e.public.Hostname()):
		err := fmt.Errorf("%w: public_url: %s has no TLS", hub.ErrInvalid, publicURL)
		return exposure{}, hub.Hint(err, "make it https://…, or say listen_insecure: true where something else protects the way")
	}
	return e, nil
}

func parsePublic(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", u.User != nil, u.Path != "" && u.Path != "/", u.RawQuery != "" || u.Fragment != "":
		// not quoted: it may hold a password
		err := fmt.Errorf("%w: public_url is not the address of a site of its own", hub.ErrInvalid)
		return nil, hub.Hint(err, "write it like https://hub.example.com, without a path")
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}, nil
}

// opened completes the exposure with the address that is listened on.
func (e *exposure) opened(addr net.Addr) {
	if e.named {
		return
	}
	host := addr.String()
	if a, err := netip.ParseAddrPort(host); err == nil && a.Addr().IsUnspecified() {
		host = net.JoinHostPort("localhost", fmt.Sprint(a.Port()))
	}
	e.public = &url.URL{Scheme: "http", Host: host}
}

func (e *exposure) secure() bool { return e.public.Scheme == "https" }

// link returns the address of a path of the page.
func (e *exposure) link(path string) string { return e.public.String() + path }

// isOwnName reports whether host is a name that no foreign site can have: a
// page of another site whose name was pointed at our address (DNS rebinding) is
// told by it. Loopback addresses and localhost can't be such a name, whatever
// the port, which a container may have mapped.
func (e *exposure) isOwnName(host string) bool {
	host = strings.ToLower(host)
	if host == e.public.Host || host == e.listen {
		return true
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
		for scheme, port := range map[string]string{"http": ":80", "https": ":443"} {
			if e.public.Scheme == scheme && host+port == e.public.Host {
				return true
			}
		}
	} else if e.public.Port() == "" && name == e.public.Hostname() {
		return strings.HasSuffix(host, map[string]string{"http": ":80", "https": ":443"}[e.public.Scheme])
	}
	return isLoopback(name)
}

// isLoopback reports whether a host is this machine and no other.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// onlyOwnNames refuses requests under a foreign name, before anything is looked
// at.
func (e *exposure) onlyOwnNames(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.isOwnName(r.Host) {
			http.Error(w, "this is not a name of this site (public_url in config.yaml)", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

package web

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// FuzzIsOwnName: a name that is taken for ours is the public one, localhost, or a
// loopback address, as the standard library reads it.
func FuzzIsOwnName(f *testing.F) {
	for _, host := range []string{"hub.example.com", "hub.example.com:443", "127.0.0.1:3002", "[::1]", "localhost:1", "evil.example:3002", "127.0.0.1.evil.example", "[::1", "::ffff:127.0.0.1", ""} {
		f.Add(host)
	}
	e, err := newExposure("127.0.0.1:3002", "https://hub.example.com", false)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !e.isOwnName(host) {
			return
		}
		name, port, err := net.SplitHostPort(host)
		if err != nil {
			name, port = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), "443"
		}
		a, err := netip.ParseAddr(name)
		loopback := strings.EqualFold(name, "localhost") || err == nil && a.Unmap().IsLoopback()
		if !loopback && (!strings.EqualFold(name, "hub.example.com") || port != "443") {
			t.Errorf("%q is taken for ours", host)
		}
	})
}

package gateway

import (
	"bytes"
	"slices"
	"strings"

	"github.com/claude-hub/claude-hub/internal/gateway/wire"
	"github.com/claude-hub/claude-hub/internal/lease"
)

// route is what the gateway does with a path.
type route uint8

const (
	routeNone     route = iota
	routeMessages       // inference: metered
	routeCount          // counting tokens: free
	routeHello          // the CLI's look whether somebody is there: answered here
)

// allowed maps method and path, as they stand in the request line, to a route.
// Everything that is not in it, in whatever spelling, is refused.
var allowed = map[string]route{
	"POST /v1/messages":              routeMessages,
	"POST /v1/messages/count_tokens": routeCount,
	"HEAD /api/hello":                routeHello,
	"GET /api/hello":                 routeHello,
}

// maxQuery bounds the query of a request.
const maxQuery = 512

// routeOf finds the request's route by what its head says, the token aside.
func (e *Endpoint) routeOf(r *wire.Request) (route, *fault) {
	path, query, _ := bytes.Cut(r.Target, []byte{'?'})
	switch {
	case string(r.Method) == "CONNECT" || !bytes.HasPrefix(path, []byte{'/'}):
		return routeNone, denied("this is no forward proxy; only its own paths are served")
	case !e.ownHost(string(r.Host)):
		return routeNone, denied("the Host field does not name this endpoint")
	case slices.ContainsFunc(r.Fields, func(f wire.Field) bool { return f.Is("origin") || f.Is("sec-fetch-site") }):
		return routeNone, denied("web pages are not served")
	case slices.ContainsFunc(r.Fields, func(f wire.Field) bool { return f.Is("upgrade") }):
		return routeNone, denied("there is no other protocol here")
	}
	to := allowed[string(r.Method)+" "+string(path)]
	switch {
	case to == routeNone:
		return to, denied("this path is not allowed for a run")
	case len(query) > maxQuery || bytes.ContainsFunc(query, notQuery):
		return routeNone, denied("this query is not allowed for a run")
	case to == routeHello && r.Length != 0:
		return routeNone, denied("this path takes no body")
	}
	return to, nil
}

// notQuery reports whether r is no part of a plain query, such as "beta=true".
func notQuery(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("=&_-.,", r)
}

// ownHost reports whether host, as in a Host field, means this endpoint. That
// keeps out web pages whose name was made to resolve to loopback.
func (e *Endpoint) ownHost(host string) bool {
	if e.hosts != nil {
		return slices.Contains(e.hosts, host)
	}
	name, port, found := strings.Cut(host, ":")
	return (name == "127.0.0.1" || name == "localhost") && (!found || port != "" && strings.Trim(port, "0123456789") == "")
}

// authorize accepts this endpoint's own lease token, in either of the API's two
// fields, or the same in both.
func (e *Endpoint) authorize(r *wire.Request) *fault {
	token, ok := credential(r)
	if !ok {
		return badToken("exactly one lease token is needed, as a bearer token or an API key")
	}
	if e.lease.Matches(token) {
		if err := e.lease.Err(); err != nil {
			return limited(err.Error())
		}
		return nil
	}
	if other, _ := e.g.book.Check(token); other != nil {
		e.alarms.Add(1)
		e.g.log.Error("alarm: a run used the lease token of another", "run", e.lease.Run(), "owner", other.Run(), "profile", e.lease.Profile())
	}
	return badToken("this lease token is not good here")
}

// credential returns the one credential of a request. Two that differ, or two of
// a kind, are none: whoever reads on might take the other.
func credential(r *wire.Request) (string, bool) {
	var bearer, key []byte
	var bearers, keys int
	for _, f := range r.Fields {
		switch {
		case f.Is("authorization"):
			scheme, token, _ := bytes.Cut(f.Value, []byte{' '})
			if !bytes.EqualFold(scheme, []byte("bearer")) {
				return "", false
			}
			bearer = token
			bearers++
		case f.Is("x-api-key"):
			key = f.Value
			keys++
		}
	}
	switch {
	case bearers > 1 || keys > 1 || bearers+keys == 2 && !bytes.Equal(bearer, key):
		return "", false
	case bearers == 0:
		bearer = key
	}
	return string(bearer), bytes.HasPrefix(bearer, []byte(lease.TokenPrefix))
}

// notForwarded are the fields of a request that end here: what belongs to one
// connection, what says who the client is, and what the gateway writes itself.
var notForwarded = set(hopByHop, []string{
	"host", "content-length", "expect", "http2-settings", "authorization", "x-api-key", "cookie", "cookie2",
	"forwarded", "via", "x-real-ip", "true-client-ip", "x-client-ip", "referer",
	"accept-encoding",
})

// notReturned are the fields of an answer that end here.
var notReturned = set(hopByHop, []string{
	"content-length", "set-cookie", "set-cookie2", "alt-svc", "strict-transport-security",
})

var hopByHop = []string{
	"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
	"proxy-authentication-info", "te", "trailer", "transfer-encoding", "upgrade",
}

func set(lists ...[]string) map[string]bool {
	m := make(map[string]bool)
	for _, name := range slices.Concat(lists...) {
		m[name] = true
	}
	return m
}

// passing returns those of fields that may pass: not stopped, and not named by
// the message as being for one connection. It reuses the slice.
func passing(fields []wire.Field, stopped map[string]bool) []wire.Field {
	var named [][]byte
	for _, f := range fields {
		if f.Is("connection") && !bytes.EqualFold(f.Value, []byte("keep-alive")) && !bytes.EqualFold(f.Value, []byte("close")) {
			named = append(named, bytes.Split(f.Value, []byte{','})...)
		}
	}
	kept := fields[:0]
	for _, f := range fields {
		if !stop(f.Name, stopped) && !slices.ContainsFunc(named, func(n []byte) bool { return bytes.EqualFold(bytes.Trim(n, " \t"), f.Name) }) {
			kept = append(kept, f)
		}
	}
	return kept
}

func stop(name []byte, stopped map[string]bool) bool {
	var low [64]byte
	if len(name) > len(low) {
		return false
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		low[i] = c
	}
	n := low[:len(name)]
	return stopped[string(n)] || bytes.HasPrefix(n, []byte("x-forwarded-")) || bytes.HasPrefix(n, []byte("sec-")) ||
		bytes.HasPrefix(n, []byte("cf-connecting-")) || bytes.HasPrefix(n, []byte("proxy-"))
}

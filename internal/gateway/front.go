package gateway

import (
	"net/http"
	"strings"

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

// routeOf finds the request's route by its request line and framing alone.
func (e *Endpoint) routeOf(r *http.Request) (route, *fault) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	h := r.Header
	switch {
	case r.Method == http.MethodConnect || !strings.HasPrefix(path, "/"):
		return routeNone, denied("claude-hub: this is no forward proxy; only its own paths are served")
	case !e.ownHost(r.Host):
		return routeNone, denied("claude-hub: the Host header does not name this endpoint")
	case len(h["Origin"]) > 0 || len(h["Sec-Fetch-Site"]) > 0:
		return routeNone, denied("claude-hub: web pages are not served")
	case len(h["Upgrade"]) > 0:
		return routeNone, denied("claude-hub: there is no other protocol here")
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return routeNone, badRequest("claude-hub: HTTP/1.1 is needed")
	}
	to := allowed[r.Method+" "+path]
	if to == routeNone {
		return to, denied("claude-hub: this path is not allowed for a run")
	}
	if len(query) > maxQuery || strings.ContainsFunc(query, notQuery) {
		return routeNone, denied("claude-hub: this query is not allowed for a run")
	}
	return to, nil
}

// notQuery reports whether r is no part of a plain query, such as "beta=true".
func notQuery(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("=&_-.,", r)
}

// authorize accepts this endpoint's own lease token, in either of the API's two
// headers, or the same in both.
func (e *Endpoint) authorize(r *http.Request) *fault {
	token, ok := bearer(r.Header)
	if !ok {
		return badToken("claude-hub: exactly one lease token is needed, as a bearer token or an API key")
	}
	if e.lease.Matches(token) {
		if err := e.lease.Err(); err != nil {
			return limited(err.Error())
		}
		return nil
	}
	if other, err := e.g.book.Check(token); err == nil || other != nil {
		e.alarms.Add(1)
		e.g.log.Error("alarm: a run used the lease token of another", "run", e.lease.Run(), "owner", other.Run(), "profile", e.lease.Profile())
	}
	return badToken("claude-hub: this lease token is not good here")
}

// bearer returns the one credential of a request. Two that differ, or two of a
// kind, are none: whoever reads on might take the other.
func bearer(h http.Header) (string, bool) {
	auth, keys := h["Authorization"], h["X-Api-Key"]
	if len(auth) > 1 || len(keys) > 1 || len(auth)+len(keys) == 0 {
		return "", false
	}
	if len(auth) == 0 {
		return keys[0], true
	}
	scheme, token, _ := strings.Cut(auth[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || len(keys) == 1 && keys[0] != token {
		return "", false
	}
	return token, strings.HasPrefix(token, lease.TokenPrefix)
}

// notForwarded are headers of a request that end here: what belongs to one
// connection, what says who the client is, and what the transport writes itself.
var notForwarded = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true,
	"Proxy-Authorization": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Http2-Settings": true, "Expect": true, "Content-Length": true, "Host": true,
	"Authorization": true, "X-Api-Key": true, "Cookie": true, "Cookie2": true,
	"Forwarded": true, "Via": true, "X-Real-Ip": true, "True-Client-Ip": true, "Referer": true,
	// Metering reads the answer, and on loopback compression only costs.
	"Accept-Encoding": true,
}

// notReturned are headers of an answer that end here.
var notReturned = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Set-Cookie": true, "Set-Cookie2": true, "Alt-Svc": true, "Strict-Transport-Security": true,
}

// copyHeader copies what may pass. The values are shared, not copied.
func copyHeader(to, from http.Header, stop map[string]bool) {
	var named map[string]bool
	for _, line := range from["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if named == nil {
				named = make(map[string]bool)
			}
			named[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	for k, v := range from {
		if !stop[k] && !named[k] && !strings.HasPrefix(k, "X-Forwarded-") && !strings.HasPrefix(k, "Sec-") && !strings.HasPrefix(k, "Cf-") {
			to[k] = v
		}
	}
}

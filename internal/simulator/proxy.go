package simulator

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// proxy answers on the proxy's own address: CONNECT leads to one of the sites
// and nowhere else, a request in origin form reaches the admin endpoint (so that
// plain curl works), and every other request is refused. It never dials.
func (s *Simulator) proxy(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		s.connect(w, r)
	case r.URL.Host == "" && isLoopbackHost(r.Host):
		s.admin.ServeHTTP(w, r)
	default:
		s.count(func(c *Counters) { c.RefusedConnects++ })
		http.Error(w, "the simulator forwards CONNECT to its own hosts only", http.StatusForbidden)
	}
}

func isLoopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (s *Simulator) connect(w http.ResponseWriter, r *http.Request) {
	site := s.sites[r.Host] // exact: lower case, port 443, no trailing dot
	if site == nil {
		s.count(func(c *Counters) { c.RefusedConnects++ })
		s.log.Info("refused CONNECT", "host", r.Host)
		http.Error(w, "the simulator plays no such host: "+r.Host, http.StatusForbidden)
		return
	}
	s.count(func(c *Counters) { c.Connects++ })
	if f := s.faults.take(EndpointConnect); f != nil && !s.before(f, w, r) {
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if buf.Reader.Buffered() > 0 { // bytes before our 200 are not TLS we asked for
		conn.Close()
		return
	}
	if _, err := conn.Write([]byte("HTTP/1.1 200 Connection Established\r\n\r\n")); err != nil {
		conn.Close()
		return
	}
	site.tunnels.offer(tls.Server(conn, s.ca.server))
}

// site is one host of the platform: an HTTP server fed by tunnels.
type site struct {
	server  *http.Server
	tunnels *tunnels
}

// tunnels is a listener whose connections are offered by the proxy.
type tunnels struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newTunnels() *tunnels {
	return &tunnels{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (t *tunnels) offer(c net.Conn) {
	select {
	case t.conns <- c:
	case <-t.closed:
		c.Close()
	}
}

func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case c := <-t.conns:
		return c, nil
	case <-t.closed:
		return nil, net.ErrClosed
	}
}

func (t *tunnels) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

func (t *tunnels) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

package simulator_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/simulator"
)

// connect sends raw bytes to the proxy and returns the status of its answer.
func connect(t *testing.T, s *simulator.Simulator, raw string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.ProxyURL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, raw)
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "CONNECT"})
	if err != nil {
		return err.Error()
	}
	resp.Body.Close()
	return resp.Status
}

func TestProxyRefusesEveryOtherHost(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	refused := []string{
		"example.com:443", "api.anthropic.com:80", "api.anthropic.com", "API.anthropic.com:443", "api.anthropic.com.:443",
		"api.anthropic.com.example.com:443", "127.0.0.1:443", "[::1]:443", "localhost:22", "xapi.anthropic.com:443",
	}
	for _, host := range refused {
		if got := connect(t, s, "CONNECT "+host+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); !strings.HasPrefix(got, "403") {
			t.Errorf("CONNECT %s: %s; want 403", host, got)
		}
	}
	for _, target := range []string{"http://example.com/", "http://api.anthropic.com/api/hello", "http://127.0.0.1:1/counters"} {
		if got := connect(t, s, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(got, "403") {
			t.Errorf("GET %s: %s; want 403", target, got)
		}
	}
	if got := connect(t, s, "GET /counters HTTP/1.1\r\nHost: rebound.example.com\r\n\r\n"); !strings.HasPrefix(got, "403") {
		t.Errorf("admin under a foreign name: %s; want 403", got)
	}
	if n := s.Counters(); n.RefusedConnects != len(refused)+4 || n.Connects != 0 {
		t.Errorf("counters: %+v", n)
	}
}

func TestTunnelServesItsOwnHostOnly(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	req, err := http.NewRequest("GET", "https://claude.ai/api/hello", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "api.anthropic.com"
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another host's request in a tunnel: %s", resp.Status)
	}
}

func TestProxyFaults(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	c := client(t, s)
	for _, f := range []simulator.Fault{
		{Kind: simulator.FaultDrop}, {Kind: simulator.FaultStatus, Status: 502}, {Kind: simulator.FaultBadGateway},
	} {
		f.Endpoint, f.Times = simulator.EndpointConnect, 1
		s.Inject(f)
		if resp, err := c.Head("https://api.anthropic.com/api/hello"); err == nil {
			resp.Body.Close()
			t.Errorf("%s: the proxy connected", f.Kind)
		}
	}
	resp, err := c.Head("https://api.anthropic.com/api/hello")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestCAIsPrivateAndGoesWithTheSimulator(t *testing.T) {
	s, err := simulator.Start(simulator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.CAFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("CA file: %v %v", info, err)
	}
	env := strings.Join(s.Environ(), "\n")
	for _, want := range []string{"HTTPS_PROXY=" + s.ProxyURL(), "https_proxy=" + s.ProxyURL(), "NODE_EXTRA_CA_CERTS=" + s.CAFile(), "SSL_CERT_FILE=" + s.CAFile()} {
		if !strings.Contains(env, want) {
			t.Errorf("Environ lacks %s", want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.CAFile()); !os.IsNotExist(err) {
		t.Errorf("CA file after Close: %v", err)
	}
}

func TestStartSaysThatTheAddressIsTaken(t *testing.T) {
	s, _ := start(t, simulator.Config{})
	if _, err := simulator.Start(simulator.Config{Listen: strings.TrimPrefix(s.ProxyURL(), "http://")}); err == nil {
		t.Error("two simulators on one address")
	}
}

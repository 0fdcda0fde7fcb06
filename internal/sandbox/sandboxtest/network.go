package sandboxtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// port is where the suite's socket is inside.
const port = 4017

type netQuestion struct {
	TCP, UDP, Unix []string // addresses that must not answer
	Port           int      // that must
}

// netAnswer is by attempt: "answered", or the error.
type netAnswer map[string]string

// testNetwork tries every way out that does not need a privilege, with peers on
// the host that would answer.
func testNetwork(t *testing.T, d sandbox.Driver) {
	host := newHostPeers(t)
	p := newPlace(t)
	spec := p.spec(t, insideProbe, probeArg, "net")
	spec.Sockets = []sandbox.Socket{{Host: host.socket, Port: port}}
	got := ask[netAnswer](t, d, spec, netQuestion{
		TCP: append(host.tcp, "1.1.1.1:443", "[2606:4700:4700::1111]:443", "169.254.169.254:80", "172.17.0.1:80", "10.0.0.1:80", "16843009:443"),
		UDP: append(host.udp, "8.8.8.8:53", "[2001:4860:4860::8888]:53"), Unix: host.unix, Port: port,
	})
	for attempt, said := range got {
		switch {
		case attempt == "the socket":
			if said != "answered" {
				t.Errorf("the socket that was given does not answer: %s", said)
			}
		case said == "answered":
			t.Errorf("%s answered", attempt)
		case strings.Contains(attempt, "1.1.1.1") || strings.Contains(attempt, "2606"):
			// An engine may leave out IPv6 altogether; then there is no address to go from.
			if !strings.Contains(said, "unreachable") && !strings.Contains(said, "cannot assign requested address") {
				t.Errorf("%s: %s; want it unreachable at once", attempt, said)
			}
		}
	}
	if n := len(host.tcp) + len(host.udp) + len(host.unix); n < 5 || len(got) < n+15 {
		t.Errorf("only %d attempts, %d of them at the host: %v", len(got), n, got)
	}
}

// hostPeers are servers on the host that answer everybody.
type hostPeers struct {
	tcp, udp, unix []string
	socket         string // to be given to the sandbox
}

func newHostPeers(t *testing.T) *hostPeers {
	t.Helper()
	h := &hostPeers{}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		ip := a.(*net.IPNet).IP
		if ip.IsLinkLocalUnicast() {
			continue
		}
		if l, err := net.Listen("tcp", net.JoinHostPort(ip.String(), "0")); err == nil {
			h.tcp = append(h.tcp, l.Addr().String())
			greet(t, l)
		}
		if c, err := net.ListenPacket("udp", net.JoinHostPort(ip.String(), "0")); err == nil {
			h.udp = append(h.udp, c.LocalAddr().String())
			t.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 100)
				for {
					n, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					c.WriteTo(buf[:n], from)
				}
			}()
		}
	}
	dir := t.TempDir()
	h.unix = []string{"@claude-hub-test-" + fmt.Sprint(os.Getpid()), filepath.Join(dir, "other.sock")}
	h.socket = filepath.Join(dir, "given.sock")
	for _, path := range append(h.unix, h.socket) {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		greet(t, l)
	}
	return h
}

// greet says hello to every connection.
func greet(t *testing.T, l net.Listener) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello\n")
			c.Close()
		}
	}()
}

// probeNet makes the attempts, all at once.
func probeNet(q netQuestion) netAnswer {
	attempts := map[string]func() error{
		"the socket": func() error { return hear("tcp", fmt.Sprintf("127.0.0.1:%d", q.Port)) },
		"the same port over IPv6": func() error {
			return hear("tcp", fmt.Sprintf("[::1]:%d", q.Port))
		},
		"getaddrinfo": func() error {
			return found((&net.Resolver{}).LookupHost(context.Background(), "example.com"))
		},
		"getaddrinfo of a name of the host": func() error {
			return found((&net.Resolver{}).LookupHost(context.Background(), "metadata.google.internal"))
		},
		"TXT": func() error {
			return found((&net.Resolver{PreferGo: true}).LookupTXT(context.Background(), "example.com"))
		},
		"DNS over HTTPS": func() error {
			client := http.Client{Timeout: 3 * time.Second}
			_, err := client.Get("https://1.1.1.1/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB")
			return err
		},
		"metadata service": func() error {
			client := http.Client{Timeout: 3 * time.Second}
			_, err := client.Get("http://169.254.169.254/latest/meta-data/")
			return err
		},
		"multicast": func() error { return echo("udp", "224.0.0.251:5353") },
		"broadcast": func() error { return echo("udp", "255.255.255.255:67") },
		"ping":      func() error { return pinged() },
	}
	for _, server := range []string{"8.8.8.8:53", "127.0.0.1:53", "127.0.0.53:53", "[2001:4860:4860::8888]:53"} {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, server)
		}}
		attempts["DNS at "+server] = func() error { return found(r.LookupHost(context.Background(), "example.com")) }
	}
	for _, a := range q.TCP {
		attempts["tcp "+a] = func() error { return hear("tcp", a) }
	}
	for _, a := range q.UDP {
		attempts["udp "+a] = func() error { return echo("udp", a) }
	}
	for _, a := range q.Unix {
		attempts["unix "+a] = func() error { return hear("unix", a) }
	}
	answer := netAnswer{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for name, try := range attempts {
		all.Go(func() {
			said := "answered"
			if err := try(); err != nil {
				said = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			answer[name] = said
		})
	}
	all.Wait()
	return answer
}

// hear connects and waits for a greeting.
func hear(network, address string) error {
	c, err := net.DialTimeout(network, address, 3*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = bufio.NewReader(c).ReadString('\n')
	return err
}

// echo sends a packet and waits for it to come back.
func echo(network, address string) error {
	c, err := net.DialTimeout(network, address, 3*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 100))
	return err
}

func found(names []string, err error) error {
	if err == nil && len(names) == 0 {
		return fmt.Errorf("no answer")
	}
	return err
}

// testSocket checks that the loopback port carries what a gateway needs: a
// request with a body of any size, an answer that comes after the request's end
// (half-closed), streams, and many connections.
func testSocket(t *testing.T, d sandbox.Driver) {
	p := newPlace(t)
	path := filepath.Join(t.TempDir(), "gateway.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // counts until the end, then answers
				defer c.Close()
				n, _ := io.Copy(io.Discard, c)
				fmt.Fprintf(c, "%d\n", n)
			}()
		}
	}()
	spec := p.spec(t, "perl", "-MIO::Socket::INET", "-e", `
		$SIG{ALRM} = sub { die "no answer\n" }; alarm 50;
		my @all;
		for my $i (1..20) {
			my $s = IO::Socket::INET->new("127.0.0.1:`+fmt.Sprint(port)+`") or die "connecting: $!";
			print $s "x" x (100000 * $i); $s->flush; push @all, $s;
		}
		for my $s (@all) { $s->shutdown(1); print scalar <$s>; }`)
	spec.Sockets = []sandbox.Socket{{Host: path, Port: port}}
	r := run(t, d, spec)
	var want strings.Builder
	for i := range 20 {
		fmt.Fprintf(&want, "%d\n", 100000*(i+1))
	}
	if r.Exit != (sandbox.Exit{}) || r.out != want.String() {
		t.Errorf("ended with %+v, output %q, error %q", r.Exit, r.out, r.err)
	}
}

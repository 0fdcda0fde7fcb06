package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// target is something to send requests to.
type target struct {
	name    string
	addr    string // host:port
	token   string // what the client sends
	missing bool   // not installed
	cmd     *exec.Cmd
	restart func(context.Context) error // starts it anew, on the same address
}

// parts is everything that takes part.
type parts struct {
	dir      string
	upstream *target
	targets  []*target // direct first, then the gateway
}

// placeholder is what clients of the other proxies send; they replace it.
const (
	placeholder = "sk-ant-oat01-fake-placeholder"
	benchToken  = "sk-ant-oat01-fake-bench-access"
)

func startAll(ctx context.Context) (*parts, error) {
	dir, err := os.MkdirTemp("", "gatewaybench")
	if err != nil {
		return nil, err
	}
	s := &parts{dir: dir}
	if err := s.startAll(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *parts) startAll(ctx context.Context) error {
	s.upstream = &target{name: "upstream"}
	if err := s.self(s.upstream, "upstream"); err != nil {
		return err
	}
	s.targets = append(s.targets, &target{name: "direct", addr: s.upstream.addr, token: benchToken})
	for _, t := range []struct {
		name  string
		start func(context.Context, *target) error
	}{
		{"gateway", func(_ context.Context, t *target) error { return s.self(t, "gateway") }},
		{"nginx", s.nginx},
		{"caddy", s.caddy},
		{"stock", func(_ context.Context, t *target) error { return s.self(t, "stock") }},
	} {
		target := &target{name: t.name, token: placeholder}
		target.restart = func(ctx context.Context) error {
			target.stop()
			return t.start(ctx, target)
		}
		s.targets = append(s.targets, target)
		if err := t.start(ctx, target); err != nil {
			return fmt.Errorf("starting %s: %w", t.name, err)
		}
	}
	return nil
}

func (s *parts) stop() {
	for _, t := range append(s.targets, s.upstream) {
		t.stop()
	}
	os.RemoveAll(s.dir)
}

func (t *target) stop() {
	if t == nil || t.cmd == nil {
		return
	}
	t.cmd.Process.Signal(syscall.SIGTERM)
	gone := time.AfterFunc(3*time.Second, func() { t.cmd.Process.Kill() })
	t.cmd.Wait() // its status says nothing of interest
	gone.Stop()
	t.cmd = nil
}

// present are the targets that are installed.
func (s *parts) present() []*target {
	var out []*target
	for _, t := range s.targets {
		if !t.missing {
			out = append(out, t)
		}
	}
	return out
}

// ready is what a child says once it listens.
type ready struct{ Addr, Token string }

// self starts this program as a child that is one of the parts.
func (s *parts) self(t *target, part string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	t.cmd = exec.Command(exe, "child", part)
	t.cmd.Env = []string{"HOME=" + s.dir}
	if s.upstream.addr != "" {
		t.cmd.Env = append(t.cmd.Env, "UPSTREAM="+s.upstream.addr)
	}
	t.cmd.Stderr = os.Stderr
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // also if we are killed
	if err := t.cmd.Start(); err != nil {
		t.cmd = nil
		return err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the child %s said nothing: %w", part, err)
	}
	var r ready
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	t.addr = r.Addr
	if r.Token != "" {
		t.token = r.Token
	}
	return nil
}

func (s *parts) nginx(ctx context.Context, t *target) error {
	conf := `daemon off; worker_processes auto; pid PREFIX/pid; error_log PREFIX/error.log crit;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path PREFIX/b; proxy_temp_path PREFIX/p;
  fastcgi_temp_path PREFIX/f; uwsgi_temp_path PREFIX/u; scgi_temp_path PREFIX/s;
  upstream up { server UPSTREAM; keepalive 256; }
  server {
    listen ADDR backlog=4096; client_max_body_size 32m; client_body_buffer_size 256k; keepalive_requests 1000000;
    location / {
      proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host UPSTREAM;
      proxy_set_header Authorization "Bearer TOKEN"; proxy_buffering off; proxy_read_timeout 600s;
    }
  }
}
`
	return s.installed(ctx, t, "nginx", "conf", conf, func(path string) []string {
		return []string{"-p", filepath.Dir(path), "-e", filepath.Join(filepath.Dir(path), "error.log"), "-c", path}
	})
}

func (s *parts) caddy(ctx context.Context, t *target) error {
	conf := `{
	admin off
	auto_https off
	log {
		output discard
	}
}
http://ADDR {
	reverse_proxy UPSTREAM {
		header_up Authorization "Bearer TOKEN"
		flush_interval -1
		transport http {
			keepalive_idle_conns_per_host 256
			compression off
		}
	}
}
`
	return s.installed(ctx, t, "caddy", "Caddyfile", conf, func(path string) []string {
		return []string{"run", "--config", path, "--adapter", "caddyfile"}
	})
}

// installed starts a program of the system, if it is there, and waits for it.
func (s *parts) installed(ctx context.Context, t *target, name, file, conf string, args func(string) []string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.missing = true
			return nil
		}
	}
	if t.addr == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		t.addr = l.Addr().String()
		l.Close()
	}
	dir := filepath.Join(s.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(s.dir, 0o755); err != nil { // nginx's workers are another user
		return err
	}
	conf = strings.NewReplacer("PREFIX", dir, "UPSTREAM", s.upstream.addr, "ADDR", t.addr, "TOKEN", benchToken).Replace(conf)
	confPath := filepath.Join(dir, file)
	if err := os.WriteFile(confPath, []byte(conf), 0o644); err != nil {
		return err
	}
	t.cmd = exec.Command(path, args(confPath)...)
	t.cmd.Dir = dir
	t.cmd.Env = []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // also if we are killed
	if err := t.cmd.Start(); err != nil {
		t.cmd = nil
		return err
	}
	return waitFor(ctx, t.addr)
}

func waitFor(ctx context.Context, addr string) error {
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("nobody listens on " + addr)
}

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// client is a connection that writes prepared requests: as little as possible
// beside what is measured.
type client struct {
	c  net.Conn
	br *bufio.Reader
}

func dial(t *target) (*client, error) {
	c, err := net.Dial("tcp", t.addr)
	if err != nil {
		return nil, err
	}
	return &client{c, bufio.NewReaderSize(c, 4<<10)}, nil
}

func (c *client) close() {
	if c != nil {
		c.c.Close()
	}
}

// prepare writes a request of about size bytes of body that asks for that answer.
func prepare(t *target, size int, bench string) []byte {
	body := `{"model":"claude-sonnet-4-5","max_tokens":1024,"stream":true,"messages":[{"role":"user","content":[{"type":"text","text":"`
	line := `func main() {\n\tfmt.Println(\"hello\")\n}\n and some prose between, as there is in a prompt. `
	if n := size - len(body) - 5; n > 0 {
		body += strings.Repeat(line, n/len(line)+1)
	}
	body += `"}]}]}`
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST /v1/messages?beta=true HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
		"Anthropic-Version: 2023-06-01\r\nAnthropic-Beta: oauth-2025-04-20,claude-code-20250219\r\nUser-Agent: claude-cli/2.1.330 (external, sdk-cli)\r\nX-App: cli\r\n"+
		"X-Bench: %s\r\nContent-Length: %d\r\n\r\n%s", t.addr, t.token, bench, len(body), body)
	return b.Bytes()
}

// open sends a request and returns its answer, whose body must be read.
func (c *client) open(request []byte) (*http.Response, error) {
	if _, err := c.c.Write(request); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(c.br, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		return nil, fmt.Errorf("answer %d %s", res.StatusCode, b)
	}
	return res, nil
}

func (c *client) do(request []byte) (time.Duration, error) {
	start := time.Now()
	res, err := c.open(request)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return time.Since(start), err
}

// whole reads a stream to its end and reports whether it has one.
func (c *client) whole(request []byte) error {
	res, err := c.open(request)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(res.Body)
	if err == nil && !bytes.HasSuffix(b, []byte(lastEvents)) {
		err = errors.New("the stream has no end")
	}
	return err
}

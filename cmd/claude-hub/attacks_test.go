package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/simulator"
)

// The secret part of a token begins after what all tokens begin with; that many
// characters of it count as a find.
const (
	tokenStart = len("sk-ant-oat01-fake-")
	fragment   = 12
)

// canaryForms returns every form in which a token is looked for.
func canaryForms(token string) map[string][]byte {
	token = token[tokenStart:]
	f := map[string][]byte{}
	for i := 0; i+fragment <= len(token); i++ {
		f[fmt.Sprintf("plain from %d", i)] = []byte(token[i : i+fragment])
	}
	for offset := range 3 {
		// The first and last characters depend on what is around the token.
		text := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", offset) + token))
		f[fmt.Sprintf("base64 at %d", offset)] = []byte(text[4 : len(text)-4])
	}
	f["hex"] = []byte(hex.EncodeToString([]byte(token)))
	f["HEX"] = bytes.ToUpper(f["hex"])
	f["reversed"] = []byte(token)
	slices.Reverse(f["reversed"])
	f["url"] = []byte(url.QueryEscape(token))
	var every strings.Builder
	for _, b := range []byte(token) {
		fmt.Fprintf(&every, "%%%02X", b)
	}
	f["url, every byte"] = []byte(every.String())
	return f
}

// [!] canary PATH... demands that a token that the platform has ever made is (not)
// in one of these files, in the files below them, or in their names.
func cmdCanary(ts *testscript.TestScript, neg bool, args []string) {
	forms := map[string][]byte{}
	tokens := platformOf(ts).Minted()
	for i, token := range tokens {
		for name, form := range canaryForms(token) {
			forms[fmt.Sprintf("token %d, %s", i, name)] = form
		}
	}
	if len(tokens) == 0 || len(args) == 0 {
		ts.Fatalf("usage: [!] canary PATH..., after a sign-in")
	}
	var hits []string
	for _, arg := range args {
		ts.Check(filepath.WalkDir(ts.MkAbs(arg), func(path string, entry fs.DirEntry, err error) error {
			data := []byte(path)
			if err == nil && entry.Type().IsRegular() {
				var content []byte
				content, err = os.ReadFile(path)
				data = append(data, content...)
			}
			for name, form := range forms {
				if bytes.Contains(data, form) {
					hits = append(hits, path+": "+name)
				}
			}
			return err
		}))
	}
	switch {
	case neg && len(hits) > 0:
		ts.Fatalf("a token got out: %d times, as in %s", len(hits), hits[0])
	case !neg && len(hits) == 0:
		ts.Fatalf("no token is there")
	}
}

// planted gives the owner, outside of the hub, logins that a job could look for:
// in the home and in the environment.
func cmdPlanted(ts *testscript.TestScript, _ bool, _ []string) {
	login := platformOf(ts).SignIn(simulator.SignIn{})
	dir := filepath.Join(ts.Getenv("HOME"), ".claude")
	ts.Check(errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, agent.CredentialFile), login.Credentials, 0o600)))
	for _, name := range []string{"ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "MY_TOKEN"} {
		ts.Setenv(name, login.AccessToken)
	}
	ts.Setenv("CLAUDE_CODE_OAUTH_REFRESH_TOKEN", login.RefreshToken)
}

// listening sets EVIL to the URL of a host that counts who comes, and then, as
// "! listening", demands that nobody has.
func cmdListening(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		if n := ts.Value("visitors").(*atomic.Int64).Load(); n > 0 {
			ts.Fatalf("%d connections went to the evil host", n)
		}
		return
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	visitors := ts.Value("visitors").(*atomic.Int64)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			visitors.Add(1)
			io.WriteString(conn, "HTTP/1.1 500 Evil\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			conn.Close()
		}
	}()
	ts.Setenv("EVIL", "http://"+l.Addr().String())
}

// replaced FILE puts the values of $NAMES into the file.
func cmdReplaced(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), func(name string) string { return ts.Getenv(strings.Trim(name, "{}")) })
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	pageLink   = regexp.MustCompile(`http://[0-9a-z.:]+/operator/\S+`)
	signInLink = regexp.MustCompile(`id="open" href="([^"]+)"`)
	signInID   = regexp.MustCompile(`name="id" value="([^"]+)"`)
)

// visitor is an owner whose browser runs no scripts.
type visitor struct {
	ts   *testscript.TestScript
	http *http.Client
	at   *url.URL
}

// visit opens an operator's link and presses its button. The page that it leads to
// is where the visitor is then.
func visit(ts *testscript.TestScript, link string) *visitor {
	jar, err := cookiejar.New(nil)
	ts.Check(err)
	v := &visitor{ts: ts, http: &http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{}}}
	ts.Defer(v.http.CloseIdleConnections)
	resp, err := v.http.PostForm(link, nil)
	ts.Check(err)
	resp.Body.Close()
	if v.at = resp.Request.URL; resp.StatusCode != http.StatusOK || strings.Contains(v.at.Path, "operator") {
		ts.Fatalf("the operator's link is answered with %s at %s", resp.Status, v.at)
	}
	return v
}

// press sends a form of the page.
func (v *visitor) press(what string, form url.Values) {
	resp, err := v.http.PostForm(v.at.String()+"/"+what, form)
	v.ts.Check(err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		v.ts.Fatalf("pressing %s: %s", what, resp.Status)
	}
}

// find loads the page again until it has what is looked for.
func (v *visitor) find(pattern *regexp.Regexp) string {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		resp, err := v.http.Get(v.at.String())
		v.ts.Check(err)
		page, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		v.ts.Check(err)
		if m := pattern.FindSubmatch(page); m != nil {
			return html.UnescapeString(string(m[1]))
		}
	}
	v.ts.Fatalf("the page never had %s", pattern)
	return ""
}

// signIn goes from the link to the code.
func (v *visitor) signIn() {
	code, err := platformOf(v.ts).Approve(context.Background(), v.find(signInLink))
	v.ts.Check(err)
	v.press("code", url.Values{"id": {v.find(signInID)}, "code": {code}})
}

// websignin HOW CODE ARG... runs `claude-hub login --web ARG...` with the owner at a
// browser without scripts, who signs in, cancels on the page, interrupts the
// command, stops the daemon, or never comes. It demands the exit code.
func cmdWebSignIn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: websignin HOW CODE ARG...")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "claude-hub", append([]string{"login", "--web"}, args[2:]...)...)
	cmd.Env = environOf(ts)
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	var stdout, said bytes.Buffer
	cmd.Stdout = &stdout
	ts.Check(cmd.Start())
	lines := bufio.NewScanner(io.TeeReader(stderr, &said))
	for lines.Scan() {
		link := pageLink.FindString(lines.Text())
		waiting := strings.Contains(lines.Text(), "waiting for the code")
		switch {
		case args[0] == "approves" && link != "":
			visit(ts, link).signIn()
		case args[0] == "cancels" && link != "":
			v := visit(ts, link)
			v.press("cancel", url.Values{"id": {v.find(signInID)}})
		case args[0] == "stops-the-daemon" && waiting:
			var pid int
			if _, err := fmt.Sscanf(ts.ReadFile("hub/serve.lock"), "pid %d,", &pid); err != nil || pid < 2 {
				ts.Fatalf("the daemon's lock does not name it: %v", err)
			}
			ts.Check(syscall.Kill(pid, syscall.SIGINT))
		case args[0] == "interrupts" && waiting:
			ts.Check(cmd.Process.Signal(syscall.SIGINT))
		}
	}
	got := 0
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	fmt.Fprint(ts.Stdout(), stdout.String())
	fmt.Fprint(ts.Stderr(), said.String())
	if want, err := strconv.Atoi(args[1]); err != nil || got != want {
		ts.Fatalf("exit code %d, want %s\n%s", got, args[1], said.String())
	}
}

// taken ADDRESS has somebody else listen there, if nobody does yet.
func cmdTaken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: taken ADDRESS")
	}
	l, err := net.Listen("tcp", args[0])
	if errors.Is(err, syscall.EADDRINUSE) {
		return
	}
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/claude-hub/claude-hub/internal/api"
)

// chromium is Debian's. See `make setup`.
const chromium = "/usr/bin/chromium"

// browserPatience bounds what a browser does in a test, a quarter of it what is
// waited for at once.
const browserPatience = 6 * time.Minute

// screenshots is a directory for pictures of every step; "" takes none.
var screenshots = os.Getenv("CLAUDE_HUB_TEST_SCREENSHOTS")

// tab is a page in a real browser, and the script that it's for.
type tab struct {
	ctx     context.Context
	ts      *testscript.TestScript
	console func() []string // what the browser has complained about
}

// publicName is the hub's where it has a public_url.
const publicName = "hub.example.com"

// openBrowser starts a browser that reaches the script's platform as the CLI does,
// and the hub's public name at the given address.
func openBrowser(ts *testscript.TestScript, public string) tab {
	ctx, cancel := context.WithTimeout(context.Background(), browserPatience)
	ts.Defer(cancel)
	dir, err := os.MkdirTemp("", "claude-hub-browser-")
	ts.Check(err)
	ctx, cancel = chromedp.NewExecAllocator(ctx,
		chromedp.ExecPath(chromium), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.IgnoreCertErrors,
		chromedp.UserDataDir(dir), chromedp.Env("HOME="+dir), chromedp.ProxyServer(ts.Getenv("HTTPS_PROXY")),
		chromedp.Flag("host-resolver-rules", "MAP "+publicName+" "+public), chromedp.Flag("proxy-bypass-list", publicName),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
	)
	ts.Defer(func() { os.RemoveAll(dir) })
	ts.Defer(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	ts.Defer(cancel)
	t := tab{ctx: ctx, ts: ts}
	t.do(chromedp.EmulateViewport(1280, 900))
	complaints := make(chan string, 1000)
	go func() {
		for m, err := range chromedp.Console(ctx) {
			if err != nil {
				return
			}
			complaints <- fmt.Sprint(m)
		}
	}()
	t.console = func() (all []string) {
		for {
			select {
			case m := <-complaints:
				all = append(all, m)
			default:
				return all
			}
		}
	}
	return t
}

func (t tab) do(steps ...chromedp.Action[chromedp.Void]) {
	if err := chromedp.Do(t.ctx, steps...); err != nil {
		t.shoot("failure")
		t.ts.Fatalf("the browser: %v", err)
	}
}

// see waits until an element is there to be seen that holds the text, and returns
// all of its text. The page replaces its parts and itself: what chromedp has found
// may be gone when it looks again.
func (t tab) see(css, text string) string {
	look := fmt.Sprintf(`(() => { const e = document.querySelector(%q); return e && e.checkVisibility() ? "seen" + (e.innerText ?? "") : "" })()`, css)
	got := ""
	for deadline := time.Now().Add(browserPatience / 4); time.Now().Before(deadline) && t.ctx.Err() == nil; {
		if got, _ = chromedp.Run(t.ctx, chromedp.Evaluate[string](look)); got != "" && strings.Contains(got, text) {
			return strings.TrimPrefix(got, "seen")
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.shoot("failure")
	page, _ := chromedp.Run(t.ctx, chromedp.Evaluate[string]("document.body.innerText"))
	t.ts.Fatalf("%s says %q, want %q in it; the page: %q; the console: %q", css, got, text, page, t.console())
	return ""
}

// click waits for an element and clicks on it, once.
func (t tab) click(css string) {
	var err error
	for t.ctx.Err() == nil {
		t.see(css, "")
		if err = chromedp.Do(t.ctx, chromedp.Click(chromedp.CSS(css))); err == nil {
			return
		}
		if !strings.Contains(err.Error(), "find node") { // it was replaced
			break
		}
	}
	t.ts.Fatalf("clicking on %s: %v", css, err)
}

// shoot keeps pictures of the page, if they are wanted: light and dark, wide and
// narrow.
func (t tab) shoot(name string) {
	if screenshots == "" {
		return
	}
	for _, width := range []int64{1280, 375} {
		for _, scheme := range []string{"light", "dark"} {
			if err := chromedp.Do(t.ctx, chromedp.EmulateViewport(width, 900), colorScheme(scheme)); err != nil {
				return
			}
			picture, err := chromedp.Run(t.ctx, chromedp.FullScreenshot(100))
			if err != nil {
				return
			}
			os.WriteFile(filepath.Join(screenshots, fmt.Sprintf("%s-%d-%s.png", name, width, scheme)), picture, 0o600)
		}
	}
	chromedp.Do(t.ctx, chromedp.EmulateViewport(1280, 900), colorScheme("light"))
}

// colorScheme has the page think that its reader likes it light or dark.
func colorScheme(scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	})
}

// fits demands that nothing sticks out to the right, on a desktop and on a phone.
func (t tab) fits() {
	for _, width := range []int64{1280, 375, 320} {
		t.do(chromedp.EmulateViewport(width, 800))
		over, err := chromedp.Run(t.ctx, chromedp.Evaluate[int]("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
		t.ts.Check(err)
		if over > 0 {
			t.ts.Fatalf("at %d the page is %d too wide", width, over)
		}
	}
	unnamed, err := chromedp.Run(t.ctx, chromedp.Evaluate[int](`[...document.querySelectorAll("input:not([type=hidden]), textarea")].filter(e => !e.labels.length).length`))
	t.ts.Check(err)
	if unnamed > 0 {
		t.ts.Fatalf("%d fields have no label", unnamed)
	}
	t.do(chromedp.EmulateViewport(1280, 900))
}

// approve opens the link of the page with a click, which makes a new tab, approves
// there, and returns the code that it shows.
func (t tab) approve() string {
	opened := chromedp.WaitNewTarget(t.ctx, func(i *target.Info) bool { return i.URL != "" })
	t.click("#open")
	id, ok := <-opened
	if !ok {
		t.ts.Fatalf("the link opened no tab")
	}
	ctx, cancel := chromedp.NewContext(t.ctx, chromedp.WithTargetID(id))
	defer cancel()
	other := tab{ctx: ctx, ts: t.ts, console: t.console}
	other.click(`button[value="approve"]`)
	return strings.TrimSpace(other.see("#code", "#"))
}

func (t tab) paste(code string) {
	t.see("#code", "")
	t.do(chromedp.SendKeys(chromedp.CSS("#code"), code))
	t.click("#coded button")
}

// enter opens an operator's link, and looks before it presses the button.
func (t tab) enter(link string) {
	t.do(chromedp.Navigate(link))
	t.see("h1", "Make this browser")
	t.shoot("invitation")
	t.click("form button")
	t.see("#profiles", "")
}

var servedAt = regexp.MustCompile(`listen=(\S+)`)

// browser SCENE LINK [LOG] plays an owner at a real browser. LINK is a file with the
// answer of `claude-hub operator --json`. If its address is a public one, it is
// that of the daemon that writes LOG; for https, with a proxy in between.
func cmdBrowser(ts *testscript.TestScript, neg bool, args []string) {
	scenes := map[string]func(tab){"signs-in": (tab).signsIn, "cancels": (tab).cancels}
	if neg || len(args) < 2 || scenes[args[0]] == nil {
		ts.Fatalf("usage: browser SCENE LINK [LOG]")
	}
	var link api.OperatorLink
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &link))
	public := ""
	if len(args) > 2 {
		public = servedAt.FindStringSubmatch(ts.ReadFile(args[2]))[1]
	}
	if strings.HasPrefix(link.URL, "https:") {
		public = proxyWithTLS(ts, public)
	}
	t := openBrowser(ts, public)
	t.enter(link.URL)
	scenes[args[0]](t)
	t.do(chromedp.Navigate(link.URL)) // a second time
	t.see("h1", "no longer good")
	t.shoot("used")
	for _, complaint := range t.console() {
		if !strings.Contains(complaint, "403") { // that of the used link
			ts.Fatalf("the browser complains: %s", complaint)
		}
	}
}

// proxyWithTLS passes everything on to the address, and returns its own.
func proxyWithTLS(ts *testscript.TestScript, address string) string {
	target := &url.URL{Scheme: "http", Host: address}
	s := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
	}})
	ts.Defer(s.Close)
	return s.Listener.Addr().String()
}

// signsIn pastes nonsense, then a code that the platform refuses, then a good one.
func (t tab) signsIn() {
	t.see("#headline", "Ready to sign in")
	t.fits()
	t.shoot("ready")
	t.click("#panel button")
	t.see("#open", "")
	t.see("#left", " left")
	t.fits()
	t.shoot("link")
	t.click("summary")
	t.see("svg.qr", "")
	t.fits()
	t.shoot("qr")

	t.paste("nonsense")
	t.see(".trouble[role=alert]", "not the whole code")
	first := t.approve()
	t.paste("fake" + first)
	t.see("[data-state=link] .trouble", "")
	t.see(".trouble[role=alert]", "Here is a new link")
	t.fits()
	t.shoot("refused")
	t.paste(t.approve())
	t.see("[data-state=done]", "")
	t.see("#headline", "Signed in")
	t.see("#panel", "max")
	t.see("#panel", "(in 29 days)")
	t.see("#profiles", "owner@example.com")
	t.fits()
	t.shoot("done")

	t.do(chromedp.Navigate(t.site() + "/"))
	t.see("#profiles", "max, in order")
	t.shoot("list")
	t.click(".top button")
	t.see("h1", "You are out")
}

// cancels starts, cancels in another tab, and sees it in the first.
func (t tab) cancels() {
	t.click("#panel button")
	t.see("#open", "")
	ctx, cancel := chromedp.NewContext(t.ctx)
	defer cancel()
	other := tab{ctx: ctx, ts: t.ts, console: t.console}
	other.do(chromedp.Navigate(t.site() + "/signin/default"))
	other.click(".foot button")
	other.see("[data-state=cancelled]", "")
	t.see("[data-state=cancelled]", "")
	t.see("#panel", "The sign-in was cancelled, and nothing was captured.")
	t.shoot("cancelled")
}

func (t tab) site() string {
	origin, err := chromedp.Run(t.ctx, chromedp.Evaluate[string]("location.origin"))
	t.ts.Check(err)
	return origin
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/run"
)

// progress shows a run's events as they come: for people on standard output, or
// as they are with --json.
type progress struct {
	a   *app
	out io.Writer
}

func newProgress(a *app) *progress { return &progress{a: a, out: a.stdout} }

// untilUnread returns a context that ends when nobody reads the output any more,
// as with `| head`. The kernel's way, to kill this process, would leave the run
// without its verdict and its private home on the disk until the next command.
func (p *progress) untilUnread(ctx context.Context) (context.Context, func()) {
	if isTerminal(p.out) {
		return ctx, func() {}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGPIPE) // not ignored: that would pass on to programs that are started
	ctx, cancel := context.WithCancel(ctx)
	p.out = &readOutput{p.out, cancel}
	return ctx, func() {
		signal.Stop(signals)
		cancel()
	}
}

// readOutput calls unread when it cannot be written to.
type readOutput struct {
	io.Writer
	unread func()
}

func (w *readOutput) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err != nil {
		w.unread()
	}
	return n, err
}

// event shows one line of the CLI's stream.
func (p *progress) event(line []byte) {
	if p.a.json {
		fmt.Fprintf(p.out, "%s\n", line)
		return
	}
	e, err := agent.ParseEvent(line)
	if err != nil {
		return // garbage is in the log, for those who look for it
	}
	switch e.Type {
	case agent.EventAssistant:
		for _, b := range e.Blocks {
			p.block(b, e.Parent != "")
		}
	case agent.EventUser:
		for _, b := range e.Blocks {
			if b.Kind == agent.BlockToolResult && b.Error {
				p.line(red, "✗", printable(b.Text, 160))
			}
		}
	case agent.EventSystem:
		if e.Retry != nil {
			p.line(yellow, "…", fmt.Sprintf("the platform said %d; try %d of %d in %s", e.Retry.Status, e.Retry.Attempt, e.Retry.Max, span(e.Retry.Delay)))
		}
	case run.NoteType:
		p.note(line)
	}
}

func (p *progress) block(b agent.Block, nested bool) {
	indent := ""
	if nested {
		indent = "  "
	}
	switch b.Kind {
	case agent.BlockText:
		for line := range strings.Lines(b.Text) {
			fmt.Fprintf(p.out, "  %s%s\n", indent, printable(strings.TrimRight(line, "\n"), 2000))
		}
	case agent.BlockToolUse:
		p.line(green, indent+"●", fmt.Sprintf("%-8s %s", printable(b.Tool, 30), toolSubject(b.Input)))
	}
}

// note shows a word of the run's own in its log; the verdict has its place at
// the end.
func (p *progress) note(line []byte) {
	var n run.Note
	if json.Unmarshal(line, &n) != nil || n.Subtype == run.NoteVerdict || n.Text == "" {
		return
	}
	if n.Subtype == run.NoteParked {
		n.Text = "parked: " + n.Text
	}
	p.line(yellow, "…", printable(n.Text, 200))
}

func (p *progress) line(sgr, mark, text string) {
	fmt.Fprintf(p.out, "  %s %s\n", p.a.style(p.out, sgr, mark), text)
}

// toolSubject is what a tool is used on: the first of the arguments that say it.
func toolSubject(input json.RawMessage) string {
	var args map[string]any
	if json.Unmarshal(input, &args) != nil {
		return ""
	}
	for _, name := range []string{"command", "file_path", "path", "pattern", "url", "query", "description"} {
		if s, ok := args[name].(string); ok && s != "" {
			return printable(s, 100)
		}
	}
	return ""
}

// end shows how the run ended.
func (p *progress) end(r hub.Run) error {
	if p.a.json {
		return json.NewEncoder(p.out).Encode(map[string]hub.Run{"run": r})
	}
	if r.Parked != nil {
		p.parked(r)
		return nil
	}
	if r.Verdict == "" {
		_, err := fmt.Fprintf(p.out, "\n%s goes on without you.\n", r.ID)
		return err
	}
	sgr := red
	if r.Verdict == hub.VerdictDone {
		sgr = green
	}
	_, err := fmt.Fprintf(p.out, "\n%s in %s · %s · %s\n", p.a.style(p.out, sgr, string(r.Verdict)), span(ended(r).Sub(r.Started)), usageText(r.Usage), r.ID)
	if r.Reason != "" {
		fmt.Fprintf(p.a.stderr, "%s %s\n", p.a.style(p.a.stderr, red, "claude-hub:"), printable(r.Reason, 500))
	}
	p.a.printHint(p.a.forProfile(verdictHints[r.Verdict], string(r.Profile)))
	return err
}

// parked shows what a run waits for that is put aside.
func (p *progress) parked(r hub.Run) {
	a := p.a
	fmt.Fprintf(p.out, "\n%s · %s · %s\n", a.style(p.out, yellow, parkedText(r)), usageText(r.Usage), r.ID)
	a.printHint(a.parkedHint(r))
	a.printHint(fmt.Sprintf("follow it with `claude-hub logs -f %s`, end it with `claude-hub cancel %s`", r.ID, r.ID))
}

var verdictHints = map[hub.Verdict]string{
	hub.VerdictLoginRequired: "sign in again with `claude-hub login`, and run it again; where `claude-hub serve` runs, a run waits for that and goes on by itself",
	hub.VerdictParked:        "run it again then: the login is fine; where `claude-hub serve` runs, a run goes on by itself",
	hub.VerdictTimedOut:      "give it longer with --timeout",
}

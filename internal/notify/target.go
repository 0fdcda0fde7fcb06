package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// Target is one service with its address and its key. It prints neither. It is
// safe for concurrent use, and sends one message at a time.
type Target struct {
	name    string
	service string
	url     secret.Text
	busy    *atomic.Bool
}

// maxURL bounds a service's URL, in bytes.
const maxURL = 16 << 10

// ParseTargets returns the services that the settings name: each value is a URL of
// package shoutrrr, or file:PATH or env:NAME that holds one. An error names the
// value by its position, counted from 1, and never has any of its text; the
// targets that are good are returned beside it.
func ParseTargets(values []secret.Text, getenv func(string) string) ([]Target, error) {
	var targets []Target
	var errs []error
	for i, v := range values {
		t, err := parseTarget(v, getenv)
		if err != nil {
			errs = append(errs, fmt.Errorf("notify, entry %d: %w", i+1, err))
			continue
		}
		t.name = fmt.Sprintf("%d-%s", i+1, t.service)
		targets = append(targets, t)
	}
	return targets, errors.Join(errs...)
}

func parseTarget(v secret.Text, getenv func(string) string) (Target, error) {
	text := strings.TrimSpace(v.Reveal())
	if path, ok := strings.CutPrefix(text, "file:"); ok {
		data, err := readSecret(path)
		if err != nil {
			return Target{}, err
		}
		text = data
	} else if name, ok := strings.CutPrefix(text, "env:"); ok {
		if text = strings.TrimSpace(getenv(name)); text == "" {
			return Target{}, hub.Hint(fmt.Errorf("%w: the variable that it names is not set", hub.ErrNotFound), "set it where claude-hub is started")
		}
	}
	if len(text) > maxURL || strings.ContainsAny(text, "\n\r\x00") {
		return Target{}, fmt.Errorf("%w: it is not one URL on one line", hub.ErrInvalid)
	}
	t := Target{service: kind(text), url: secret.New(text), busy: new(atomic.Bool)}
	if t.service == "" {
		return Target{}, hub.Hint(fmt.Errorf("%w: it begins with the name of no service", hub.ErrInvalid), urlHint)
	}
	if err := t.check(); err != nil {
		return Target{}, hub.Hint(fmt.Errorf("%w: it is not understood as a URL of the service %q", hub.ErrInvalid, t.service), urlHint)
	}
	return t, nil
}

const urlHint = "how the URL of each service is written: https://shoutrrr.nickfedor.com"

// readSecret returns the one line of a file.
func readSecret(path string) (string, error) {
	f, err := os.OpenFile(strings.TrimPrefix(path, "//"), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("opening the file of the URL: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxURL+1))
	if err != nil {
		return "", fmt.Errorf("reading the file of the URL: %w", err)
	}
	if text := strings.TrimSpace(string(data)); text != "" {
		return text, nil
	}
	return "", fmt.Errorf("%w: the file of the URL is empty", hub.ErrInvalid)
}

// kind returns the name of the service that a URL is for, which is a word of the
// library's and so no secret; "" if it is none.
func kind(text string) string {
	scheme, _, _ := strings.Cut(text, ":")
	scheme, _, _ = strings.Cut(strings.ToLower(scheme), "+")
	// What goes to the library's log goes nowhere.
	if scheme == "logger" || !slices.Contains((&router.ServiceRouter{}).ListServices(), scheme) {
		return ""
	}
	return scheme
}

// check reports whether the URL is understood, without asking anybody: Matrix is
// signed in to as soon as its service is made, which has to wait for a message.
func (t Target) check() error {
	if _, err := url.Parse(t.url.Reveal()); err != nil || t.service == "matrix" {
		return err
	}
	_, err := t.locate()
	return err
}

// locate makes the library's service. It keeps what it is told with each message,
// so that each gets one of its own.
func (t Target) locate() (types.Service, error) {
	raw := t.url.Reveal()
	r, err := router.New(nil)
	if err != nil {
		return nil, err
	}
	return r.Locate(raw)
}

// Name tells the target apart from the others: its position and its service.
func (t Target) Name() string { return t.name }

// Service is the kind of the service, such as "ntfy".
func (t Target) Service() string { return t.service }

// sendPatience bounds one try; the library bounds most of its own, at 10 s.
// stopPatience is for one that is on its way when everything ends.
const (
	sendPatience = 30 * time.Second
	stopPatience = 3 * time.Second
)

// Send delivers a message. Its error is one of a few causes, in our words.
//
// BUG(notify): the library's sending can't be cancelled. One that hangs for ever
// goes on in the background, and until it ends the target takes no other message.
func (t Target) Send(ctx context.Context, m Message) error {
	if !t.busy.CompareAndSwap(false, true) {
		return fmt.Errorf("%s: the message before is still on its way", t.service)
	}
	text, params := m.Text, types.Params{}
	if t.titled() {
		params.SetTitle(m.Title)
	} else {
		text = m.Title + "\n" + text
	}
	result := make(chan error, 1)
	go func() {
		defer t.busy.Store(false)
		defer func() {
			if recover() != nil { // of foreign code, on foreign answers
				result <- errors.New("panic")
			}
		}()
		service, err := t.locate()
		if err == nil {
			err = service.Send(text, &params)
		}
		result <- err
	}()
	timer := time.NewTimer(sendPatience)
	defer timer.Stop()
	var err error
	select {
	case err = <-result:
	case <-timer.C:
		err = os.ErrDeadlineExceeded
	case <-ctx.Done(): // what is nearly there shall not be sent a second time
		timer.Reset(stopPatience)
		select {
		case err = <-result:
		case <-timer.C:
			return fmt.Errorf("%s: %w", t.service, ctx.Err())
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %s", t.service, cause(err))
	}
	return nil
}

// titled reports whether the message has a place for a title.
func (t Target) titled() bool {
	if t.service == "generic" { // without a template it sends the text alone
		u, err := url.Parse(t.url.Reveal())
		return err == nil && u.Query().Get("template") != ""
	}
	return slices.Contains(titled, t.service)
}

// titled are the services that have a place for a title.
var titled = []string{
	"bark", "discord", "gotify", "ifttt", "join", "lark", "matrix", "mattermost", "ntfy", "opsgenie",
	"pushbullet", "pushover", "slack", "smtp", "teams", "telegram", "zulip",
}

// status matches what an HTTP service answered, with the words that belong to the
// number: a number alone could be a part of the URL.
var status = regexp.MustCompile(`\b([45][0-9][0-9]) (Bad Request|Unauthorized|Payment Required|Forbidden|Not Found|Method Not Allowed|Gone|Request Entity Too Large|Unprocessable Entity|Too Many Requests|Internal Server Error|Bad Gateway|Service Unavailable|Gateway Timeout)\b`)

// cause says why the library could not deliver, in our words alone: its own may
// hold the URL, and so may what a service answers. Some of its services flatten
// errors to text, so that text is what is looked at.
func cause(err error) string {
	text := strings.ToLower(err.Error())
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(text, p) })
	}
	if m := status.FindStringSubmatch(err.Error()); m != nil {
		return "the service answered " + m[1] + " " + m[2]
	}
	switch {
	case has("connection refused"):
		return "the service's host refuses the connection"
	case has("no such host", "server misbehaving"):
		return "the service's host is not found"
	case errors.Is(err, os.ErrDeadlineExceeded), has("timeout", "timed out", "deadline exceeded"):
		return "no answer in time"
	case has("x509", "certificate"):
		return "the certificate of the service's host is not trusted"
	case has("network is unreachable", "no route to host"):
		return "the service's host cannot be reached"
	case has("connection reset", "broken pipe", "eof"):
		return "the connection broke"
	case has("starttls"):
		return "the mail server does not encrypt"
	case has("authenticat", "unencrypted connection"):
		return "the mail server refuses the user, the password or the way of signing in"
	case has("recipient"):
		return "the mail server refuses a recipient or the sender"
	}
	return "the service does not take the message"
}

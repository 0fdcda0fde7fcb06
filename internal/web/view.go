package web

import (
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"rsc.io/qr"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
)

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"qr": qrSVG, "day": day, "clock": clock, "stamp": stamp, "sentence": sentence, "quality": quality,
}).ParseFS(assets, "assets/*.html"))

// view is what the page of a sign-in, or of the list, is drawn from.
type view struct {
	Now      time.Time
	Name     hub.ProfileName // empty: the list alone
	SignIn   api.SignIn
	Profile  *Profile // nil: there is none of that name yet
	Profiles []Profile
	Late     bool // what was pressed came too late
	Trouble  string
}

func (p *Page) view(r *http.Request, name hub.ProfileName, state api.SignIn) view {
	v := view{Now: p.cfg.Now(), Name: name, SignIn: state}
	var err error
	if v.Profiles, err = p.cfg.Hub.Profiles(r.Context()); err != nil {
		p.cfg.Log.Warn("the list of profiles", "err", err)
		v.Trouble = "The list of profiles can't be read at the moment; the log says why."
	}
	if i := slices.IndexFunc(v.Profiles, func(p Profile) bool { return p.Name == name }); i >= 0 {
		v.Profile = &v.Profiles[i]
	}
	return v
}

func (p *Page) show(w http.ResponseWriter, r *http.Request, name hub.ProfileName, late string) {
	state, _ := p.desk.state(name)
	v := p.view(r, name, state)
	v.Late = late != ""
	p.render(w, http.StatusOK, "page", v)
	p.desk.shown(state)
}

// Headline is the state in a few words, which a screen reader reads out.
func (v view) Headline() string {
	switch v.SignIn.State {
	case api.SignInStarting:
		if v.SignIn.Trouble != "" {
			return "The code was not taken. Getting a new link …"
		}
		return "Starting the claude CLI …"
	case api.SignInLink:
		if v.SignIn.Trouble != "" {
			return "The code was not taken. Open the link again"
		}
		return "Open the link, approve, and paste the code"
	case api.SignInChecking:
		return "Checking the code …"
	case api.SignInCapturing:
		return "Signed in. Taking the login into the vault …"
	case api.SignInStopping:
		return "Cancelling …"
	case api.SignInDone:
		return "Signed in"
	case api.SignInCancelled:
		return "Cancelled"
	case api.SignInExpired:
		return "Time is up"
	case api.SignInFailed:
		return "The sign-in failed"
	}
	return "Ready to sign in"
}

// Busy reports whether there is nothing to do but to wait.
func (v view) Busy() bool {
	switch v.SignIn.State {
	case api.SignInStarting, api.SignInChecking, api.SignInCapturing, api.SignInStopping:
		return true
	}
	return false
}

// Refresh is after how many seconds a browser without scripts asks again. While a
// code is awaited, that would wipe out what was typed, and it waits for the end.
func (v view) Refresh() int {
	switch {
	case v.Busy():
		return 2
	case v.SignIn.State == api.SignInLink:
		return int(v.SignIn.Expires.Sub(v.Now)/time.Second) + 2
	}
	return 0
}

// Mark tells one state of one sign-in from all others.
func (v view) Mark() string { return fmt.Sprintf("%s-%d", v.SignIn.ID, v.SignIn.Step) }

// fragments are the parts of the page that change with the state.
func (v view) fragments() (panel, profiles string, err error) {
	var a, b strings.Builder
	if err := templates.ExecuteTemplate(&a, "panel", v); err != nil {
		return "", "", err
	}
	err = templates.ExecuteTemplate(&b, "profiles", v)
	return a.String(), b.String(), err
}

// quality is the class of a health's mark.
func quality(p Profile) string {
	switch {
	case !p.SignedIn && !p.SpareInUse, p.Health == hub.HealthLoginRequired:
		return "bad"
	case p.Health == hub.HealthOK && !p.SpareInUse:
		return "good"
	}
	return "fair"
}

// day says when something ends, and how far that is.
func day(now, at time.Time) string {
	switch left := at.Sub(now); {
	case left < 0:
		return at.Format("2 January 2006") + ", which is past"
	case left < 48*time.Hour:
		return fmt.Sprintf("%s (in %d hours)", at.Format("2 January 2006"), left/time.Hour)
	default:
		return fmt.Sprintf("%s (in %d days)", at.Format("2 January 2006"), left/(24*time.Hour))
	}
}

func clock(t time.Time) string { return t.UTC().Format("15:04") + " UTC" }
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// sentence makes an error's words ones for a page: without the kind that they
// begin with, with a capital and a full stop.
func sentence(s string) string {
	for _, kind := range []error{hub.ErrCancelled, hub.ErrInvalid, hub.ErrRefused, hub.ErrNotFound, hub.ErrConflict, hub.ErrLocked} {
		s = strings.TrimPrefix(s, kind.Error()+": ")
	}
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	first, size := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(first)) + s[size:]
	if !strings.ContainsRune(".!?", rune(s[len(s)-1])) {
		s += "."
	}
	return s
}

// quietZone is the light border that scanners want around a code, in modules.
const quietZone = 4

// qrSVG draws text as a QR code, or nothing if it does not fit one. Nothing of the
// text itself gets into the markup.
func qrSVG(text string) template.HTML {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return ""
	}
	size := code.Size + 2*quietZone
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="qr" viewBox="0 0 %d %d" role="img" aria-label="QR code of the link" shape-rendering="crispEdges"><path class="paper" d="M0 0h%dv%dH0z"/><path class="ink" d="`, size, size, size, size)
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			run := 0
			for x+run < code.Size && code.Black(x+run, y) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", x+quietZone, y+quietZone, run, run)
				x += run
			}
		}
	}
	b.WriteString(`"/></svg>`)
	return template.HTML(b.String())
}

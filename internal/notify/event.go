package notify

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Event is what a message is about.
type Event string

// The events.
const (
	EventExpires      Event = "login-expires"   // in 7, 3, 1 days
	EventRequired     Event = "login-required"  // nothing serves the runs
	EventSpare        Event = "spare-in-use"    // the setup token does
	EventSuspect      Event = "refresh-suspect" // refreshes have failed for a while
	EventSecondWriter Event = "second-writer"
	EventSignedIn     Event = "signed-in" // after an alarm
	EventTest         Event = "test"
)

// expiryDays are how many days before a login's end a person is told.
var expiryDays = []int{1, 3, 7}

// suspectAfter keeps a blip from being an alarm.
const suspectAfter = 10 * time.Minute

// sameSignIn is how far the ends of one login may lie apart: the platform says
// how long it lasts, and each refresh notes when that is.
const sameSignIn = 12 * time.Hour

// Message is what a person is told. It holds no secret.
type Message struct {
	Event   Event           `json:"event"`
	Profile hub.ProfileName `json:"profile,omitempty"`
	Title   string          `json:"title"` // ASCII, one line: some services put it into a header
	Text    string          `json:"text"`
}

// told is what a person has been told of one profile.
type told struct {
	// Marks has the login (and for the spare: the setup token) of which an event was
	// told last.
	Marks map[Event]string `json:"marks,omitempty"`
	// ExpiryDays is the last of expiryDays that was told of the login that ends at
	// Expires; 0 is none.
	ExpiryDays int       `json:"expiry_days,omitempty"`
	Expires    time.Time `json:"expires,omitzero"`
	// Suspect is since when the login of SuspectMark has been that.
	Suspect     time.Time `json:"suspect,omitzero"`
	SuspectMark string    `json:"suspect_mark,omitempty"`
}

// news returns what is to be told of the profile now, and takes it for told.
func (t *told) news(c Condition, link string, now time.Time) []Message {
	var all []Message
	add := func(m Message, ok bool) {
		if ok {
			m.Profile = c.Name
			all = append(all, m)
		}
	}
	add(t.signedIn(c))
	add(t.required(c, link))
	add(t.spare(c, link))
	add(t.suspect(c, link, now))
	add(t.secondWriter(c, link))
	add(t.expires(c, link, now))
	return all
}

// first reports whether the event has not been told of this occurrence yet, and
// takes it for told.
func (t *told) first(e Event, mark string) bool {
	if t.Marks[e] == mark {
		return false
	}
	if t.Marks == nil {
		t.Marks = map[Event]string{}
	}
	t.Marks[e] = mark
	return true
}

func (c Condition) mark() string { return fmt.Sprintf("login %d", c.Login) }

// signedIn tells the end of an alarm: a login that is newer than the one that the
// alarm was about.
func (t *told) signedIn(c Condition) (Message, bool) {
	alarm := cmp.Or(t.Marks[EventRequired], t.Marks[EventSpare])
	if alarm == "" || c.Health != hub.HealthOK || c.SpareInUse || c.Login == 0 || strings.HasPrefix(alarm, c.mark()+" ") || alarm == c.mark() {
		return Message{}, false
	}
	delete(t.Marks, EventRequired)
	delete(t.Marks, EventSpare)
	text := fmt.Sprintf("The profile %s is signed in again.", c.Name)
	switch {
	case c.Parked == 1:
		text += " 1 parked run goes on."
	case c.Parked > 1:
		text += fmt.Sprintf(" %d parked runs go on.", c.Parked)
	}
	if !c.LoginExpires.IsZero() {
		text += " The login lasts until " + day(c.LoginExpires) + "."
	}
	return Message{Event: EventSignedIn, Title: title(c, "signed in again"), Text: text}, true
}

func (t *told) required(c Condition, link string) (Message, bool) {
	never := c.Login == 0 && c.Spare == 0 // nobody has relied on it yet
	if c.Health != hub.HealthLoginRequired || c.SpareInUse || never || !t.first(EventRequired, c.mark()) {
		return Message{}, false
	}
	text := fmt.Sprintf("The profile %s needs a sign-in%s. Runs wait until then", c.Name, because(c.Reason))
	if c.Parked > 0 {
		text += fmt.Sprintf("; %d do now", c.Parked)
	}
	return Message{Event: EventRequired, Title: title(c, "login required"), Text: text + ".\n" + signIn(link)}, true
}

func (t *told) spare(c Condition, link string) (Message, bool) {
	if !c.SpareInUse || c.Login == 0 { // without a login, the token is no spare
		return Message{}, false
	}
	if !t.first(EventSpare, fmt.Sprintf("%s spare %d", c.mark(), c.Spare)) {
		return Message{}, false
	}
	text := fmt.Sprintf("The login of the profile %s does not serve any more%s. Runs go on with its setup token", c.Name, because(c.Reason))
	if !c.SpareExpires.IsZero() {
		text += ", until " + day(c.SpareExpires)
	}
	return Message{Event: EventSpare, Title: title(c, "the setup token is in use"), Text: text + ".\n" + signIn(link)}, true
}

func (t *told) suspect(c Condition, link string, now time.Time) (Message, bool) {
	if c.Health != hub.HealthSuspect {
		t.Suspect, t.SuspectMark = time.Time{}, ""
		return Message{}, false
	}
	if t.SuspectMark != c.mark() {
		t.Suspect, t.SuspectMark = now, c.mark()
	}
	if now.Sub(t.Suspect) < suspectAfter || !t.first(EventSuspect, c.mark()) {
		return Message{}, false
	}
	text := fmt.Sprintf("The login of the profile %s could not be refreshed for %d minutes%s. It is tried again by itself; `claude-hub status` shows when.\nIf that does not help: %s",
		c.Name, int(now.Sub(t.Suspect).Minutes()), because(c.Reason), signIn(link))
	return Message{Event: EventSuspect, Title: title(c, "refreshes fail"), Text: text}, true
}

func (t *told) secondWriter(c Condition, link string) (Message, bool) {
	if !c.SecondWriter || !t.first(EventSecondWriter, c.mark()) {
		return Message{}, false
	}
	text := fmt.Sprintf("Somebody else has refreshed the login of the profile %s: a copy of it is in use elsewhere, and one of the two ends the other. Stop the other one, and then: %s", c.Name, signIn(link))
	return Message{Event: EventSecondWriter, Title: title(c, "a second writer"), Text: text}, true
}

func (t *told) expires(c Condition, link string, now time.Time) (Message, bool) {
	left := c.LoginExpires.Sub(now)
	if c.LoginExpires.IsZero() || left <= 0 || c.Health == hub.HealthLoginRequired {
		return Message{}, false
	}
	if c.LoginExpires.Sub(t.Expires).Abs() > sameSignIn {
		t.Expires, t.ExpiryDays = c.LoginExpires, 0
	}
	for _, days := range expiryDays {
		if left > time.Duration(days)*24*time.Hour {
			continue
		}
		if t.ExpiryDays != 0 && t.ExpiryDays <= days {
			return Message{}, false
		}
		t.ExpiryDays = days
		in := "in 1 day"
		if whole := int((left + 24*time.Hour - 1) / (24 * time.Hour)); whole > 1 {
			in = fmt.Sprintf("in %d days", whole)
		}
		text := fmt.Sprintf("The login of the profile %s ends %s, on %s. The provider ends every login 30 days after its sign-in.\n%s", c.Name, in, day(c.LoginExpires), signIn(link))
		return Message{Event: EventExpires, Title: title(c, "the login ends "+in), Text: text}, true
	}
	return Message{}, false
}

func title(c Condition, what string) string { return fmt.Sprintf("claude-hub %s: %s", c.Name, what) }

func signIn(link string) string { return "Sign in: " + link }

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + oneLine(reason) + ")"
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

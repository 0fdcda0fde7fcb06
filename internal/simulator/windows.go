package simulator

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Window is one of the plan's windows.
type Window struct {
	Utilization float64   `json:"utilization"` // used share; 1 and more is used up
	Reset       time.Time `json:"reset"`       // when it starts anew; zero means one length from now
}

// Windows is how much of the plan is used. It holds for every account.
type Windows struct {
	FiveHour   Window  `json:"five_hour"`
	SevenDay   Window  `json:"seven_day"`
	PerMessage float64 `json:"per_message"` // added to FiveHour by each answered message, and a tenth of it to SevenDay
	// Overage lets messages through when a window is used up, at extra cost to the
	// owner. Without it they are answered 429.
	Overage bool `json:"overage"`
}

const (
	fiveHours = 5 * time.Hour
	sevenDays = 7 * 24 * time.Hour
	// warnAt is from where on the status is allowed_warning.
	warnAt = 0.8
)

type windowsBox struct {
	mu sync.Mutex // guards w
	w  Windows
}

func (b *windowsBox) init() {
	b.w = Windows{FiveHour: Window{Utilization: 0.1}, SevenDay: Window{Utilization: 0.2}}
}

// SetWindows sets how much of the plan is used.
func (s *Simulator) SetWindows(w Windows) {
	s.windows.mu.Lock()
	defer s.windows.mu.Unlock()
	s.windows.w = w
}

// Windows returns how much of the plan is used.
func (s *Simulator) Windows() Windows { return s.windows.at(s.now()) }

// at returns the windows as they stand at now; one that is over starts anew.
func (b *windowsBox) at(now time.Time) Windows {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.w.FiveHour.roll(now, fiveHours)
	b.w.SevenDay.roll(now, sevenDays)
	return b.w
}

func (b *windowsBox) use() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.w.FiveHour.Utilization += b.w.PerMessage
	b.w.SevenDay.Utilization += b.w.PerMessage / 10
}

func (w *Window) roll(now time.Time, length time.Duration) {
	if w.Reset.IsZero() {
		w.Reset = now.Add(length).Truncate(time.Second)
	}
	if !now.Before(w.Reset) {
		w.Utilization, w.Reset = 0, now.Add(length).Truncate(time.Second)
	}
}

func (w Window) status() string {
	switch {
	case w.Utilization >= 1:
		return "rejected"
	case w.Utilization >= warnAt:
		return "allowed_warning"
	}
	return "allowed"
}

// usedUp returns the reset of the window that keeps messages out, if one does.
func (w Windows) usedUp() (time.Time, bool) {
	if w.Overage {
		return time.Time{}, false
	}
	if w.SevenDay.Utilization >= 1 {
		return w.SevenDay.Reset, true
	}
	return w.FiveHour.Reset, w.FiveHour.Utilization >= 1
}

// header sets the window headers that every inference response carries. Resets
// are Unix seconds.
func (w Windows) header(h http.Header) {
	const p = "Anthropic-Ratelimit-Unified-"
	set := func(name, value string) { h[p+name] = []string{value} } // canonical already: this is a hot path
	one := func(name string, w Window) {
		set(name+"-Status", w.status())
		set(name+"-Utilization", strconv.FormatFloat(w.Utilization, 'f', -1, 64))
		set(name+"-Reset", strconv.FormatInt(w.Reset.Unix(), 10))
	}
	one("5h", w.FiveHour)
	one("7d", w.SevenDay)
	claim, lead := "five_hour", w.FiveHour
	if w.SevenDay.Utilization > w.FiveHour.Utilization {
		claim, lead = "seven_day", w.SevenDay
	}
	set("Status", lead.status())
	set("Reset", strconv.FormatInt(lead.Reset.Unix(), 10))
	set("Representative-Claim", claim)
	switch {
	case !w.Overage:
		set("Overage-Status", "rejected")
		set("Overage-Disabled-Reason", "org_level_disabled")
	case lead.Utilization >= 1:
		set("Status", "allowed")
		set("Overage-Status", "allowed")
		set("Overage-In-Use", "true")
	default:
		set("Overage-Status", "allowed")
	}
}

// planLimit is the answer when the plan is used up until reset.
func (s *Simulator) planLimit(reset time.Time) *reply {
	now := s.now()
	w := s.windows.at(now)
	if _, used := w.usedUp(); !used { // an injected limit
		w.FiveHour, w.Overage = Window{Utilization: 1, Reset: reset}, false
	}
	rep := apiError(http.StatusTooManyRequests, "rate_limit_error",
		"This request would exceed your account's rate limit. Please try again later.")
	w.header(rep.header)
	rep.retryAfter(reset.Sub(now))
	return rep
}

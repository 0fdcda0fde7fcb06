package usage

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// Window is the use of one of the plan's windows.
type Window struct {
	Status      string    // "allowed", "allowed_warning", "rejected"; empty if not told
	Utilization float64   // 0 is unused, 1 is used up; more is overage
	Reset       time.Time // when the window starts anew; zero if not told
}

// Windows is what the headers of one answer say about the plan. The zero value
// means that they said nothing.
type Windows struct {
	Status   string // of the plan as a whole
	Claim    string // the window that decides: "five_hour", "seven_day", …
	FiveHour Window
	SevenDay Window
	Reset    time.Time // of the window that decides

	OverageStatus         string // whether paid overage would be allowed
	OverageInUse          bool   // whether this request was paid overage
	OverageDisabledReason string

	RetryAfter time.Duration
}

const prefix = "anthropic-ratelimit-unified-"

// Told reports whether the headers said anything about the plan.
func (w Windows) Told() bool {
	return w.Status != "" || w.FiveHour.Status != "" || w.SevenDay.Status != ""
}

// ParseHeader is ParseWindows for net/http's headers.
func ParseHeader(h http.Header) Windows { return ParseWindows(h.Get) }

// ParseWindows reads the plan's windows from the headers of an answer; get
// returns the value of one, named in lower case, or "". A value that is not of
// the expected form counts as absent.
func ParseWindows(get func(name string) string) Windows {
	w := Windows{RetryAfter: seconds(get("retry-after"))}
	if w.Status = word(get(prefix + "status")); w.Status == "" && get(prefix+"5h-status") == "" && get(prefix+"7d-status") == "" {
		return w
	}
	w.Claim = word(get(prefix + "representative-claim"))
	w.Reset = unix(get(prefix + "reset"))
	w.FiveHour = Window{word(get(prefix + "5h-status")), ratio(get(prefix + "5h-utilization")), unix(get(prefix + "5h-reset"))}
	w.SevenDay = Window{word(get(prefix + "7d-status")), ratio(get(prefix + "7d-utilization")), unix(get(prefix + "7d-reset"))}
	w.OverageStatus = word(get(prefix + "overage-status"))
	w.OverageInUse = get(prefix+"overage-in-use") == "true"
	w.OverageDisabledReason = word(get(prefix + "overage-disabled-reason"))
	return w
}

// unknownReset is how long a rejected plan is left alone if no header says.
const unknownReset = 5 * time.Minute

// ParkedUntil returns when to try again if the plan rejected the request, and
// the zero time if it did not.
func (w Windows) ParkedUntil(now time.Time) time.Time {
	if w.Status != "rejected" {
		return time.Time{}
	}
	for _, t := range []time.Time{w.Reset, w.decisive().Reset, now.Add(w.RetryAfter)} {
		if t.After(now) {
			return t
		}
	}
	return now.Add(unknownReset)
}

// decisive is the window that the claim names, or the one that is rejected.
func (w Windows) decisive() Window {
	switch {
	case w.Claim == "five_hour":
		return w.FiveHour
	case w.Claim != "":
		return w.SevenDay // seven_day and its per-model kin
	case w.SevenDay.Status == "rejected":
		return w.SevenDay
	}
	return w.FiveHour
}

// word accepts a short identifier.
func word(s string) string {
	if len(s) > 64 {
		return ""
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return ""
		}
	}
	return s
}

func ratio(s string) float64 {
	if len(s) > 32 {
		return 0
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > 1000 {
		return 0
	}
	return f
}

// unix accepts seconds since 1970 in this century.
func unix(s string) time.Time {
	if len(s) > 12 {
		return time.Time{}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 946_684_800 || n > 4_102_444_800 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

// seconds accepts up to 31 days.
func seconds(s string) time.Duration {
	if len(s) > 8 {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 31*24*3600 {
		return 0
	}
	return time.Duration(n) * time.Second
}

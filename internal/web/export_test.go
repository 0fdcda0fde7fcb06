package web

import "time"

// NewHasty is New with little time for each request.
func NewHasty(cfg Config, timeout time.Duration) (*Page, error) { return open(cfg, timeout) }

// Operators gives tests a clock of their own.
type Operators struct{ o *operators }

// NewOperators returns operators on a clock.
func NewOperators(now func() time.Time) Operators { return Operators{newOperators(now)} }

func (o Operators) Issue(next string) (string, time.Time)      { return o.o.issue(next) }
func (o Operators) Admits(token string) bool                   { return o.o.admits(token) }
func (o Operators) Redeem(token string) (string, string, bool) { return o.o.redeem(token) }
func (o Operators) Session(cookie string) bool                 { return o.o.session(cookie) != nil }

const (
	MaxLinks    = maxLinks
	MaxSessions = maxSessions
	MaxStreams  = maxStreams
	MaxBody     = maxBody
)

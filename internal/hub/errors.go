package hub

import "errors"

// The kinds of errors on which callers branch, with errors.Is. Everything else
// is opaque.
var (
	ErrInvalid       = errors.New("invalid input")
	ErrNotFound      = errors.New("not found")
	ErrExists        = errors.New("exists already")
	ErrConflict      = errors.New("changed by somebody else meanwhile")
	ErrLoginRequired = errors.New("login required")
	ErrParked        = errors.New("parked")
	ErrRefused       = errors.New("refused")
	ErrCancelled     = errors.New("cancelled")
	ErrTooLarge      = errors.New("too large")
	ErrLocked        = errors.New("locked by another process")
	ErrFormat        = errors.New("unreadable format") // damaged, or written by a newer version
)

// Hint returns err with one line that tells a person what to do next. It is nil
// if err is. Is and As see through it, and Error does not contain the hint.
func Hint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, hint: hint}
}

// HintOf returns the outermost hint in err's chain, or "".
func HintOf(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

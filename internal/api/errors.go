package api

import (
	"errors"
	"net/http"

	"github.com/claude-hub/claude-hub/internal/hub"
)

var kinds = map[string]error{
	"invalid":        hub.ErrInvalid,
	"not_found":      hub.ErrNotFound,
	"exists":         hub.ErrExists,
	"conflict":       hub.ErrConflict,
	"login_required": hub.ErrLoginRequired,
	"parked":         hub.ErrParked,
	"refused":        hub.ErrRefused,
	"cancelled":      hub.ErrCancelled,
	"too_large":      hub.ErrTooLarge,
	"locked":         hub.ErrLocked,
}

var statuses = map[string]int{
	"invalid":        http.StatusBadRequest,
	"not_found":      http.StatusNotFound,
	"exists":         http.StatusConflict,
	"conflict":       http.StatusConflict,
	"login_required": http.StatusFailedDependency,
	"parked":         http.StatusTooManyRequests,
	"refused":        http.StatusForbidden,
	"too_large":      http.StatusRequestEntityTooLarge,
	"locked":         http.StatusLocked,
}

// ErrorOf returns err as it goes over the wire, and the HTTP status that goes
// with it.
func ErrorOf(err error) (*Error, int) {
	wire := &Error{Kind: "internal", Message: err.Error(), Hint: hub.HintOf(err)}
	for kind, sentinel := range kinds {
		if errors.Is(err, sentinel) {
			wire.Kind = kind
			break
		}
	}
	if status, ok := statuses[wire.Kind]; ok {
		return wire, status
	}
	return wire, http.StatusInternalServerError
}

// asError gives the error that came over the wire the hint it left with.
func (e *Error) asError() error { return hub.Hint(e, e.Hint) }

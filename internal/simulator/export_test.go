package simulator

import (
	"bytes"
	"net/http/httptest"
)

// ParseScript reports how many answers a prompt's script has, or its fault.
func ParseScript(prompt string) (int, error) {
	sc, err := parseScript(prompt)
	return len(sc), err
}

// Understand runs a request's body through all that reads it.
func Understand(body []byte) {
	s := &Simulator{}
	r := httptest.NewRequest("POST", "/v1/messages", bytes.NewReader(body))
	in, refused := s.readMessages(r)
	if refused == nil {
		s.newAnswer(in, in.turn())
	}
}

package usage

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// members picks a few members of a JSON document's top-level object out of the
// bytes as they go by, in any pieces. It follows strings and nesting exactly,
// so that it can't be led to another reading than a real parser's of a valid
// document; it does not check the rest of the grammar. Its memory is bounded by
// the limits of what it picks.
type members struct {
	picks []pick

	state    memberState
	depth    int
	inString bool
	escaped  bool // the byte before, inside a string, was an unescaped backslash
	key      []byte
	keyLong  bool
	current  *pick // whose value is going by
}

// pick is one member to look for.
type pick struct {
	key   string
	max   int    // longest value taken, in bytes
	value []byte // as written
	long  bool   // there was a value, but a longer one
	count int    // how often the key was there
}

type memberState uint8

const (
	beforeObject memberState = iota
	beforeKey
	inKey
	beforeColon
	inValue
	afterObject
	broken
)

// maxKey is longer than any key we look for can be, even with every character
// written as an escape.
const maxKey = 128

// done reports whether one whole object, and nothing else, has gone by.
func (m *members) done() bool { return m.state == afterObject }

// write takes the next piece.
func (m *members) write(p []byte) {
	for i := 0; i < len(p) && m.state != broken; {
		if m.inString {
			i += m.str(p[i:])
			continue
		}
		if m.depth > 1 {
			i += m.nested(p[i:])
			continue
		}
		m.top(p[i])
		i++
	}
}

// str takes bytes of a string up to its end and returns how many.
func (m *members) str(p []byte) int {
	n := 0
	for n < len(p) {
		j := bytes.IndexByte(p[n:], '"')
		if j < 0 {
			m.escaped = oddBackslashes(p[n:], m.escaped)
			n = len(p)
			break
		}
		odd := oddBackslashes(p[n:n+j], m.escaped)
		n += j + 1
		m.escaped = false
		if !odd {
			m.inString = false
			break
		}
	}
	if m.state == inKey {
		m.takeKey(p[:n])
	} else {
		m.take(p[:n])
	}
	return n
}

// oddBackslashes reports whether p, after a byte that may have been an
// unescaped backslash, ends in an unescaped backslash.
func oddBackslashes(p []byte, before bool) bool {
	n := 0
	for n < len(p) && p[len(p)-1-n] == '\\' {
		n++
	}
	if n == len(p) && before {
		n++
	}
	return n%2 == 1
}

// nested takes bytes below the top level, outside of strings, up to the next
// string or the way back up.
func (m *members) nested(p []byte) int {
	n := 0
	for n < len(p) && !m.inString && m.depth > 1 {
		switch p[n] {
		case '"':
			m.inString = true
		case '{', '[':
			m.depth++
		case '}', ']':
			m.depth--
		}
		n++
	}
	m.take(p[:n])
	return n
}

// top takes one byte at the top level, outside of strings.
func (m *members) top(c byte) {
	switch {
	case c == ' ' || c == '\t' || c == '\n' || c == '\r':
		return
	case m.state == beforeObject && c == '{':
		m.depth, m.state = 1, beforeKey
	case m.state == beforeKey && c == '"':
		m.inString, m.state, m.key, m.keyLong = true, inKey, m.key[:0], false
	case m.state == beforeColon && c == ':':
		m.state = inValue
	case (m.state == inValue || m.state == beforeKey) && c == '}':
		m.depth, m.state, m.current = 0, afterObject, nil
	case m.state == inValue && c == ',':
		m.state, m.current = beforeKey, nil
	case m.state == inValue && c != ':' && c != ']':
		m.value(c)
	default:
		m.state = broken
	}
}

// value takes a byte of a value at the top level.
func (m *members) value(c byte) {
	switch c {
	case '"':
		m.inString = true
	case '{', '[':
		m.depth++
	}
	if m.current != nil { // most values are not picked: no slice for them
		m.take([]byte{c})
	}
}

func (m *members) take(p []byte) {
	if m.current == nil || m.current.long {
		return
	}
	if len(m.current.value)+len(p) > m.current.max {
		m.current.value, m.current.long = m.current.value[:0], true
		return
	}
	m.current.value = append(m.current.value, p...)
}

// takeKey takes bytes of a key, with its closing quote at the end.
func (m *members) takeKey(p []byte) {
	if len(m.key)+len(p) > maxKey {
		m.keyLong = true
	} else {
		m.key = append(m.key, p...)
	}
	if m.inString {
		return
	}
	m.state, m.current = beforeColon, nil
	if m.keyLong {
		return
	}
	key := m.key[:len(m.key)-1]
	if bytes.IndexByte(key, '\\') >= 0 {
		var s string
		if json.Unmarshal(append([]byte{'"'}, m.key...), &s) != nil {
			m.state = broken
			return
		}
		key = []byte(s)
	}
	for i := range m.picks {
		if p := &m.picks[i]; string(key) == p.key {
			p.count++
			p.value, p.long = p.value[:0], false
			m.current = p
		}
	}
}

const maxModel = 200

// RequestModel returns the top-level "model" of a request's JSON body. It
// refuses a body that is not one JSON object, that names its model twice (the
// platform might read the other one), or not as a plain string.
func RequestModel(body []byte) (string, error) {
	m := members{picks: []pick{{key: "model", max: maxModel}}}
	m.write(body)
	if !m.done() {
		return "", fmt.Errorf("%w: the request's body is not one JSON object", hub.ErrInvalid)
	}
	switch p := m.picks[0]; {
	case p.count == 0:
		return "", fmt.Errorf("%w: the request names no model", hub.ErrInvalid)
	case p.count > 1:
		return "", fmt.Errorf("%w: the request names its model twice", hub.ErrInvalid)
	default:
		return modelName(p)
	}
}

func modelName(p pick) (string, error) {
	var s string
	if p.long || json.Unmarshal(p.value, &s) != nil || s == "" {
		return "", fmt.Errorf("%w: the request's model is not a short string", hub.ErrInvalid)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return "", fmt.Errorf("%w: the model's name has the byte %#x", hub.ErrInvalid, c)
		}
	}
	return s, nil
}

package usage

import (
	"bytes"
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
	escaped  bool   // the byte before, inside a string, was an unescaped backslash
	key      []byte // with its closing quote
	quoted   []byte // with both
	one      [1]byte
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
	if m.current != nil {
		m.one[0] = c
		m.take(m.one[:])
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
	m.quoted = append(append(m.quoted[:0], '"'), m.key...)
	key, ok := unquote(m.quoted)
	if !ok {
		m.state = broken
		return
	}
	for i := range m.picks {
		if p := &m.picks[i]; string(key) == p.key {
			p.count++
			p.value, p.long = p.value[:0], false
			m.current = p
		}
	}
}

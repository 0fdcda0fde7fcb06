package usage

import (
	"bytes"
	"encoding/json"
)

// object calls each with the members of b, a JSON object, and reports whether b
// is one object and nothing else. Like [members] it follows strings and nesting
// exactly and checks no more of the grammar. The slices are parts of b, unless a
// key had to be decoded.
func object(b []byte, each func(key, value []byte)) bool {
	i := space(b, 0)
	if i == len(b) || b[i] != '{' {
		return false
	}
	i = space(b, i+1)
	for i < len(b) && b[i] == '"' {
		end := stringEnd(b, i)
		if end < 0 {
			return false
		}
		key, ok := unquote(b[i:end])
		if i = space(b, end); !ok || i == len(b) || b[i] != ':' {
			return false
		}
		i = space(b, i+1)
		if end = valueEnd(b, i); end <= i {
			return false
		}
		each(key, b[i:end])
		i = space(b, end)
		if i == len(b) || b[i] != ',' {
			break
		}
		i = space(b, i+1)
	}
	return i < len(b) && b[i] == '}' && space(b, i+1) == len(b)
}

// array calls each with the elements of b, a JSON array, and reports whether b is
// one array and nothing else.
func array(b []byte, each func(element []byte)) bool {
	i := space(b, 0)
	if i == len(b) || b[i] != '[' {
		return false
	}
	i = space(b, i+1)
	for i < len(b) && b[i] != ']' {
		end := valueEnd(b, i)
		if end <= i {
			return false
		}
		each(b[i:end])
		i = space(b, end)
		if i == len(b) || b[i] != ',' {
			break
		}
		i = space(b, i+1)
	}
	return i < len(b) && b[i] == ']' && space(b, i+1) == len(b)
}

// space returns where the white space at i ends.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// stringEnd returns where the string ends that begins at i, or -1.
func stringEnd(b []byte, i int) int {
	for n := i + 1; ; {
		j := bytes.IndexByte(b[n:], '"')
		if j < 0 {
			return -1
		}
		n += j + 1
		if b[n-2] != '\\' || n-2 == i || !oddBackslashes(b[i+1:n-1], false) {
			return n
		}
	}
}

// valueEnd returns where the value ends that begins at i, or -1.
func valueEnd(b []byte, i int) int {
	depth := 0
	for n := i; n < len(b); n++ {
		switch b[n] {
		case '"':
			if n = stringEnd(b, n) - 1; n < 0 {
				return -1
			}
			if depth == 0 {
				return n + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return n // of the object around it
			}
			if depth == 0 {
				return n + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return n
			}
		}
	}
	return -1
}

// unquote returns the text of a JSON string, in place if it can.
func unquote(quoted []byte) ([]byte, bool) {
	if len(quoted) < 2 || quoted[0] != '"' {
		return nil, false
	}
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1], true
	}
	var s string
	if len(quoted) > maxQuoted || json.Unmarshal(quoted, &s) != nil {
		return nil, len(quoted) > maxQuoted // too long to be one that is looked for
	}
	return []byte(s), true
}

// maxQuoted bounds the escaped strings that are decoded. What is looked for is
// shorter, even with every character escaped.
const maxQuoted = 6 * maxModel

// maxModel bounds the name of a model.
const maxModel = 200

// modelName reads a JSON string of visible ASCII.
func modelName(value []byte) (string, bool) {
	name, ok := unquote(value)
	if !ok || len(name) == 0 || len(name) > maxModel {
		return "", false
	}
	for _, c := range name {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return "", false
		}
	}
	return string(name), true
}

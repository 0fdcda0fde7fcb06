package run

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// plain returns one line of valid JSON with everything escaped in it that a
// terminal obeys or takes for the end of a line: JSON lets a string hold it as it
// stands, and logs are read with cat. The line means the same as before.
func plain(line []byte) []byte {
	at := nextUnplain(line)
	if at < 0 {
		return line
	}
	var out []byte
	for ; at >= 0; at = nextUnplain(line) {
		r, size := utf8.DecodeRune(line[at:])
		out = append(out, line[:at]...)
		if r < ' ' { // JSON allows it between values only
			out = append(out, ' ')
		} else {
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		line = line[at+size:]
	}
	return append(out, line...)
}

// nextUnplain returns where the first character is that [plain] replaces, or -1.
func nextUnplain(line []byte) int {
	for i := 0; i < len(line); {
		if c := line[i]; c >= ' ' && c < 0x7f {
			i++
			continue
		}
		r, size := utf8.DecodeRune(line[i:])
		switch {
		case r < 0xa0, r == utf8.RuneError && size == 1, // control characters, and what is no character
			r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069: // ends of lines, and directions
			return i
		}
		i += size
	}
	return -1
}

// claimsNote reports whether an event that is none of ours to package json, which
// takes "TYPE" for "type" and the last of several, is one to a reader that
// doesn't.
func claimsNote(line []byte) bool {
	if !bytes.Contains(line, []byte(`hub"`)) && !bytes.Contains(line, []byte(`\u00`)) {
		return false
	}
	var exact map[string]json.RawMessage // a map's keys are not folded
	var kind string
	return json.Unmarshal(line, &exact) == nil && json.Unmarshal(exact["type"], &kind) == nil && kind == NoteType
}

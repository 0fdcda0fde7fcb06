package vault

import (
	"encoding/json"
	"fmt"
	"maps"
)

// overlay returns the JSON object stored, with what has changed from before to
// after, which are the same record as this program knows it. What stored has
// beyond before is of a newer program, and stays.
func overlay(stored, before, after []byte) ([]byte, error) {
	var had, was, is map[string]json.RawMessage
	for _, o := range []struct {
		text []byte
		into *map[string]json.RawMessage
	}{{stored, &had}, {before, &was}, {after, &is}} {
		if err := json.Unmarshal(o.text, o.into); err != nil {
			return nil, fmt.Errorf("reading a record as an object: %w", err)
		}
	}
	merged := maps.Clone(is)
	for name, value := range had {
		prev, known := was[name]
		now, stays := is[name]
		switch {
		case !known && !stays:
			merged[name] = value
		case isObject(value) && isObjectOrNone(prev) && isObjectOrNone(now):
			inner, err := overlay(value, orEmpty(prev), orEmpty(now))
			if err != nil {
				return nil, err
			}
			if stays || string(inner) != "{}" {
				merged[name] = inner
			}
		}
	}
	return json.Marshal(merged)
}

func isObject(text json.RawMessage) bool       { return len(text) > 0 && text[0] == '{' }
func isObjectOrNone(text json.RawMessage) bool { return len(text) == 0 || text[0] == '{' }

func orEmpty(text json.RawMessage) json.RawMessage {
	if len(text) == 0 {
		return json.RawMessage("{}")
	}
	return text
}

package usage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// Request is what a request for inference asks of the platform.
type Request struct {
	Model string
	// Remote names the first thing in the request that would have the platform
	// reach out to somebody else on the sender's behalf: a tool that it runs
	// itself (web search, code execution), an MCP server, an image or a document
	// by its address. Empty means nothing does.
	Remote string
}

// ParseRequest reads a request's JSON body. It refuses a body that is not one
// JSON object, that names its model twice (the platform might read the other
// one), or not as a plain string. A tool of a kind that is not known to run at
// the client counts as remote.
func ParseRequest(body []byte) (Request, error) {
	var r Request
	var model []byte
	models := 0
	whole := object(body, func(k, v []byte) {
		switch string(k) {
		case "model":
			model = v
			models++
		case "mcp_servers":
			if string(v) != "null" && !emptyArray(v) {
				r.Remote = "MCP servers"
			}
		case "tools":
			if t := remoteTool(v); t != "" {
				r.Remote = t
			}
		}
	})
	switch {
	case !whole:
		return Request{}, fmt.Errorf("%w: the request's body is not one JSON object", hub.ErrInvalid)
	case models == 0:
		return Request{}, fmt.Errorf("%w: the request names no model", hub.ErrInvalid)
	case models > 1:
		return Request{}, fmt.Errorf("%w: the request names its model twice", hub.ErrInvalid)
	}
	var ok bool
	if r.Model, ok = modelName(model); !ok {
		return Request{}, fmt.Errorf("%w: the request's model is no plain name", hub.ErrInvalid)
	}
	if r.Remote == "" && fetches(body) {
		r.Remote = "a source with an address"
	}
	return r, nil
}

func emptyArray(v []byte) bool {
	n := 0
	return array(v, func([]byte) { n++ }) && n == 0
}

// clientTools are the beginnings of the types of tools that the client runs. A
// tool without a type is the client's own, too. Source: the API's documentation
// of tools, as known in 2026.
var clientTools = []string{"custom", "bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_"}

// remoteTool returns the type of the first tool in the list that the platform may
// run itself, or "".
func remoteTool(tools []byte) string {
	if string(tools) == "null" {
		return ""
	}
	remote := ""
	whole := array(tools, func(tool []byte) {
		if !object(tool, func(k, v []byte) {
			if string(k) == "type" && remote == "" && !atClient(v) {
				remote = "the tool " + excerpt(v)
			}
		}) {
			remote = "a tool that is no object"
		}
	})
	if !whole {
		return "a list of tools that is none"
	}
	return remote
}

func atClient(quoted []byte) bool {
	name, ok := unquote(quoted)
	if !ok || len(quoted) == 0 || quoted[0] != '"' {
		return string(quoted) == "null"
	}
	for _, begin := range clientTools {
		if strings.HasPrefix(string(name), begin) {
			return true
		}
	}
	return false
}

func excerpt(v []byte) string {
	if len(v) > 60 {
		v = v[:60]
	}
	return strings.ToValidUTF8(string(v), "")
}

// fetches reports whether a source in the body is an address, {"type":"url"},
// that the platform would fetch.
func fetches(body []byte) bool {
	if !mayFetch(body) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(body))
	var open []nesting
	key := ""
	for {
		t, err := d.Token()
		if err != nil {
			return !errors.Is(err, io.EOF) // what can't be read might fetch
		}
		top := len(open) - 1
		switch {
		case t == json.Delim('{') || t == json.Delim('['):
			open, key = append(open, nesting{object: t == json.Delim('{'), atKey: t == json.Delim('{')}), ""
			continue
		case t == json.Delim('}') || t == json.Delim(']'):
			open = open[:top]
			top--
		case open[top].atKey:
			key, _ = t.(string)
			open[top].atKey = false
			continue
		case key == "type" && t == "url":
			return true
		}
		if top >= 0 { // a value has gone by
			open[top].atKey, key = open[top].object, ""
		}
	}
}

// nesting is an object or an array that has begun.
type nesting struct{ object, atKey bool }

// mayFetch is a quick look: without the text "url" as a member's value, plain or
// with escapes, there is no such source.
func mayFetch(body []byte) bool {
	if bytes.Contains(body, []byte(`u00`)) { // seldom; and backslashes are many, so none is looked for first
		for _, escape := range []string{`\u0075`, `\u0072`, `\u006c`, `\u006C`} {
			if bytes.Contains(body, []byte(escape)) {
				return true
			}
		}
	}
	for rest := body; ; {
		i := bytes.Index(rest, []byte(`url"`)) // to look for a quote first takes three times as long
		if i < 0 {
			return false
		}
		before, ok := bytes.CutSuffix(rest[:i], []byte{'"'})
		if before = bytes.TrimRight(before, " \t\r\n"); ok && bytes.HasSuffix(before, []byte{':'}) {
			return true
		}
		rest = rest[i+len(`url"`):]
	}
}

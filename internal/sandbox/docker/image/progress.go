package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// The bounds on what an engine says during a build.
const (
	maxMessages = 64 << 20 // bytes in all
	maxLine     = 500      // bytes of a line that are shown
	lastLines   = 8        // lines that a failure shows
)

// step is how engines announce one: "Step 3/14 : RUN …", "STEP 3/14: RUN …".
var step = regexp.MustCompile(`^(?:Step|STEP) ([0-9]{1,4})/([0-9]{1,4}) ?: ?(.*)$`)

// escapes are a terminal's orders.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?]*[A-Za-z]|[@-Z\\-_])`)

// message is one value of the engine's stream.
type message struct {
	Stream string `json:"stream"`
	Status string `json:"status"`
	Error  string `json:"error"`
	Detail struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
	Aux struct {
		ID string `json:"ID"` // of the image, once it is complete
	} `json:"aux"`
}

// follow reads the engine's stream to its end, tells each line, and returns the
// failure that it speaks of, explained, with the last lines.
func follow(stream io.Reader, base string, tell func(Progress)) error {
	decoder := json.NewDecoder(io.LimitReader(stream, maxMessages))
	var at Progress
	var said []string
	complete := false
	for {
		var m message
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			if !complete {
				return explain(fmt.Errorf("%w at step %d of %d", errGone, at.Step, at.Of), base, at, said)
			}
			return nil
		}
		if err != nil {
			return explain(fmt.Errorf("reading the engine's answer: %w", err), base, at, said)
		}
		if m.Error == "" {
			m.Error = m.Detail.Message
		}
		if m.Error != "" {
			return explain(fmt.Errorf("%w: %s", errBuild, tidy(m.Error)), base, at, said)
		}
		complete = complete || m.Aux.ID != "" || strings.HasPrefix(m.Stream, "Successfully built ")
		for line := range strings.Lines(m.Stream + m.Status) {
			at.Text = tidy(line)
			if at.Text == "" {
				continue
			}
			if found := step.FindStringSubmatch(at.Text); found != nil {
				at.Step, _ = strconv.Atoi(found[1]) // digits
				at.Of, _ = strconv.Atoi(found[2])
			}
			said = append(said, at.Text)
			said = said[max(0, len(said)-lastLines):]
			tell(at)
		}
	}
}

// errGone says that the stream ended without an image.
var errGone = errors.New("the engine went away")

// tidy makes one printable line of an engine's or a program's words.
func tidy(line string) string {
	if i := strings.LastIndexByte(strings.TrimRight(line, "\r\n"), '\r'); i >= 0 { // a progress bar's last state
		line = line[i+1:]
	}
	line = string(bytes.ToValidUTF8(escapes.ReplaceAll([]byte(line), nil), nil))
	line = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, line))
	if len(line) > maxLine {
		line = strings.ToValidUTF8(line[:maxLine], "") + "…"
	}
	return line
}

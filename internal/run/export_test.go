package run

import (
	"os"

	"github.com/claude-hub/claude-hub/internal/agent"
)

// Record lets a test feed a recorder: chunks are the writes of the sandbox. It
// returns what a sink was given, and what the CLI said of itself.
func Record(file *os.File, max int64, chunks [][]byte) (lines []string, result *agent.Result, session string) {
	r := newRecorder(file, nil, max)
	r.forward = func(line []byte) { lines = append(lines, string(line)) }
	for _, c := range chunks {
		r.Write(c)
	}
	var e ending
	session = r.finish(&e)
	r.close()
	return lines, e.result, session
}

// Excerpt and Line are how foreign text gets into a record.
var (
	Excerpt = excerpt
	Line    = line
)

// Tail returns what is kept of a standard error that is written in chunks.
func Tail(chunks ...string) string {
	var t tail
	for _, c := range chunks {
		t.Write([]byte(c))
	}
	return t.String()
}

// LastSession is how the session of a run is found whose process has died.
var LastSession = lastSession

package run

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/claude-hub/claude-hub/internal/agent"
	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/secret"
)

// Bounds of the event log.
const (
	maxLine    = agent.MaxLine
	logReserve = 64 << 10 // of a log's bound, for the hub's own last notes
	maxNote    = 8 << 10  // text in one note
	maxSession = 100
)

// NoteType is the type of the hub's own entries in the event log and the stream.
const NoteType = "hub"

// Note is an entry of the hub's own, beside the CLI's events.
type Note struct {
	Type    string      `json:"type"`    // always NoteType
	Subtype string      `json:"subtype"` // see the constants
	Run     hub.RunID   `json:"run,omitempty"`
	Text    string      `json:"text,omitempty"`
	Verdict hub.Verdict `json:"verdict,omitempty"`
}

// The subtypes of notes.
const (
	NoteStarted = "started" // the first entry
	NoteResumed = "resumed" // a parked run goes on
	NoteParked  = "parked"  // Text is the reason; the run goes on by itself
	NoteGarbage = "garbage" // Text was printed where an event was due
	NoteDropped = "dropped" // an event was too long to keep
	NoteCut     = "cut"     // the log is full; what follows is lost
	NoteStderr  = "stderr"  // Text is the end of the CLI's standard error
	NoteVerdict = "verdict" // the last entry; Text is the reason
)

// recorder takes the CLI's standard output apart into events, keeps them in the
// log and passes them on. It is the [io.Writer] that the sandbox writes to.
type recorder struct {
	mu      sync.Mutex // held while a line is taken; covers all below
	file    *os.File
	forward func(line []byte) // to the sink
	partial []byte            // of a line that has not ended
	skipped int               // bytes so far of a line that is too long to keep
	max     int64             // bytes of the log
	size    int64             // of the log
	full    bool
	closed  bool
	lost    error            // the first error of writing the log
	session string           // the CLI's session
	result  *agent.Result    // its last one
	limit   *agent.RateLimit // the last one
}

// newRecorder returns a recorder on a log, which may hold an earlier attempt of
// the run already.
func newRecorder(file *os.File, forward func([]byte), limit int64) *recorder {
	r := &recorder{file: file, forward: forward, max: limit}
	if info, err := file.Stat(); err == nil {
		r.size = info.Size()
	}
	r.full = r.size >= limit-logReserve
	return r
}

// Write never fails: a log that cannot be written is told at the end, and does
// not end the run.
func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	for !r.closed && len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			r.hold(p)
			break
		}
		r.end(p[:i])
		p = p[i+1:]
	}
	return n, nil
}

// hold keeps the start of a line until the rest comes.
func (r *recorder) hold(p []byte) {
	if r.skipped > 0 || len(r.partial)+len(p) > maxLine {
		r.skipped += len(r.partial) + len(p)
		r.partial = nil
		return
	}
	r.partial = append(r.partial, p...)
}

// end takes the last part of a line.
func (r *recorder) end(p []byte) {
	if len(r.partial) > 0 || r.skipped > 0 || len(p) > maxLine {
		r.hold(p)
		p = r.partial
	}
	if r.skipped > 0 {
		r.noteLocked(Note{Subtype: NoteDropped, Text: fmt.Sprintf("an event of %d bytes", r.skipped)})
	} else {
		r.take(p)
	}
	r.partial, r.skipped = r.partial[:0], 0
}

// take handles one whole line.
func (r *recorder) take(p []byte) {
	p = bytes.TrimSpace(p)
	if len(p) == 0 {
		return
	}
	event, err := agent.ParseEvent(p)
	if err != nil || event.Type == NoteType || claimsNote(p) { // a note that is not ours would be a lie
		r.noteLocked(Note{Subtype: NoteGarbage, Text: printable(p)})
		return
	}
	if event.Session != "" {
		r.session = cut(line(event.Session), maxSession)
	}
	if event.Result != nil {
		r.result = event.Result
	}
	if event.Limit != nil {
		r.limit = event.Limit
	}
	p = plain(secret.Scrub(p))
	if len(p) > maxLine {
		r.noteLocked(Note{Subtype: NoteDropped, Text: fmt.Sprintf("an event of %d bytes", len(p))})
		return
	}
	r.keep(p)
}

// printable is the start of foreign bytes for a note.
func printable(p []byte) string { return excerpt(string(p[:min(len(p), maxNote)]), maxNote) }

// note adds an entry that the CLI has no part in: there are a few of these, and
// also a full log has room for them.
func (r *recorder) note(n Note) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	line := n.line()
	r.write(line)
	r.forward(line)
}

// noteLocked adds an entry of our own in the place of something the CLI printed.
func (r *recorder) noteLocked(n Note) { r.keep(n.line()) }

func (n Note) line() []byte {
	n.Type = NoteType
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // it has strings only
	}
	return b
}

// keep takes one line that may be one of many: it goes into the log while there
// is room, and to the sink in any case.
func (r *recorder) keep(line []byte) {
	if !r.full && r.size+int64(len(line)) >= r.max-logReserve {
		r.full = true
		r.write(Note{Subtype: NoteCut}.line())
	}
	if !r.full {
		r.write(line)
	}
	r.forward(line)
}

// write puts one line into the log with one call, so that a follower sees whole
// lines.
func (r *recorder) write(line []byte) {
	n, err := r.file.Write(append(line[:len(line):len(line)], '\n'))
	r.size += int64(n)
	if err != nil && r.lost == nil {
		r.lost = err
	}
}

// finish takes what is left of a last line without its newline, and fills in
// what the CLI has said.
func (r *recorder) finish(e *ending) (session string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.partial) > 0 || r.skipped > 0 {
		r.end(nil)
	}
	e.result, e.limit = r.result, r.limit
	return r.session
}

// close ends the log; what is written later is discarded.
func (r *recorder) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	if err := r.file.Close(); err != nil && r.lost == nil {
		r.lost = err
	}
	return r.lost
}

// tail keeps the last bytes that are written to it.
type tail struct {
	mu   sync.Mutex
	buf  []byte
	lost bool // something before buf was
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	t.buf = append(t.buf, p[max(0, len(p)-maxNote):]...)
	if excess := len(t.buf) - maxNote; excess > 0 || n > maxNote {
		t.buf = append(t.buf[:0], t.buf[max(0, excess):]...)
		t.lost = true
	}
	return n, nil
}

// String returns what was kept, from the start of a word: the end of a token
// whose start is lost would not be seen to be one.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.buf
	if t.lost {
		i := bytes.IndexAny(b, " \n\t\r")
		if i < 0 {
			return ""
		}
		b = b[i+1:]
	}
	return printable(b)
}

package simulator

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// reply is an answer that has not been sent, so that a fault can take it apart.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func jsonReply(status int, v any) *reply {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own plain types come here
	}
	return &reply{status: status, header: http.Header{"Content-Type": {"application/json"}}, body: b}
}

// apiError is an error in the API's shape.
func apiError(status int, kind, message string) *reply {
	if status == 0 {
		status = http.StatusInternalServerError
	}
	if kind == "" {
		kind = "api_error"
	}
	if message == "" {
		message = http.StatusText(status)
	}
	id := newRequestID()
	rep := jsonReply(status, map[string]any{
		"type":       "error",
		"error":      map[string]string{"type": kind, "message": message},
		"request_id": id,
	})
	rep.header.Set("Request-Id", id)
	return rep
}

var requestIDs atomic.Uint64

func newRequestID() string { return "req_fake" + strconv.FormatUint(requestIDs.Add(1), 10) }

func (rep *reply) retryAfter(d time.Duration) {
	if d > 0 {
		rep.header.Set("Retry-After", strconv.Itoa(int((d+time.Second-1)/time.Second)))
	}
}

func (rep *reply) head(w http.ResponseWriter, now time.Time) {
	h := w.Header()
	for k, v := range rep.header {
		h[k] = v
	}
	h.Set("Date", now.UTC().Format(http.TimeFormat))
	h.Set("Content-Length", strconv.Itoa(len(rep.body)))
}

func (rep *reply) write(w http.ResponseWriter, now time.Time) {
	rep.head(w, now)
	w.WriteHeader(rep.status)
	w.Write(rep.body)
}

// deliver sends a reply, or what f leaves of it.
func (s *Simulator) deliver(w http.ResponseWriter, r *http.Request, f *Fault, rep *reply) {
	if f == nil {
		rep.write(w, s.now())
		return
	}
	switch f.Kind {
	case FaultHalfReply:
		rep.head(w, s.now())
		w.WriteHeader(rep.status)
		w.Write(rep.body[:len(rep.body)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case FaultBrokenJSON:
		rep.body = rep.body[:len(rep.body)/2]
		rep.write(w, s.now())
	case FaultSlowBytes:
		rep.head(w, s.now())
		w.WriteHeader(rep.status)
		s.trickle(w, r, rep.body, f.Delay)
	default:
		if s.after(f, w, r) {
			rep.write(w, s.now())
		}
	}
}

// after does what f does between the deed and the first byte of its answer, and
// reports whether the answer is still to be sent.
func (s *Simulator) after(f *Fault, w http.ResponseWriter, r *http.Request) bool {
	if f == nil {
		return true
	}
	switch f.Kind {
	case FaultSlow:
		if !s.sleep(r.Context(), f.Delay) {
			panic(http.ErrAbortHandler)
		}
	case FaultLostReply:
		panic(http.ErrAbortHandler)
	case FaultLostHang:
		s.hang(r.Context())
		panic(http.ErrAbortHandler)
	case FaultErrorAfterCommit:
		apiError(http.StatusInternalServerError, "api_error", "Internal server error").write(w, s.now())
		return false
	}
	return true
}

func (s *Simulator) trickle(w http.ResponseWriter, r *http.Request, body []byte, pause time.Duration) {
	flush := http.NewResponseController(w)
	for i := range body {
		if _, err := w.Write(body[i : i+1]); err != nil {
			return
		}
		flush.Flush()
		if !s.sleep(r.Context(), pause) {
			panic(http.ErrAbortHandler)
		}
	}
}

// bufferBody reads the request's body, so that the server notices when the client
// leaves, and puts it back.
func bufferBody(r *http.Request) {
	b, err := readBody(r, maxBody)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
}

// endpoint makes a handler of h with observation, counting and faults around it.
// h returns nil when it has answered by itself.
func (s *Simulator) endpoint(e Endpoint, count func(*Counters), h func(http.ResponseWriter, *http.Request, *Fault) *reply) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.count(count)
		if s.cfg.Observe != nil {
			s.cfg.Observe(e, r)
		}
		s.log.Debug("request", "endpoint", e, "host", r.Host, "method", r.Method, "path", r.URL.Path)
		f := s.faults.take(e)
		if f != nil && !s.before(f, w, r) {
			return
		}
		if f.is(FaultEarlyAnswer) && e != EndpointMessages {
			s.answerEarly(w, r, f)
			return
		}
		if rep := h(w, r, f); rep != nil {
			s.deliver(w, r, f, rep)
		}
	}
}

// answerEarly refuses without a look at the request's body, which is thrown away
// afterwards: closing the connection on it could take the answer along.
func (s *Simulator) answerEarly(w http.ResponseWriter, r *http.Request, f *Fault) {
	status := f.Status
	if status == 0 {
		status = http.StatusServiceUnavailable
	}
	http.NewResponseController(w).EnableFullDuplex()
	rep := apiError(status, f.Type, f.Message)
	rep.retryAfter(f.RetryAfter)
	rep.write(w, s.now())
	http.NewResponseController(w).Flush()
	io.Copy(io.Discard, io.LimitReader(r.Body, maxBody))
}

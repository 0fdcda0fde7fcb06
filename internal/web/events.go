package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const (
	maxStreams   = 64               // open at once
	streamBeat   = 15 * time.Second // how often a silent stream shows that it lives
	streamPatrol = 30 * time.Second // how long a client may take for an event
)

// event is one state of a sign-in on its way to the page.
type event struct {
	Mark     string `json:"mark"`
	State    string `json:"state"`
	Headline string `json:"headline"`
	Panel    string `json:"panel"`
	Profiles string `json:"profiles"`
}

// events streams every state of the profile's sign-in, the present one first, as
// long as the session lasts.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	name, ok := p.named(w, r)
	if !ok {
		return
	}
	select {
	case p.streams <- struct{}{}:
		defer func() { <-p.streams }()
	default:
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	send := func(text string) bool {
		control.SetWriteDeadline(time.Now().Add(streamPatrol))
		_, err := fmt.Fprint(w, text)
		return err == nil && control.Flush() == nil
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	ended := r.Context().Value(sessionKey{}).(*session).ended
	mark := ""
	for {
		last := p.isStopping() // the desk is closed by then: what comes now is the last
		state, changed := p.desk.state(name)
		v := p.view(r, name, state)
		if v.Mark() != mark {
			mark = v.Mark()
			text, err := v.event()
			if err != nil || !send(text) {
				return
			}
			p.desk.shown(state)
		}
		if last {
			return
		}
		select {
		case <-changed:
		case <-p.stopping:
		case <-beat.C:
			p.operators.tidy() // a stream is no use of the session, and ends with it
			if !send(": still there\n\n") {
				return
			}
		case <-ended:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (p *Page) isStopping() bool {
	select {
	case <-p.stopping:
		return true
	default:
		return false
	}
}

// event is one message of the stream. JSON has no line end in it.
func (v view) event() (string, error) {
	panel, profiles, err := v.fragments()
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(event{v.Mark(), string(v.SignIn.State), v.Headline(), panel, profiles})
	return "data: " + string(data) + "\n\n", err
}

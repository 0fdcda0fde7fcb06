package hub_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/hub"
)

func TestHandoverHoldsItsGenerationAlone(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	moved := hub.Handover{Generation: 7, To: []string{"age1fake"}, At: at, Bundle: "b-fake"}
	shared, back := moved, moved
	shared.Shared, back.TakenBack = true, at.Add(time.Hour)
	for name, c := range map[string]struct {
		h      hub.Handover
		newest hub.Generation
		want   bool
	}{
		"moved":              {moved, 7, true},
		"a new sign-in":      {moved, 8, false},
		"another generation": {moved, 6, false},
		"shared":             {shared, 7, false},
		"taken back":         {back, 7, false},
		"none":               {hub.Handover{}, 0, false},
	} {
		if got := c.h.Holds(c.newest); got != c.want {
			t.Errorf("%s: Holds(%d) = %v", name, c.newest, got)
		}
	}
	carrying := moved
	carrying.Copies = []hub.Copy{{Generation: 6, To: "/srv/copy", At: at, Snapshot: 2}}
	for _, h := range []hub.Handover{moved, shared, back, carrying} {
		b, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := hub.ParseHandover(b); err != nil || cmp.Diff(h, got) != "" {
			t.Errorf("ParseHandover of what Encode wrote: %v, %s", err, cmp.Diff(h, got))
		}
	}
	for _, bad := range []string{"", "null", "{}", `{"generation":7}`, `{"generation":7,"to":[""]}`, `{"generation":0,"to":["x"]}`, `{"generation":7,"to":["x"],"copies":[{}]}`, `[`} {
		if _, err := hub.ParseHandover([]byte(bad)); !errors.Is(err, hub.ErrFormat) {
			t.Errorf("ParseHandover(%q) = %v; want ErrFormat", bad, err)
		}
	}
}

func FuzzParseHandover(f *testing.F) {
	f.Add([]byte(`{"generation":7,"to":["age1fake"],"at":"2026-11-23T12:00:00Z","bundle":"b-fake"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := hub.ParseHandover(b); err == nil && (h.Generation == 0 || len(h.To) == 0) {
			t.Errorf("%q gives %+v", b, h)
		}
	})
}

package hub_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/claude-hub/claude-hub/internal/hub"
)

func TestTheOldNameOfADeliveryIsRead(t *testing.T) {
	for text, want := range map[string]hub.Delivery{
		"": "", "gateway": hub.DeliveryGateway, "inject": hub.DeliveryGateway, "copy": hub.DeliveryCopy,
	} {
		if got, err := hub.ParseDelivery(text); err != nil || got != want {
			t.Errorf("ParseDelivery(%q) = %q, %v; want %q", text, got, err, want)
		}
		var run hub.Run
		if err := json.Unmarshal([]byte(`{"delivery":"`+text+`"}`), &run); err != nil || run.Delivery != want {
			t.Errorf("%q as JSON is %q, %v; want %q", text, run.Delivery, err, want)
		}
		for _, column := range []any{text, []byte(text)} {
			var d hub.Delivery
			if err := d.Scan(column); err != nil || d != want {
				t.Errorf("%q from a database is %q, %v; want %q", text, d, err, want)
			}
		}
	}
	for _, text := range []string{"Gateway", "copy ", "broker"} {
		if d, err := hub.ParseDelivery(text); !errors.Is(err, hub.ErrInvalid) || hub.HintOf(err) == "" {
			t.Errorf("ParseDelivery(%q) = %q, %v; want ErrInvalid with a hint", text, d, err)
		}
	}
	var d hub.Delivery
	if err := d.Scan(7); !errors.Is(err, hub.ErrFormat) {
		t.Errorf("a number is a delivery: %q, %v", d, err)
	}
}

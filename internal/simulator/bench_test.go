package simulator_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/claude-hub/claude-hub/internal/simulator"
)

// The simulator must be much faster than what is measured against it.
func BenchmarkDirect(b *testing.B) {
	for _, script := range []string{`say "hi"`, "fill 1KB", "fill 200KB"} {
		b.Run(script, func(b *testing.B) {
			s, err := simulator.Start(simulator.Config{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
			defer c.CloseIdleConnections()
			token := s.SetupToken()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req, _ := http.NewRequest("POST", s.Direct().JoinPath("v1/messages").String(), nil)
					req.Header.Set("Authorization", "Bearer "+token)
					req.Header.Set("Anthropic-Beta", "oauth-2025-04-20")
					req.Header.Set(simulator.HeaderScript, script)
					resp, err := c.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		})
	}
}

package hubtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BaseImage is what our Dockerfiles build on; `make setup` makes it on the machine.
const BaseImage = "debian:bookworm-slim"

// Engine returns the address (unix://…) of a container engine, "docker" or
// "podman", that answers and holds [BaseImage]. The test fails, and says how to
// get one, if there is none.
func Engine(t testing.TB, kind string) string {
	t.Helper()
	var tried []error
	for _, socket := range engineSockets(t, kind) {
		err := answers(t.Context(), socket)
		if err == nil {
			return "unix://" + socket
		}
		tried = append(tried, err)
	}
	t.Fatalf("no %s engine answers with %s (run `make setup`): %v", kind, BaseImage, tried)
	return ""
}

// engineSockets are the places of an engine's socket, as in scripts/engine.
func engineSockets(t testing.TB, kind string) []string {
	t.Helper()
	name, ok := map[string]string{"docker": "docker.sock", "podman": "podman/podman.sock"}[kind]
	if !ok {
		t.Fatalf("there is no engine of kind %q", kind)
	}
	root := filepath.Join("/run", name)
	if os.Getuid() == 0 {
		return []string{root}
	}
	user := os.Getenv("XDG_RUNTIME_DIR")
	if user == "" {
		user = fmt.Sprintf("/run/user/%d", os.Getuid())
	}
	if kind == "podman" { // a rootless one first: the other is root's alone
		return []string{filepath.Join(user, name), root}
	}
	return []string{root, filepath.Join(user, name)}
}

// answers asks the engine at a socket for the base image.
func answers(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/images/"+BaseImage+"/json", nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", socket, response.Status)
	}
	return nil
}

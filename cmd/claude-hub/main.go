// Claude-hub keeps the owner's own Claude login encrypted and fresh, and lets
// unattended runs of the claude CLI use it without ever holding it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/claude-hub/claude-hub/internal/sandbox/shim"
)

func main() {
	// Inside a sandbox this same binary is process 1: nothing else of the program
	// may start there.
	if shim.Wanted(os.Args) {
		os.Exit(shim.Main(os.Args))
	}
	if err := harden(); err != nil {
		fmt.Fprintln(os.Stderr, "claude-hub:", err)
		os.Exit(exitError)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}
	os.Exit(a.main(ctx, os.Args[1:]))
}

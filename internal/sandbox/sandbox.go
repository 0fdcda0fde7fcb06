// Package sandbox is the contract between a run and what confines it.
//
// Every [Driver] promises, and the suite in sandboxtest checks:
//
//  1. Nothing of the host is visible inside but the system's programs, read-only,
//     and what the [Spec] names: no other process, file, variable or user.
//  2. There is no network. The only way out is the unix sockets of Spec.Sockets,
//     each also reachable as a port on the loopback address.
//  3. The job has no capabilities, gains no privileges, and can neither trace
//     processes nor make namespaces or mounts.
//  4. A limit that is passed ends the sandbox, and [Exit] names the limit.
//  5. When Wait returns, and whenever the hub's own process dies, no process of
//     the sandbox is left, however it was started and whatever it ignored.
package sandbox

import (
	"context"
	"io"
	"time"
)

// Where things are inside, whatever the driver.
const (
	// Home is where Spec.Home appears.
	Home = "/home/agent"
	// Workspace is where a directory goes that can't keep its own path, see [Inside].
	Workspace = "/workspace"
	// Path is a search path for programs that suits every driver.
	Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Mount makes a file or directory of the host visible inside.
type Mount struct {
	Source   string // on the host; absolute, must exist
	Target   string // inside; absolute and clean, see [Inside]
	Writable bool
}

// Socket makes a unix socket of the host reachable inside at 127.0.0.1:Port.
type Socket struct {
	Host string // path of the socket on the host; it must exist at the start
	Port int    // 1024 to 65535
}

// Limits bounds one sandbox. A zero field is no limit, except where noted.
type Limits struct {
	// Memory is in bytes, over all processes and the sandbox's own temporary
	// files. Passing it ends the sandbox.
	Memory int64
	// CPUs is in processors, such as 1.5. It slows a sandbox down and never ends it.
	// Where the kernel lets this process make no control group for it, nothing bounds
	// it.
	CPUs float64
	// Processes counts threads too, as the kernel does. The next fork fails; a
	// driver that cannot make it fail ends the sandbox.
	Processes int
	// Time runs from the start. At its end the job is interrupted, and killed
	// after the driver's grace.
	Time time.Duration
	// Output is in bytes, standard output and error together.
	Output int64
	// FileSize is in bytes and bounds each file that the job writes.
	FileSize int64
	// MinFree is in bytes: the sandbox ends when a file system that it may write
	// to has less left, or next to no room for more files.
	MinFree int64
	// Temp is in bytes and bounds /tmp and /dev/shm, each. 0 is 1 GiB.
	Temp int64
}

// Spec says what to run and what it may see.
type Spec struct {
	// Name is what the sandbox is for: a run's ID, or a word such as "sign-in". A
	// driver whose sandboxes can be listed by others shows it there. It may be "".
	Name string

	Args    []string // the command; Args[0] without a slash is looked up in Env's PATH
	Env     []string // the whole environment, KEY=VALUE
	Dir     string   // working directory, inside; "" is Home
	Mounts  []Mount  // in order; a later one may lie inside an earlier one
	Home    string   // host directory, private to this sandbox, that becomes [Home]
	Sockets []Socket
	Limits  Limits

	// Terminal gives the command a terminal of its own, made inside, as standard
	// input, output and error and as its controlling terminal. Stdin is then what is
	// typed on it, control characters included, and its end a Ctrl-D; Stdout is the
	// screen, and Stderr gets nothing of the command's.
	Terminal bool
	Size     Size // of the terminal at the start; zero is 24 by 80

	// Stdin may be nil for an empty input. Wait does not wait for its last Read.
	Stdin io.Reader
	// Stdout and Stderr may be nil to discard; each is written to by one goroutine
	// at a time, and never after Wait has returned. A Write that blocks holds up
	// Wait; one that fails ends the sandbox.
	Stdout, Stderr io.Writer
}

// Size is a terminal's, in characters.
type Size struct{ Rows, Cols uint16 }

// Window returns the terminal's first size, zero if there is no terminal.
func (s Spec) Window() Size {
	switch {
	case !s.Terminal:
		return Size{}
	case s.Size.Rows == 0 || s.Size.Cols == 0:
		return Size{Rows: 24, Cols: 80}
	}
	return s.Size
}

// Reason says why a sandbox was ended, if it did not end by itself.
type Reason = string

// The reasons.
const (
	ReasonNone      Reason = ""          // the command ended by itself
	ReasonTime      Reason = "time"      // Limits.Time
	ReasonMemory    Reason = "memory"    // Limits.Memory
	ReasonProcesses Reason = "processes" // Limits.Processes, where forks can't be made to fail
	ReasonOutput    Reason = "output"    // Limits.Output
	ReasonDisk      Reason = "disk"      // Limits.FileSize or MinFree
	ReasonKilled    Reason = "killed"    // Kill, the end of the context, or a writer of ours that failed
)

// Exit is how a sandbox ended.
type Exit struct {
	Code   int    // the command's exit code; -1 when a signal ended it
	Signal string // the signal's name, such as "SIGKILL", when Code is -1
	Reason Reason
}

// Driver starts sandboxes of one kind. It is safe for concurrent use.
type Driver interface {
	// Name is short and lower case, such as "bubblewrap".
	Name() string

	// Check reports whether the driver works on this machine by trying it. Its
	// error carries a hint.
	Check(ctx context.Context) error

	// Start runs spec's command and returns once it runs. An error means that
	// nothing is left running: hub.ErrInvalid for a spec that is refused,
	// hub.ErrNotFound for a command that is not there. When ctx ends, the command
	// is interrupted, and killed after the driver's grace.
	Start(ctx context.Context, spec Spec) (Sandbox, error)
}

// Sandbox is one running command with all that it starts. Its methods may be
// called at any time, by any goroutine, any number of times.
type Sandbox interface {
	// Wait returns when every process of the sandbox is gone and all output has
	// been written. Its error means that how the command ended is not known.
	Wait() (Exit, error)

	// Interrupt sends SIGTERM to the command. It is not an error after the end.
	Interrupt() error

	// Kill ends every process at once. It is not an error after the end.
	Kill() error

	// Resize gives the terminal another size, of which the kernel tells the
	// foreground process. It is not an error after the end; without a terminal it is
	// a hub.ErrInvalid.
	Resize(rows, cols uint16) error
}

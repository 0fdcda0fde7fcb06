package login_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/login"
)

// childMode, in its environment, makes the test binary a `claude-hub login` of
// its own, so that a test can send it signals and close its terminal. Its value
// is "sign-in", "setup-token" or "shell"; LOGIN_TEST_PLACE names another place than
// here.
const childMode = "LOGIN_TEST_CHILD"

func childMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	result, err := childLogin(ctx)
	switch {
	case errors.Is(err, hub.ErrCancelled):
		fmt.Println("cancelled:", err)
		return 2
	case err != nil:
		fmt.Println("failed:", err)
		return 1
	}
	fmt.Printf("captured generation %d\n", result.Generation)
	return 0
}

func childLogin(ctx context.Context) (login.Result, error) {
	dir := os.Getenv("LOGIN_TEST_DIR")
	v, err := openVault(dir)
	if err != nil {
		return login.Result{}, err
	}
	cfg := deskConfig(dir, v)
	cfg.Agent = os.Getenv("LOGIN_TEST_AGENT")
	if kind := os.Getenv("LOGIN_TEST_PLACE"); kind != "" {
		driver, err := newDriver(kind, dir, os.Getenv("LOGIN_TEST_ENGINE"))
		if err != nil {
			return login.Result{}, err
		}
		cfg.Place = newBox(driver, kind, cfg.Agent, os.Environ(), io.Discard)
	}
	l, err := login.New(cfg)
	if err != nil {
		return login.Result{}, err
	}
	profile := hub.Profile{ID: "p-test", Name: "default"}
	ui := &login.TerminalUI{In: os.Stdin, Out: os.Stdout}
	switch os.Getenv(childMode) {
	case "setup-token":
		return l.SetupToken(ctx, profile, os.Stdin, os.Stdout)
	case "shell":
		return l.Shell(ctx, profile, os.Stdin, os.Stdout, ui)
	}
	return l.SignIn(ctx, profile, ui)
}

// tty is a child on a terminal of its own, and the person in front of it.
type tty struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	read   chan struct{} // closed when all output has been read

	mu  sync.Mutex
	out bytes.Buffer
}

// startChild starts `claude-hub login` of the given mode in front of d's vault.
func startChild(t *testing.T, d *desk, mode, agent string, environ []string) *tty {
	t.Helper()
	return startChildIn(t, 60, 250, d, mode, agent, environ)
}

// startChildIn does it in a window of another size.
func startChildIn(t *testing.T, rows, columns uint16, d *desk, mode, agent string, environ []string) *tty {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "TMPDIR=" + os.TempDir(),
		childMode + "=" + mode, "LOGIN_TEST_DIR=" + d.dir, "LOGIN_TEST_AGENT=" + agent}, environ...)
	opened, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: rows, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	// In the runtime's poller, so that Close ends a Read.
	fd, err := unix.FcntlInt(opened.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	opened.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	c := &tty{t: t, cmd: cmd, master: os.NewFile(uintptr(fd), "terminal"), read: make(chan struct{})}
	go c.listen()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		c.close()
	})
	return c
}

func (c *tty) listen() {
	defer close(c.read)
	buf := make([]byte, 64<<10)
	for {
		n, err := c.master.Read(buf)
		c.mu.Lock()
		c.out.Write(buf[:n])
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// close hangs up.
func (c *tty) close() {
	c.master.Close()
	<-c.read
}

func (c *tty) screen() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

// see waits until text is on the screen.
func (c *tty) see(text string) {
	c.t.Helper()
	defer func() {
		if c.t.Failed() {
			c.t.Logf("the screen:\n%q", c.screen())
		}
	}()
	eventually(c.t, text, func() bool { return strings.Contains(c.screen(), text) })
}

// seeAfter waits until text is on the screen, somewhere after first.
func (c *tty) seeAfter(first, text string) {
	c.t.Helper()
	c.see(first)
	eventually(c.t, text, func() bool {
		_, rest, _ := strings.Cut(c.screen(), first)
		return strings.Contains(rest, text)
	})
}

func (c *tty) enter(text string) {
	c.t.Helper()
	if _, err := c.master.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
}

// link waits for the hyperlink.
func (c *tty) link() string {
	c.t.Helper()
	c.see("\x1b]8;;https://")
	c.see("\x1b]8;;\x1b\\")
	_, rest, _ := strings.Cut(c.screen(), "\x1b]8;;")
	link, _, _ := strings.Cut(rest, "\x1b\\")
	return link
}

func (c *tty) resize(rows, columns int) {
	c.t.Helper()
	raw, err := c.master.SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(columns)})
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// modes returns the terminal's settings.
func (c *tty) modes() unix.Termios {
	c.t.Helper()
	raw, err := c.master.SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	var modes *unix.Termios
	raw.Control(func(fd uintptr) { modes, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
	if err != nil {
		c.t.Fatal(err)
	}
	return *modes
}

// exit waits for the child's end and returns its exit code, -1 after a signal.
func (c *tty) exit() int {
	c.t.Helper()
	c.cmd.Wait()
	return c.cmd.ProcessState.ExitCode()
}

// wantNoProcess waits until no process lives in d's scratch homes.
func (d *desk) wantNoProcess() {
	d.t.Helper()
	eventually(d.t, "the end of every CLI process in "+d.dir, func() bool { return len(d.processes()) == 0 })
}

// processes returns the IDs of the processes that live in d's scratch homes: here
// by their environment, in a sandbox by what is mounted.
func (d *desk) processes() []int {
	d.t.Helper()
	mounted := []byte(strings.TrimPrefix(d.dir, os.TempDir()) + "/login/signin-")
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		d.t.Fatal(err)
	}
	var pids []int
	for _, path := range paths {
		environ, _ := os.ReadFile(path + "/environ") // a process may be gone
		mounts, _ := os.ReadFile(path + "/mountinfo")
		if bytes.Contains(environ, []byte("HOME="+d.dir)) || bytes.Contains(mounts, mounted) {
			pid, err := strconv.Atoi(filepath.Base(path))
			if err != nil {
				d.t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

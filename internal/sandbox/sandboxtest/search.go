package sandboxtest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/claude-hub/claude-hub/internal/sandbox"
)

// fragment is how much of a canary counts as a find.
const fragment = 12

// forms returns every form in which a canary is looked for, by name.
func forms(canary string) map[string][]byte {
	f := map[string][]byte{}
	for i := 0; i+fragment <= len(canary); i++ {
		f["plain "+strconv.Itoa(i)] = []byte(canary[i : i+fragment])
	}
	for offset := range 3 {
		// The first and last characters depend on what is around the canary.
		text := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", offset) + canary))
		f["base64 "+strconv.Itoa(offset)] = []byte(text[4 : len(text)-4])
		f["base64url "+strconv.Itoa(offset)] = []byte(strings.NewReplacer("+", "-", "/", "_").Replace(text[4 : len(text)-4]))
	}
	f["hex"] = []byte(hex.EncodeToString([]byte(canary)))
	f["HEX"] = bytes.ToUpper(f["hex"])
	backward := []byte(canary)
	slices.Reverse(backward)
	f["reversed"] = backward
	f["url"] = []byte(url.QueryEscape(canary))
	var every strings.Builder
	for _, b := range []byte(canary) {
		fmt.Fprintf(&every, "%%%02X", b)
	}
	f["url, every byte"] = []byte(every.String())
	return f
}

// newCanary is a secret that is nowhere else. It has characters that a URL
// escapes.
func newCanary() string { return "sk-ant-ort01-fake+/" + rand.Text() }

type searchQuestion struct{ Forms map[string][]byte }

type searchAnswer struct {
	Files     int      // that could be read
	Hits      []string // "path: form"
	Logins    []string // files named like the CLI's credentials
	Processes []string // directories in /proc
}

// testSearch plants a canary wherever a hub or its host could have a secret, and
// lets a job read all that it can.
func testSearch(t *testing.T, d sandbox.Driver) {
	canary := newCanary()
	open := newPlace(t)
	for name, text := range forms(canary) {
		if err := os.WriteFile(filepath.Join(open.work, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	control := ask[searchAnswer](t, d, open.spec(t, insideProbe, probeArg, "search"), searchQuestion{forms(canary)})
	for name := range forms(canary) {
		if !slices.Contains(control.Hits, insideWork+"/"+name+": "+name) {
			t.Fatalf("the search does not find %q in the workspace; it found %v", name, control.Hits)
		}
	}
	plant(t, canary)
	got := ask[searchAnswer](t, d, newPlace(t).spec(t, insideProbe, probeArg, "search"), searchQuestion{forms(canary)})
	if len(got.Hits) > 0 {
		t.Errorf("the host's secret is visible inside: %v", got.Hits)
	}
	if len(got.Logins) > 0 {
		t.Errorf("there are logins inside: %v", got.Logins)
	}
	// What the kernel tells about the machine, and the engine about its network.
	if said := shell(t, d, `find /sys -mindepth 1 2>/dev/null | head -3; grep -s nameserver /etc/resolv.conf; cat /etc/hosts; hostname`); said != "127.0.0.1 localhost sandbox\n::1 localhost\nsandbox\n" {
		t.Errorf("of the machine, this is visible: %s", said)
	}
	if got.Files < 20 {
		t.Errorf("the search could read %d files only", got.Files)
	}
}

// plant puts the canary into this process's environment, its home, the host's
// temporary directories, and another process's arguments and environment.
func plant(t *testing.T, canary string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("CLAUDE_CODE_OAUTH_REFRESH_TOKEN", canary)
	t.Setenv("HOME", home)
	temp, err := os.MkdirTemp("", "planted")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	places := []string{filepath.Join(home, ".claude", ".credentials.json"), filepath.Join(temp, canary)}
	if os.Getuid() == 0 {
		run, err := os.MkdirTemp("/run", "planted")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(run) })
		places = append(places, filepath.Join(run, "secret"))
	}
	for _, path := range places {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		path = strings.ReplaceAll(path, "+/", "+")
		if err := os.WriteFile(path, []byte(canary), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	other := exec.Command("sh", "-c", "read wait", canary)
	other.Env = []string{"SECRET=" + canary}
	hold, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hold.Close(); other.Wait() })
}

// probeSearch reads every file but the system's programs, and every process's
// files but its own memory, in which the forms are.
func probeSearch(q searchQuestion) searchAnswer {
	var a searchAnswer
	self := strconv.Itoa(os.Getpid())
	filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		switch {
		case path == "/usr" || path == "/probe" || path == "/proc/"+self || path == "/proc/self" || path == "/proc/thread-self":
			return fs.SkipDir
		case entry.Name() == ".credentials.json":
			a.Logins = append(a.Logins, path)
		}
		if _, err := strconv.Atoi(filepath.Base(path)); err == nil && filepath.Dir(path) == "/proc" {
			a.Processes = append(a.Processes, path)
			for _, link := range []string{"/root/", "/cwd/"} {
				names, _ := os.ReadDir(path + link)
				for _, n := range names {
					a.look(q, path+link+n.Name(), []byte(n.Name()))
				}
			}
		}
		if entry.Type()&os.ModeSymlink != 0 {
			to, _ := os.Readlink(path)
			a.look(q, path, []byte(to))
			// What a descriptor leads to may be out of sight otherwise.
			if !strings.HasPrefix(path, "/proc/") || strings.HasPrefix(to, "pipe:") {
				return nil
			}
		} else if !entry.Type().IsRegular() {
			return nil
		}
		a.read(q, path)
		return nil
	})
	return a
}

func (a *searchAnswer) read(q searchQuestion, path string) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, 4<<20))
	if len(data) > 0 {
		a.Files++
	}
	a.look(q, path, append(data, path...))
}

func (a *searchAnswer) look(q searchQuestion, path string, data []byte) {
	for name, form := range q.Forms {
		if bytes.Contains(data, form) {
			a.Hits = append(a.Hits, path+": "+name)
		}
	}
}

// testProcesses looks for processes of the host in /proc.
func testProcesses(t *testing.T, d sandbox.Driver) {
	got := ask[searchAnswer](t, d, newPlace(t).spec(t, insideProbe, probeArg, "search"), searchQuestion{forms(newCanary())})
	if !slices.Equal(got.Processes, []string{"/proc/1"}) {
		t.Errorf("processes beside the probe: %v; want PID 1 only", got.Processes)
	}
	out := shell(t, d, `
		for f in environ mem maps auxv io stack exe root cwd root/etc cwd/x map_files/1 fd/0 fd/1 fd/2 fd/3 fd/4 fd/5 fd/6 fd/7 fd/8; do
			if (readlink /proc/1/$f || ls /proc/1/$f/ || head -c 1 /proc/1/$f || : >> /proc/1/$f) >/dev/null 2>&1; then echo "opened $f of PID 1"; fi
		done
		cat /proc/*/environ 2>/dev/null | tr '\0' '\n' | sort -u | grep -v -E '^(PATH|HOME|LEASE|PWD)='
		echo done`)
	if out != "done\n" {
		t.Errorf("the job could see:\n%s", out)
	}
}

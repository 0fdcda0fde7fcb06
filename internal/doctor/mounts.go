package doctor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/claude-hub/claude-hub/internal/agent"
)

var mountsCheck = check{
	name: "mounts", group: groupHub,
	looks: []Entry{{ID: "wrong-mount", Level: LevelError, Meaning: "a file that is replaced by rename is mounted by itself, so that the mount goes stale with the next refresh; or a captured directory is mounted one level off or not at all"}},
	run:   lookAtMounts,
}

// replaced are the files that are replaced by a rename, each refresh: a mount of
// such a file shows the old one for ever, or keeps it from being replaced.
var replaced = []string{agent.CredentialFile, ".claude.json", "status.json", "hub.db", "hub.sock"}

func lookAtMounts(_ context.Context, p *patient) []Finding {
	f, err := os.Open(p.Mounts)
	if err != nil {
		return nil // no /proc, no answer
	}
	defer f.Close()
	var found []Finding
	for _, m := range parseMounts(f) {
		base := filepath.Base(m.target)
		if !slices.Contains(replaced, base) || base != agent.CredentialFile && base != ".claude.json" && !inside(p.Dir, m.target) {
			continue
		}
		finding := Finding{
			ID: "wrong-mount", Level: LevelWarning,
			Symptom: fmt.Sprintf("%s is mounted as a single file", m.target),
			Cause:   "the CLI and the hub replace that file as a whole, by rename: the mount goes on showing the old one, whose tokens are dead after the next refresh",
			Fix:     fmt.Sprintf("mount the directory, not the file: `-v SOURCE_DIR:%s`; or give the container no login at all: `claude-hub run`, `claude-hub exec`", filepath.Dir(m.target)),
		}
		if m.deleted {
			finding.Level = LevelError
			finding.Symptom = fmt.Sprintf("%s is mounted as a single file, and that file has been replaced since: what is seen here is the old one", m.target)
		}
		found = append(found, finding)
	}
	return found
}

func inside(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// mount is one line of mountinfo.
type mount struct {
	target  string
	deleted bool // what is mounted has lost its name
}

// maxMounts bounds what is read.
const maxMounts = 20_000

// parseMounts reads the kernel's mountinfo, and skips what it does not understand.
func parseMounts(r io.Reader) []mount {
	var all []mount
	lines := bufio.NewScanner(io.LimitReader(r, 16<<20))
	lines.Buffer(nil, 64<<10)
	for lines.Scan() && len(all) < maxMounts {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 {
			continue
		}
		all = append(all, mount{target: unescape(fields[4]), deleted: strings.HasSuffix(unescape(fields[3]), "//deleted")})
	}
	return all
}

// unescape undoes the kernel's octal escapes of blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

package doctor_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/claude-hub/claude-hub/internal/doctor"
)

// TestHealthy looks at a hub to which nothing is wrong, and finds nothing.
func TestHealthy(t *testing.T) {
	usePinnedCLI(t)
	w := newWorld(t)
	w.whole = true
	w.spare(0)
	r := w.examine()
	if len(r.Findings) != 0 {
		t.Errorf("findings on a healthy hub: %s", show(r.Findings))
	}
	if len(r.Checked) != len(doctor.Catalog())-1 {
		t.Errorf("%d IDs were looked for, the catalog has %d", len(r.Checked), len(doctor.Catalog()))
	}
	if len(r.Forecasts) != 2 || r.Forecasts[0].What != "login" || r.Forecasts[1].What != "setup-token" {
		t.Errorf("forecasts: %+v", r.Forecasts)
	}
}

func show(v any) string {
	b, _ := json.MarshalIndent(v, "", "  ")
	return string(b)
}

// TestFaults makes each fault for real, on a healthy hub, and demands that it is
// found, that nothing was changed by looking, and that what is said to be fixable
// is gone after the treatment.
func TestFaults(t *testing.T) {
	usePinnedCLI(t)
	for _, f := range faults {
		t.Run(f.id+"/"+strings.ReplaceAll(f.name, " ", "-"), func(t *testing.T) {
			if f.mounts && os.Getenv(mountsVariable) == "" {
				runInNamespace(t)
				return
			}
			w := newWorld(t)
			w.whole = f.whole
			f.arrange(w)
			before := contents(t, w.dir)
			r := w.examine()
			if diff := cmp.Diff(before, contents(t, w.dir)); diff != "" {
				t.Errorf("the examination has changed the hub:\n%s", diff)
			}
			got, ok := found(r, f.id)
			if !ok {
				t.Fatalf("not found; there is %s", show(r.Findings))
			}
			if len(r.Findings) != 1 && !f.more {
				t.Errorf("findings beside it: %s", show(r.Findings))
			}
			check(t, f, got)
			if got.Fixable {
				treat(t, w, f)
			}
		})
	}
}

// check looks at one finding.
func check(t *testing.T, f fault, got doctor.Finding) {
	t.Helper()
	if want := f.level(); got.Level != want {
		t.Errorf("level %s, want %s", got.Level, want)
	}
	if got.Fixable != f.fixable {
		t.Errorf("fixable %v, want %v", got.Fixable, f.fixable)
	}
	for what, text := range map[string]string{"symptom": got.Symptom, "cause": got.Cause, "fix": got.Fix} {
		if len(text) < 8 || strings.ContainsAny(text, "\n\x1b") || strings.Contains(text, "%!") {
			t.Errorf("the %s is %q", what, text)
		}
	}
	if all := got.Symptom + got.Cause + got.Fix; !strings.Contains(all, f.says) || strings.Contains(all, "sk-ant-") {
		t.Errorf("it does not say %q, or says a token: %s", f.says, show(got))
	}
}

func treat(t *testing.T, w *world, f fault) {
	t.Helper()
	r := w.doctor().Treat(t.Context())
	if got, ok := found(r, f.id); ok && !f.again {
		t.Errorf("it is still there after the treatment: %s\n%s", show(got), show(r.Repairs))
	}
	if len(r.Repairs) == 0 || r.Repairs[0].ID != f.id || r.Repairs[0].Error != "" || len(r.Repairs[0].Did) < 8 {
		t.Errorf("repairs: %s", show(r.Repairs))
	}
	if f.after != nil {
		f.after(w)
	}
}

// TestEveryIDHasAFault keeps the table of faults complete.
func TestEveryIDHasAFault(t *testing.T) {
	made := map[string]bool{"check-failed": true} // by tests of its own
	fixed := map[string]bool{}
	for _, f := range faults {
		made[f.id] = true
		fixed[f.id] = fixed[f.id] || f.fixable
	}
	for _, e := range doctor.Catalog() {
		if !made[e.ID] {
			t.Errorf("no test makes %s", e.ID)
		}
		if e.ID == "owner" && os.Geteuid() != 0 { // only root can give files back
			continue
		}
		if e.Fixable != fixed[e.ID] {
			t.Errorf("%s: the catalog says fixable %v, the tests %v", e.ID, e.Fixable, fixed[e.ID])
		}
	}
}

// contents returns what is below dir: names, modes and digests.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // closed by the test
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "-shm") || strings.HasSuffix(path, "-wal") { // SQLite's readers make these
			return nil
		}
		all[path] = info.Mode().String()
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			all[path] += fmt.Sprintf(" %x", sha256.Sum256(b))
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return all
}

// TestBadChecks has checks that panic, hang, and end late: each is a finding, and
// the others are not held up.
func TestBadChecks(t *testing.T) {
	hung := make(chan struct{})
	defer close(hung)
	d := doctor.NewWith(doctor.Config{Dir: t.TempDir()},
		doctor.Fake("panics", func(context.Context) []doctor.Finding { panic("sk-ant-oat01-fake-0123456789abcdef is what it had") }),
		doctor.Fake("hangs", func(context.Context) []doctor.Finding { <-hung; return nil }),
		doctor.Fake("obeys", func(ctx context.Context) []doctor.Finding {
			<-ctx.Done()
			return []doctor.Finding{{ID: "late"}}
		}),
		doctor.Fake("works", func(context.Context) []doctor.Finding { return []doctor.Finding{{ID: "works"}} }),
	)
	r := d.Examine(t.Context())
	var ids []string
	for _, f := range r.Findings {
		ids = append(ids, f.ID)
	}
	if diff := cmp.Diff([]string{"check-failed", "check-failed", "late", "works"}, ids); diff != "" {
		t.Fatal(diff)
	}
	if f := r.Findings[0]; f.Level != doctor.LevelError || !strings.Contains(f.Cause, "panicked") || strings.Contains(f.Cause, "0123456789") {
		t.Errorf("the panic: %s", show(f))
	}
	if f := r.Findings[1]; !strings.Contains(f.Cause, "did not end") {
		t.Errorf("the hang: %s", show(f))
	}
}

// TestFailedRepairs: a fix that fails, or panics, is told, tried once, and keeps
// the others from nothing.
func TestFailedRepairs(t *testing.T) {
	tries := map[string]int{}
	repair := func(id string, do func() error) doctor.Finding {
		return doctor.Repairable(doctor.Finding{ID: id, Symptom: id}, func(context.Context) (string, error) {
			tries[id]++
			return "did " + id, do()
		})
	}
	mended := false
	d := doctor.NewWith(doctor.Config{Dir: t.TempDir()}, doctor.Fake("all", func(context.Context) []doctor.Finding {
		found := []doctor.Finding{
			repair("fails", func() error { return fmt.Errorf("no") }),
			repair("panics", func() error { panic("oh") }),
		}
		if !mended {
			found = append(found, repair("works", func() error { mended = true; return nil }))
		}
		return found
	}))
	r := d.Treat(t.Context())
	want := []doctor.Repair{{ID: "fails", Did: "did fails", Error: "no"}, {ID: "panics", Error: "it panicked: oh"}, {ID: "works", Did: "did works"}}
	if diff := cmp.Diff(want, r.Repairs); diff != "" {
		t.Error(diff)
	}
	if tries["fails"] != 1 || tries["panics"] != 1 || len(r.Findings) != 2 {
		t.Errorf("tries %v, findings %s", tries, show(r.Findings))
	}
}

// TestTreatStops: when its context ends, it begins no further fix.
func TestTreatStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun := 0
	repair := func(context.Context) (string, error) { begun++; cancel(); return "did it all", nil }
	d := doctor.NewWith(doctor.Config{Dir: t.TempDir()}, doctor.Fake("two", func(context.Context) []doctor.Finding {
		return []doctor.Finding{
			doctor.Repairable(doctor.Finding{ID: "a", Symptom: "first"}, repair),
			doctor.Repairable(doctor.Finding{ID: "b", Symptom: "second"}, repair),
		}
	}))
	if r := d.Treat(ctx); begun != 1 || len(r.Repairs) != 1 {
		t.Errorf("%d fixes were begun: %s", begun, show(r.Repairs))
	}
}

// TestTreatMakesSomeChecksOnce: those that no repair has a say in, with what they
// found kept.
func TestTreatMakesSomeChecksOnce(t *testing.T) {
	slow, quick := 0, 0
	d := doctor.NewWith(doctor.Config{Dir: t.TempDir()},
		doctor.Once(doctor.Fake("slow", func(context.Context) []doctor.Finding { slow++; return []doctor.Finding{{ID: "slow"}} })),
		doctor.Fake("quick", func(context.Context) []doctor.Finding {
			if quick++; quick > 1 {
				return nil
			}
			return []doctor.Finding{doctor.Repairable(doctor.Finding{ID: "quick"}, func(context.Context) (string, error) { return "did it", nil })}
		}))
	r := d.Treat(t.Context())
	if slow != 1 || quick != 2 || len(r.Findings) != 1 || r.Findings[0].ID != "slow" {
		t.Errorf("made %d and %d times: %s", slow, quick, show(r.Findings))
	}
	if d.Examine(t.Context()); slow != 2 {
		t.Errorf("a later examination made it %d times in all", slow)
	}
}

// TestTextsAreBounded: a finding that quotes much, or steers a terminal, does not
// get through.
func TestTextsAreBounded(t *testing.T) {
	d := doctor.NewWith(doctor.Config{Dir: t.TempDir()}, doctor.Fake("much", func(context.Context) []doctor.Finding {
		return []doctor.Finding{{ID: "much", Symptom: strings.Repeat("x", 5000), Cause: "a\nb\x1b[31mc", Fix: "sk-ant-ort01-fake-0123456789abcdef"}}
	}))
	f := d.Examine(t.Context()).Findings[0]
	if len(f.Symptom) > 700 || f.Cause != "a b [31mc" || strings.Contains(f.Fix, "0123") {
		t.Errorf("%s", show(f))
	}
}

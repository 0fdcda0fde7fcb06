package vault_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
	"github.com/claude-hub/claude-hub/internal/vault"
)

// Tests start this binary again, as another process that uses the same vault.
const childVar = "VAULT_TEST_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(childVar); role != "" {
		if err := child(role, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Set("rapid.checks", "15")
	os.Exit(m.Run())
}

// payloadOf is large enough to be written in many pieces, and says which it is.
func payloadOf(gen hub.Generation) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%020d", gen), 2000)
}

func openBoth(dir string) (*vault.Vault, error) {
	key, err := vault.ReadKey(filepath.Join(dir, "key"))
	if err != nil {
		return nil, err
	}
	b, err := vault.Open(filepath.Join(dir, "vault"))
	if err != nil {
		return nil, err
	}
	return vault.New(b, key, vault.Options{})
}

// child is the other process. It prints each generation that it has committed.
func child(role, dir, arg string) error {
	v, err := openBoth(dir)
	if err != nil {
		return err
	}
	switch role {
	case "commit until killed":
		for {
			if err := commitOne(v, payloadOf); err != nil {
				return err
			}
		}
	case "commit some":
		n, err := strconv.Atoi(arg)
		for i := 0; i < n && err == nil; {
			err = commitOne(v, func(hub.Generation) []byte { return fmt.Appendf(nil, "%d %d", os.Getpid(), i) })
			if err == nil {
				i++
			} else if errors.Is(err, hub.ErrConflict) {
				err = nil // another was first: look again
			}
		}
		return err
	case "file size limit":
		return commitAtSizeLimit(v)
	case "rename until killed":
		return renameUntilKilled(v)
	}
	return fmt.Errorf("no role %q", role)
}

// renameUntilKilled gives the only profile one name after the other.
func renameUntilKilled(v *vault.Vault) error {
	ctx := context.Background()
	for {
		profiles, err := v.Profiles(ctx)
		if err != nil || len(profiles) != 1 {
			return fmt.Errorf("profiles %v, %w", profiles, err)
		}
		was := profiles[0].Name
		next := renames[(slices.Index(renames, was)+1)%len(renames)]
		if _, err := v.RenameProfile(ctx, was, next); err != nil {
			return err
		}
		fmt.Println(next)
	}
}

var renames = []hub.ProfileName{"one", "two", "three"}

func commitOne(v *vault.Vault, payload func(hub.Generation) []byte) error {
	ctx := context.Background()
	prev, err := v.Generation(ctx, alice, hub.KindLogin)
	if err != nil {
		return err
	}
	if _, err := v.Commit(ctx, alice, hub.KindLogin, prev, payload(prev+1)); err != nil {
		return err
	}
	_, err = fmt.Println(prev + 1)
	return err
}

// commitAtSizeLimit has the kernel fail a write in its midst, as a full disk
// does, and commits again when there is room.
func commitAtSizeLimit(v *vault.Vault) error {
	ctx := context.Background()
	signal.Ignore(syscall.SIGXFSZ) // the write then fails with EFBIG
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return err
	}
	small := was
	small.Cur = 10_000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small); err != nil {
		return err
	}
	_, failed := v.Commit(ctx, alice, hub.KindLogin, 1, payloadOf(2))
	gen, err := v.Generation(ctx, alice, hub.KindLogin)
	if err != nil || gen != 1 || !errors.Is(failed, syscall.EFBIG) || hub.HintOf(failed) == "" {
		return fmt.Errorf("with no room: Commit: %w, generation %d, %w", failed, gen, err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return err
	}
	_, err = v.Commit(ctx, alice, hub.KindLogin, 1, payloadOf(2))
	return err
}

func command(t testing.TB, role, dir, arg string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, dir, arg)
	cmd.Env = append(os.Environ(), childVar+"="+role)
	return cmd
}

// hubDir makes a key and a vault.
func hubDir(t testing.TB) string {
	t.Helper()
	dir := privateDir(t)
	_, err := vault.CreateKey(filepath.Join(dir, "key"))
	must(t, err)
	must(t, vault.Init(filepath.Join(dir, "vault")))
	return dir
}

func TestKilledWritersLeaveGenerationNOrTheNextWhole(t *testing.T) {
	dir := hubDir(t)
	var acknowledged hub.Generation
	for round := range 15 {
		cmd := command(t, "commit until killed", dir, "")
		out, err := cmd.StdoutPipe()
		must(t, err)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		first := lines.Scan()
		timer := time.AfterFunc(time.Duration(rand.IntN(20_000))*time.Microsecond, func() { cmd.Process.Kill() })
		for ok := first; ok; ok = lines.Scan() {
			n, err := strconv.ParseUint(lines.Text(), 10, 64)
			must(t, err)
			acknowledged = hub.Generation(n)
		}
		timer.Stop()
		cmd.Wait()
		if !first || stderr.Len() > 0 {
			t.Fatalf("round %d: the writer failed: %s", round, &stderr)
		}

		v, err := openBoth(dir)
		must(t, err)
		r, err := v.Latest(t.Context(), alice, hub.KindLogin)
		if err != nil || !bytes.Equal(r.Payload, payloadOf(r.Generation)) {
			t.Fatalf("round %d: %v, %v is not whole", round, r, err)
		}
		if r.Generation != acknowledged && r.Generation != acknowledged+1 {
			t.Fatalf("round %d: generation %d after %d was acknowledged", round, r.Generation, acknowledged)
		}
		if left := temps(t, openFile(t, filepath.Join(dir, "vault"))); len(left) != 0 {
			t.Fatalf("round %d: Open left %v", round, left)
		}
		acknowledged = r.Generation
	}
}

func TestProcessesThatRaceMakeEachGenerationOnce(t *testing.T) {
	const processes, each = 4, 15
	dir := hubDir(t)
	outputs := make([]bytes.Buffer, processes)
	cmds := make([]*exec.Cmd, processes)
	for i := range cmds {
		cmds[i] = command(t, "commit some", dir, strconv.Itoa(each))
		cmds[i].Stdout, cmds[i].Stderr = &outputs[i], os.Stderr
		must(t, cmds[i].Start())
	}
	seen := map[string]int{}
	for i, cmd := range cmds {
		must(t, cmd.Wait())
		for _, gen := range strings.Fields(outputs[i].String()) {
			if other, ok := seen[gen]; ok {
				t.Errorf("processes %d and %d both made generation %s", other, i, gen)
			}
			seen[gen] = i
		}
	}
	v, err := openBoth(dir)
	must(t, err)
	// A writer that is held up while 8 others commit is told that it has lost, so
	// there may be more.
	if gen, err := v.Generation(t.Context(), alice, hub.KindLogin); gen < processes*each || len(seen) != processes*each {
		t.Errorf("generation %d, %v, of %d acknowledged; want %d", gen, err, len(seen), processes*each)
	}
}

func TestARealWriteErrorLeavesNothingHalfDone(t *testing.T) {
	dir := hubDir(t)
	v, err := openBoth(dir)
	must(t, err)
	_, err = v.Commit(t.Context(), alice, hub.KindLogin, 0, payloadOf(1))
	must(t, err)
	unswept := openFile(t, filepath.Join(dir, "vault")) // opened before, so that it sweeps nothing
	out, err := command(t, "file size limit", dir, "").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mustLatest(t, v, alice, hub.KindLogin, 2, string(payloadOf(2)))
	if left := temps(t, unswept); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

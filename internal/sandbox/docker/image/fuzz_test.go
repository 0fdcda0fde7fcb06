package image

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
)

// FuzzFollow: an engine may say anything.
func FuzzFollow(f *testing.F) {
	f.Add(`{"stream":"Step 1/2 : FROM x\n"}{"error":"no"}`)
	f.Add("{\"stream\":\"STEP 2/2: RUN x\\u001b[2J\\r\\n\"}\n{\"aux\":{\"ID\":\"1\"}}")
	f.Add(`{"status":"Pulling","id":"x"}[]`)
	f.Fuzz(func(t *testing.T, stream string) {
		err := follow(strings.NewReader(stream), DefaultBase, func(p Progress) {
			if p.Text == "" || len(p.Text) > maxLine+4 || strings.ContainsAny(p.Text, "\x1b\n\r\x00") {
				t.Errorf("line %q", p.Text)
			}
		})
		if err == nil && !strings.Contains(stream, "ID") && !strings.Contains(strings.ToLower(stream), "id") && !strings.Contains(stream, "Successfully") && !strings.Contains(stream, `\u`) {
			t.Errorf("%q was taken for a complete build", stream)
		}
	})
}

// FuzzSBOM: an image may hold anything.
func FuzzSBOM(f *testing.F) {
	for _, text := range []string{`{"bomFormat":"CycloneDX","components":[{}]}`, `{"bomFormat":"CycloneDX","components":[]}`, "x"} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "sbom.json", Size: int64(len(text)), Mode: 0o644}); err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			f.Fatal(err)
		}
		w.Close()
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		document, err := parseSBOM(bytes.NewReader(stream))
		if n := countComponents(document); (err == nil) != (n > 0) || n > maxComponents {
			t.Errorf("%d components and error %v", n, err)
		}
	})
}

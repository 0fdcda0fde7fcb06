package agent

import "regexp"

// ansiPattern matches the escape sequences of a terminal: CSI, OSC with either
// end, other strings, and two-character ones.
var ansiPattern = regexp.MustCompile("\x1b(?:" +
	`\[[0-?]*[ -/]*[@-~]` + // CSI
	"|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)" + // OSC
	"|[PX^_][^\x1b]*\x1b\\\\" + // DCS, SOS, PM, APC
	`|[ -/]+[0-~]` +
	`|[0-OQ-WYZ\\` + "`a-z{|}~])")

// stripANSI removes the escape sequences of a terminal, complete ones only.
func stripANSI(b []byte) []byte { return ansiPattern.ReplaceAll(b, nil) }

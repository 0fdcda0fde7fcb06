package login

import (
	"strings"

	"rsc.io/qr"
)

// quietZone is the light border that scanners want around a code, in modules.
// The standard says four; phones do with two, and the links are long.
const quietZone = 2

// QR renders text as a QR code for a terminal: two modules to a character cell,
// in explicit black on white, so that it scans on dark and light terminals
// alike. It is "" if text does not fit a code.
func QR(text string) string {
	code, err := qr.Encode(text, qr.L) // the smallest: a screen does not get scratched
	if err != nil {
		return ""
	}
	var b strings.Builder
	for y := -quietZone; y < code.Size+quietZone; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -quietZone; x < code.Size+quietZone; x++ {
			b.WriteString(halfBlock(code.Black(x, y), code.Black(x, y+1)))
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String()
}

// qrColumns returns how many columns QR needs, 0 if it has nothing to show.
func qrColumns(text string) int {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return 0
	}
	return code.Size + 2*quietZone
}

func halfBlock(upper, lower bool) string {
	switch {
	case upper && lower:
		return "█"
	case upper:
		return "▀"
	case lower:
		return "▄"
	}
	return " "
}

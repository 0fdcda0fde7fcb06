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
	drawn, _, _ := drawQR(text, quietZone)
	return drawn
}

// drawQR returns the code and the columns and rows that it takes.
func drawQR(text string, quiet int) (drawn string, columns, rows int) {
	code, err := qr.Encode(text, qr.L) // the smallest: a screen does not get scratched
	if err != nil {
		return "", 0, 0
	}
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -quiet; x < code.Size+quiet; x++ {
			b.WriteString(halfBlock(code.Black(x, y), code.Black(x, y+1)))
		}
		b.WriteString("\x1b[0m\n")
		rows++
	}
	return b.String(), code.Size + 2*quiet, rows
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

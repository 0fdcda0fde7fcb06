package login

import "time"

// SetPatience shortens how long l waits for a CLI that hangs.
func (l *Login) SetPatience(link, exchange, exit time.Duration) {
	l.patience.link, l.patience.exchange, l.patience.exit = link, exchange, exit
}

// SetCheckPatience shortens how long l waits for the platform to say whether it
// accepts a login.
func (l *Login) SetCheckPatience(d time.Duration) { l.patience.check = d }

// SetCapturePatience shortens how long l waits for a refresh that hangs.
func (l *Login) SetCapturePatience(d time.Duration) { l.patience.capture = d }

// What the tables and fuzz targets call.
var (
	ParseCode = parseCode
	LastLine  = lastLine
	DrawQR    = drawQR
)

// QuietZone is the border of a QR code.
const QuietZone = quietZone

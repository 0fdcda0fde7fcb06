package login

import "time"

// SetPatience shortens how long l waits for a CLI that hangs.
func (l *Login) SetPatience(link, exchange, exit time.Duration) {
	l.patience = patience{link: link, exchange: exchange, exit: exit}
}

// What the tables and fuzz targets call.
var (
	ParseCode = parseCode
	LastLine  = lastLine
	QRColumns = qrColumns
)

// QuietZone is the border of a QR code.
const QuietZone = quietZone

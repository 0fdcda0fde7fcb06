package supervise

// ParseProcessStatus reads a process's status file.
var ParseProcessStatus = parseStatus

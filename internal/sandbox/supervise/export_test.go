package supervise

// ParseProcessStatus reads a process's status file.
var ParseProcessStatus = parseStatus

// Full reports whether a file system is full.
var Full = full

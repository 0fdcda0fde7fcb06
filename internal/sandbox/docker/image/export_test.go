package image

// RemoveReplaced is removeReplaced.
var RemoveReplaced = removeReplaced

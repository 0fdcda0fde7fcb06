package door

import "io"

// ReadTarget parses one request as a door does, for the fuzz target.
func ReadTarget(r io.Reader) (method, target string, rest io.Reader, err error) {
	req, rest, err := readRequest(r)
	return req.method, req.target, rest, err
}

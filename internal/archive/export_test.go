package archive

// WithHook returns opts with a function that is called between the steps of
// reading a file: "found" before it is opened, "opened" before it is read.
func WithHook(opts Options, at func(stage, name string)) Options {
	opts.at = at
	return opts
}

package docker

// What is fuzzed.
var (
	CurrentContext = currentContext
	ContextHost    = contextHost
)

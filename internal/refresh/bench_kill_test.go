package refresh_test

func playDaemon() error { return nil }
func playNaive() error  { return nil }

package refresh_test

func playAsker() error  { return nil }
func playDaemon() error { return nil }
func playNaive() error  { return nil }

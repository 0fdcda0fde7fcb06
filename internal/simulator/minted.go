package simulator

// Minted returns every access and refresh token that the platform has ever made,
// in no order: what to look for where no token may be.
func (s *Simulator) Minted() []string {
	l := s.ledger
	l.mu.RLock()
	defer l.mu.RUnlock()
	all := make([]string, 0, len(l.byToken)+len(l.refresh))
	for token := range l.byToken {
		all = append(all, token)
	}
	for token := range l.refresh {
		all = append(all, token)
	}
	return all
}

// RevokeLogins ends every login there is, as when the owner signs out everywhere.
func (s *Simulator) RevokeLogins() {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.refresh {
		t.family.revoked = true
	}
}

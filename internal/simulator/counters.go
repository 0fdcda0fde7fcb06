package simulator

// Counters is what the platform has seen since its start.
type Counters struct {
	Connects        int `json:"connects"`         // CONNECTs to a host that it plays
	RefusedConnects int `json:"refused_connects"` // everything else asked of the proxy
	AuthorizePages  int `json:"authorize_pages"`
	TokenRequests   int `json:"token_requests"` // requests at the token endpoint, whatever became of them
	SignIns         int `json:"sign_ins"`       // logins minted by SignIn
	CodeExchanges   int `json:"code_exchanges"` // codes turned into tokens
	Refreshes       int `json:"refreshes"`      // refresh requests granted
	Rotations       int `json:"rotations"`      // of these, with a new refresh token
	GraceReplays    int `json:"grace_replays"`  // of these, spent tokens answered within Grace
	InvalidGrants   int `json:"invalid_grants"` // refused with invalid_grant
	SpentReplays    int `json:"spent_replays"`  // of these, because a spent token or code was shown again
	FamiliesRevoked int `json:"families_revoked"`
	Profiles        int `json:"profiles"`
	Messages        int `json:"messages"`  // requests at /v1/messages, whatever became of them
	Answered        int `json:"answered"`  // of these, answered in full
	ToolUses        int `json:"tool_uses"` // tool calls asked of the client
	CountTokens     int `json:"count_tokens"`
	Models          int `json:"models"`
	Hellos          int `json:"hellos"`
	Others          int `json:"others"`       // paths of the API host that are not played
	Unauthorized    int `json:"unauthorized"` // 401 for a token that is missing, unknown, expired or dead
	Forbidden       int `json:"forbidden"`    // 403 for a missing scope
	PlanLimited     int `json:"plan_limited"` // 429 because a window is used up
	BadRequests     int `json:"bad_requests"` // 400 and 413 at the API host
	Faults          int `json:"faults"`       // requests struck by an injected fault
}

// Counters returns a copy of the counters.
func (s *Simulator) Counters() Counters {
	s.countMu.Lock()
	defer s.countMu.Unlock()
	return s.counters
}

func (s *Simulator) count(f func(*Counters)) {
	s.countMu.Lock()
	defer s.countMu.Unlock()
	f(&s.counters)
}

package simulator

import (
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// maxBody is what the API accepts (documented: 32 MB).
const maxBody = 32 << 20

// oauthBeta must be among the values of anthropic-beta when a bearer token is used
// for inference (observed in every such request of the CLI).
const oauthBeta = "oauth-2025-04-20"

func (s *Simulator) apiHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/messages", s.endpoint(EndpointMessages, func(c *Counters) { c.Messages++ }, s.messages))
	mux.Handle("POST /v1/messages/count_tokens", s.endpoint(EndpointCountTokens, func(c *Counters) { c.CountTokens++ }, s.countTokens))
	mux.Handle("GET /api/oauth/profile", s.endpoint(EndpointProfile, func(c *Counters) { c.Profiles++ }, s.profile))
	mux.Handle("GET /api/hello", s.endpoint(EndpointHello, func(c *Counters) { c.Hellos++ }, hello))
	mux.Handle("GET /v1/models", s.endpoint(EndpointModels, func(c *Counters) { c.Models++ }, s.models))
	mux.Handle("/", s.endpoint(EndpointOther, func(c *Counters) { c.Others++ }, notPlayed))
	return mux
}

func hello(http.ResponseWriter, *http.Request, *Fault) *reply {
	return jsonReply(http.StatusOK, map[string]string{"message": "hello"})
}

// notPlayed answers what the platform has and the simulator has not. The CLI goes
// on without (observed for all that it asks in a sign-in and in -p).
func notPlayed(_ http.ResponseWriter, r *http.Request, _ *Fault) *reply {
	return apiError(http.StatusNotFound, "not_found_error", "Not found: "+r.URL.Path)
}

// authenticate checks the bearer token and that it has scope, or gives the refusal.
func (s *Simulator) authenticate(r *http.Request, scope string) (Account, *reply) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a, scopes, err := s.ledger.check(token)
	if err != nil {
		s.count(func(c *Counters) { c.Unauthorized++ })
		message := err.Error()
		if errors.Is(err, errNoToken) {
			message = "x-api-key header is required"
		}
		return a, apiError(http.StatusUnauthorized, "authentication_error", message)
	}
	if !slices.Contains(scopes, scope) {
		s.count(func(c *Counters) { c.Forbidden++ })
		return a, apiError(http.StatusForbidden, "permission_error", "OAuth token does not meet scope requirement "+scope)
	}
	return a, nil
}

// authenticateInference is authenticate for requests to a model.
func (s *Simulator) authenticateInference(r *http.Request) *reply {
	if _, refused := s.authenticate(r, "user:inference"); refused != nil {
		return refused
	}
	for _, v := range r.Header.Values("Anthropic-Beta") {
		for b := range strings.SplitSeq(v, ",") {
			if strings.TrimSpace(b) == oauthBeta {
				return nil
			}
		}
	}
	s.count(func(c *Counters) { c.Unauthorized++ })
	return apiError(http.StatusUnauthorized, "authentication_error",
		"OAuth authentication is currently not supported. (The header anthropic-beta lacks "+oauthBeta+".)")
}

// profile answers in the shape that the CLI reads the plan from (observed:
// claude_max becomes the file's subscriptionType "max").
func (s *Simulator) profile(_ http.ResponseWriter, r *http.Request, _ *Fault) *reply {
	a, refused := s.authenticate(r, "user:profile")
	if refused != nil {
		return refused
	}
	created := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	return jsonReply(http.StatusOK, map[string]any{
		"account": map[string]any{
			"uuid": a.UUID, "full_name": a.Name, "display_name": a.Name, "email": a.Email,
			"has_claude_max": a.Plan == "max", "has_claude_pro": a.Plan == "pro", "created_at": created,
		},
		"organization": map[string]any{
			"uuid": a.OrganizationUUID, "name": organizationName(a), "organization_type": "claude_" + a.Plan,
			"billing_type": "stripe_subscription", "rate_limit_tier": a.RateLimitTier, "seat_tier": nil,
			"has_extra_usage_enabled": false, "subscription_status": "active", "subscription_created_at": created,
		},
	})
}

// Models are what /v1/models lists. Others of these families are played too; what
// is of no such family is answered 404 (the CLI then falls back to another model
// by itself; its default is claude-opus-5-5, and claude-haiku-4-5-20251001 for
// small tasks: observed).
var Models = []string{"claude-opus-5-5", "claude-opus-5", "claude-sonnet-5", "claude-sonnet-4-5", "claude-haiku-4-5"}

var modelPattern = regexp.MustCompile(`^claude-(opus|sonnet|haiku)-[0-9][0-9a-z-]{0,40}(\[1m\])?$`)

func (s *Simulator) models(_ http.ResponseWriter, r *http.Request, _ *Fault) *reply {
	if refused := s.authenticateInference(r); refused != nil {
		return refused
	}
	data := make([]map[string]string, 0, len(Models))
	for _, m := range Models {
		data = append(data, map[string]string{"type": "model", "id": m, "display_name": m, "created_at": "2025-01-01T00:00:00Z"})
	}
	return jsonReply(http.StatusOK, map[string]any{"data": data, "has_more": false})
}

package server

import (
	"context"
	"fmt"
	"net/http"

	"github.com/claude-hub/claude-hub/internal/api"
	"github.com/claude-hub/claude-hub/internal/hub"
)

// Page is what the daemon's web page offers over the socket.
type Page interface {
	// URL is the page's address.
	URL() string
	// Link makes a link that is good once. Its profile is valid or empty.
	Link(profile hub.ProfileName) (api.OperatorLink, error)
	// SignIn starts or joins a sign-in and calls each with every state, until the
	// sign-in has ended. When ctx ends, it cancels a sign-in that it has started.
	// An error means that there was none to look at.
	SignIn(ctx context.Context, req api.SignInRequest, each func(api.SignIn)) error
}

func (s *Server) pageRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /api/v1/operator", s.operator)
	mux.HandleFunc("POST /api/v1/sign-ins", s.signIn)
}

func (s *Server) operator(w http.ResponseWriter, r *http.Request) {
	var req api.OperatorRequest
	if !decode(w, r, &req) {
		return
	}
	if err := s.pageFor(req.Profile); err != nil {
		writeError(w, err)
		return
	}
	link, err := s.cfg.Page.Link(req.Profile)
	if err != nil {
		writeError(w, err)
		return
	}
	writeLine(w, link)
}

func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	var req api.SignInRequest
	if !decode(w, r, &req) {
		return
	}
	err := s.pageFor(req.Profile)
	if err == nil && req.Profile == "" {
		err = fmt.Errorf("%w: the profile is missing", hub.ErrInvalid)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	err = s.cfg.Page.SignIn(r.Context(), req, func(state api.SignIn) { writeLine(w, api.SignInLine{SignIn: &state}) })
	if err != nil {
		wire, _ := api.ErrorOf(err)
		writeLine(w, api.SignInLine{Error: wire})
	}
}

// pageFor says why the page can't be used for a profile. The empty name is
// nobody's, and all right.
func (s *Server) pageFor(profile hub.ProfileName) error {
	if s.cfg.Page == nil {
		return hub.Hint(fmt.Errorf("%w: the daemon serves no page", hub.ErrNotFound), "give `listen` an address in config.yaml and start the daemon again")
	}
	if profile == "" {
		return nil
	}
	_, err := hub.ParseProfileName(string(profile))
	return err
}

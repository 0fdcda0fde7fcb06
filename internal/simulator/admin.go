package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/claude-hub/claude-hub/internal/hub"
)

// adminHandler is the Go API for those outside of the process. It is reached as
// https://admin.simulator.invalid through the proxy, or with plain HTTP on the
// proxy's own address:
//
//	GET    /counters   the counters, as JSON
//	GET    /faults     the armed faults
//	POST   /faults     arms one: {"endpoint":"token","kind":"slow","delay":"2s","times":1}
//	DELETE /faults     disarms all
//	GET    /clock      {"skew":"0s","access_ttl":"8h0m0s"}
//	PUT    /clock      sets what is named of these
//	GET    /windows    how much of the plan is used
//	PUT    /windows    sets it
//	POST   /sign-in    {"email":"…"} mints a login and answers its .credentials.json
//	POST   /setup-token  mints a setup token: {"token":"…"}
//	POST   /approve    {"url":"…"} approves an authorize URL: {"code":"code#state"}
//	POST   /expire     ends the life of every access token now
//	POST   /revoke     {"token":"…"} revokes the token's whole sign-in
func (s *Simulator) adminHandler() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, value func() any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { jsonReply(http.StatusOK, value()).write(w, s.now()) })
	}
	do := func(method, path string, f func(r *http.Request) (any, error)) {
		mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(r)
			if err != nil {
				apiError(http.StatusBadRequest, "invalid_request_error", err.Error()).write(w, s.now())
				return
			}
			jsonReply(http.StatusOK, v).write(w, s.now())
		})
	}
	get("/counters", func() any { return s.Counters() })
	get("/faults", func() any { return s.wireFaults() })
	get("/clock", func() any { return s.wireClock() })
	get("/windows", func() any { return s.Windows() })
	do("POST", "/faults", s.adminInject)
	do("DELETE", "/faults", func(*http.Request) (any, error) { s.ClearFaults(); return s.wireFaults(), nil })
	do("PUT", "/clock", s.adminClock)
	do("PUT", "/windows", s.adminWindows)
	do("POST", "/sign-in", s.adminSignIn)
	do("POST", "/setup-token", func(*http.Request) (any, error) { return map[string]string{"token": s.SetupToken()}, nil })
	do("POST", "/approve", s.adminApprove)
	do("POST", "/expire", func(*http.Request) (any, error) { s.ExpireAccess(); return s.wireClock(), nil })
	do("POST", "/revoke", s.adminRevoke)
	return mux
}

// readAdmin decodes a request's body strictly: a misspelt field is an error.
func readAdmin(r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxGrant))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", hub.ErrInvalid, err)
	}
	return nil
}

// wireDuration is a duration as text ("1.5s").
type wireDuration time.Duration

func (d wireDuration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *wireDuration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = wireDuration(v)
	return err
}

// wireFault is a Fault with readable durations: its fields shadow the embedded ones.
type wireFault struct {
	Fault
	Delay      wireDuration `json:"delay"`
	Every      wireDuration `json:"every"`
	RetryAfter wireDuration `json:"retry_after"`
}

func (s *Simulator) wireFaults() any {
	out := []wireFault{}
	for _, f := range s.faults.list() {
		out = append(out, wireFault{f, wireDuration(f.Delay), wireDuration(f.Every), wireDuration(f.RetryAfter)})
	}
	return map[string]any{"faults": out}
}

func (s *Simulator) adminInject(r *http.Request) (any, error) {
	var in wireFault
	if err := readAdmin(r, &in); err != nil {
		return nil, err
	}
	f := in.Fault
	f.Delay, f.Every, f.RetryAfter = time.Duration(in.Delay), time.Duration(in.Every), time.Duration(in.RetryAfter)
	if err := f.check(); err != nil {
		return nil, err
	}
	s.faults.add(f)
	return s.wireFaults(), nil
}

type wireClock struct {
	Skew      *wireDuration `json:"skew"`
	AccessTTL *wireDuration `json:"access_ttl"`
}

func (s *Simulator) wireClock() any {
	skew, ttl := wireDuration(s.skew.Load()), wireDuration(s.accessTTL.Load())
	return wireClock{&skew, &ttl}
}

func (s *Simulator) adminClock(r *http.Request) (any, error) {
	var in wireClock
	if err := readAdmin(r, &in); err != nil {
		return nil, err
	}
	if in.Skew != nil {
		s.SetClockSkew(time.Duration(*in.Skew))
	}
	if in.AccessTTL != nil {
		s.SetAccessTTL(time.Duration(*in.AccessTTL))
	}
	return s.wireClock(), nil
}

func (s *Simulator) adminWindows(r *http.Request) (any, error) {
	var in Windows
	if err := readAdmin(r, &in); err != nil {
		return nil, err
	}
	s.SetWindows(in)
	return s.Windows(), nil
}

func (s *Simulator) adminSignIn(r *http.Request) (any, error) {
	var in struct {
		Email string `json:"email"`
	}
	if err := readAdmin(r, &in); err != nil {
		return nil, err
	}
	return json.RawMessage(s.SignIn(SignIn{Account: Account{Email: in.Email}}).Credentials), nil
}

func (s *Simulator) adminApprove(r *http.Request) (any, error) {
	var in struct {
		URL string `json:"url"`
	}
	if err := readAdmin(r, &in); err != nil {
		return nil, err
	}
	code, err := s.Approve(r.Context(), in.URL)
	return map[string]string{"code": code}, err
}

func (s *Simulator) adminRevoke(r *http.Request) (any, error) {
	var in struct {
		Token string `json:"token"`
	}
	if err := readAdmin(r, &in); err != nil {
		return nil, err
	}
	return map[string]bool{"revoked": s.RevokeLogin(in.Token)}, nil
}

package cli

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/deploy"
	"github.com/jetbatch/jetbatch/internal/natstest"
)

// With the permissions that ship, each role may all that it needs, by the check's own list, and no other role's work.
func TestCheckRoles(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	log := s.start("coordinator")
	natstest.Eventually(t, "the coordinator answers", func() bool { return strings.Contains(log.String(), "coordinator runs") })
	for _, user := range deploy.Roles {
		for _, role := range deploy.Roles {
			var out, errs bytes.Buffer
			code := run(t.Context(), append([]string{"check", "--role", role}, s.flags(user)...), &out, &errs, nil)
			if own := user == role; own != (code == exitOK) || own == strings.Contains(out.String(), "role "+role+": this user may not") {
				t.Errorf("user %s, role %s: exit code %d\n%s%s", user, role, code, &out, &errs)
			}
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"--server":   nats.ErrNoServers,
		"--creds":    fmt.Errorf("%w: connect: %w", errUnhealthy, nats.ErrAuthorization),
		"--tls-ca":   fmt.Errorf("x: %w", x509.UnknownAuthorityError{}),
		"--host":     x509.HostnameError{Certificate: new(x509.Certificate), Host: "h"},
		"wants TLS":  nats.ErrSecureConnRequired,
		"a client's": errors.New("remote error: tls: certificate required"),
	} {
		if f := unreachable(err); !strings.Contains(f.Fix, want) || strings.HasPrefix(f.Text, "not healthy") {
			t.Errorf("%v: %+v, want %s", err, f, want)
		}
	}
}

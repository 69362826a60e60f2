package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// natsFlags say how to reach NATS. A password is never a flag, since others can read a process's command line.
type natsFlags struct {
	Server string `help:"NATS server; several are separated by commas." default:"nats://127.0.0.1:4222" env:"JETBATCH_SERVER,NATS_URL" placeholder:"URL" group:"NATS"`
	loginFlags
}

// loginFlags say who connects, and to which JetStream.
type loginFlags struct {
	Domain         string        `help:"Domain of the JetStream that the service uses, where NATS is a leaf node with a JetStream of its own; the same for all roles." placeholder:"NAME" group:"NATS"`
	Creds          string        `help:"Credentials file." type:"path" placeholder:"FILE" group:"NATS"`
	NKey           string        `name:"nkey" help:"File with an nkey seed." type:"path" placeholder:"FILE" group:"NATS"`
	User           string        `help:"User; the password is in JETBATCH_PASSWORD or --password-file." group:"NATS"`
	PasswordFile   string        `help:"File with the user's password." type:"path" placeholder:"FILE" group:"NATS"`
	TLSCA          string        `name:"tls-ca" env:"JETBATCH_TLS_CA" help:"Certificate of the authority to trust." type:"path" placeholder:"FILE" group:"NATS"`
	TLSCert        string        `name:"tls-cert" env:"JETBATCH_TLS_CERT" help:"Client certificate." type:"path" placeholder:"FILE" group:"NATS"`
	TLSKey         string        `name:"tls-key" env:"JETBATCH_TLS_KEY" help:"Key of the client certificate." type:"path" placeholder:"FILE" group:"NATS"`
	InboxPrefix    string        `help:"Prefix of the subjects that answers come to: the one that this user's permissions allow. Defaults to _INBOX." placeholder:"PREFIX" group:"NATS"`
	ConnectTimeout time.Duration `help:"How long to try to connect. Defaults to no end for services, 10s for take, 2s for status and health." placeholder:"DURATION" group:"NATS"`
}

// passwordEnv has the password of natsFlags.User.
const passwordEnv = "JETBATCH_PASSWORD"

func (f *loginFlags) options(log *slog.Logger, name string) ([]nats.Option, error) {
	opts := []nats.Option{nats.Name(name), nats.ErrorHandler(logOnce(log))}
	if f.Creds != "" {
		opts = append(opts, nats.UserCredentials(f.Creds))
	}
	if f.NKey != "" {
		key, err := nats.NkeyOptionFromSeed(f.NKey)
		if err != nil {
			return nil, fmt.Errorf("%w: --nkey: %w", errUsage, err)
		}
		opts = append(opts, key)
	}
	if f.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(f.InboxPrefix))
	}
	if f.User != "" {
		password := os.Getenv(passwordEnv)
		if f.PasswordFile != "" {
			data, err := os.ReadFile(f.PasswordFile)
			if err != nil {
				return nil, fmt.Errorf("%w: --password-file: %w", errUsage, err)
			}
			password = strings.TrimRight(string(data), "\r\n")
		}
		opts = append(opts, nats.UserInfo(f.User, password))
	}
	if f.TLSCA != "" {
		opts = append(opts, nats.RootCAs(f.TLSCA))
	}
	if (f.TLSCert == "") != (f.TLSKey == "") {
		return nil, fmt.Errorf("%w: --tls-cert and --tls-key come together", errUsage)
	}
	if f.TLSCert != "" {
		opts = append(opts, nats.ClientCert(f.TLSCert, f.TLSKey))
	}
	return opts, nil
}

// jetStream speaks to the JetStream of the domain.
func (f *loginFlags) jetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	js, err := topology.JetStream(nc, f.Domain)
	if err != nil {
		return nil, fmt.Errorf("%w: --domain: %w", errUsage, err)
	}
	return js, nil
}

// maxLogged bounds how many different errors of one connection are logged.
const maxLogged = 32

// logOnce logs what the server or the library has to say of a connection, each of it once. A wrong key is denied every
// subject that its role needs: the first denial is an error, and the others are the same one at level debug.
func logOnce(log *slog.Logger) nats.ErrHandler {
	var mu sync.Mutex
	logged, denied := make(map[string]bool), false
	return func(_ *nats.Conn, _ *nats.Subscription, err error) {
		mu.Lock()
		defer mu.Unlock()
		if text := err.Error(); !logged[text] && len(logged) < maxLogged {
			logged[text] = true
			switch {
			case !errors.Is(err, nats.ErrPermissionViolation):
				log.Error("NATS complains", "error", err)
			case denied:
				log.Debug("NATS denies this user what it needs", "error", err)
			default:
				denied = true
				log.Error("NATS denies this user what it needs; jetbatch check --role names all of it", "error", err)
			}
		}
	}
}

// forever is a patience without end.
const forever time.Duration = -1

// connect connects, trying again until the patience, if none was asked for on the command line, or ctx ends. What only
// another command line mends fails at once.
func (f *natsFlags) connect(ctx context.Context, log *slog.Logger, name string, patience time.Duration, more ...nats.Option) (*nats.Conn, error) {
	opts, err := f.options(log, name)
	if err != nil {
		return nil, err
	}
	if patience = cmp.Or(f.ConnectTimeout, patience); patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		nc, err := client.Connect(f.Server, append(opts, more...)...)
		if err == nil {
			return nc, nil
		}
		switch {
		case errors.Is(err, nats.ErrAuthorization), errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("%w: %w", errUnhealthy, err)
		case n%20 == 5:
			log.Warn("NATS does not answer yet", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", errUnhealthy, err)
		case <-tick.C:
		}
	}
}

// hostToken is the host's name as part of a name.
func hostToken() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		return "host"
	}
	token := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
			return r
		}
		return '-'
	}, host)
	return token[:min(len(token), wire.MaxName/2)]
}

// uniqueName is base, or the host's name, and something random.
func uniqueName(base string) string {
	return cmp.Or(base, hostToken()) + "-" + strings.ToLower(rand.Text()[:8])
}

// printJSON writes v on one line, in which a terminal finds nothing to obey.
func printJSON(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", legible.JSON(data))
	return err
}

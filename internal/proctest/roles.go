package proctest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/worker"
)

// Variables of the environment that roles read.
const (
	URLEnv      = "JETBATCH_TEST_URL"      // of the server, or servers
	NameEnv     = "JETBATCH_TEST_NAME"     // of the coordinator or worker; defaults to a random one
	SlotsEnv    = "JETBATCH_TEST_SLOTS"    // of the worker; defaults to 2
	ReplicasEnv = "JETBATCH_TEST_REPLICAS" // of what the coordinator creates; defaults to 1
	DirectEnv   = "JETBATCH_TEST_DIRECT"   // where the worker serves payloads; defaults to its own choice
	DialEnv     = "JETBATCH_TEST_DIAL"     // what readers dial instead of it
	serverEnv   = "JETBATCH_TEST_SERVER"
)

// jobTimeout ends jobs that hang before the tests do.
const jobTimeout = 20 * time.Second

const startTimeout = 20 * time.Second

// ServerConfig describes a NATS server with JetStream.
type ServerConfig struct {
	Addr     string   // where clients connect
	Dir      string   // of its store
	Name     string   // required in a cluster
	Cluster  string   // where other servers connect; empty for a server alone
	Routes   []string // the addresses of all servers of the cluster
	MaxStore int64    // bytes on disk; 0 for the server's own choice
	Monitor  string   // where it is monitored; empty for nowhere
}

// Env is the configuration as a variable for the environment of ServerRole.
func (c ServerConfig) Env() string {
	data, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and a number
	}
	return serverEnv + "=" + string(data)
}

// ServerRole runs the server that ServerConfig.Env described.
func ServerRole(ctx context.Context, _ *slog.Logger) error {
	var c ServerConfig
	if err := json.Unmarshal([]byte(os.Getenv(serverEnv)), &c); err != nil {
		return fmt.Errorf("%s: %w", serverEnv, err)
	}
	opts, err := c.options()
	if err != nil {
		return err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	if !s.ReadyForConnections(startTimeout) {
		return errors.New("server not ready")
	}
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

func (c ServerConfig) options() (*server.Options, error) {
	host, port, err := splitAddr(c.Addr)
	if err != nil {
		return nil, err
	}
	opts := &server.Options{
		ServerName: c.Name, Host: host, Port: port, JetStream: true, StoreDir: c.Dir, JetStreamMaxStore: c.MaxStore, NoSigs: true,
	}
	if c.Monitor != "" {
		if opts.HTTPHost, opts.HTTPPort, err = splitAddr(c.Monitor); err != nil {
			return nil, err
		}
	}
	if c.Cluster == "" {
		return opts, nil
	}
	opts.Cluster.Name = "proctest"
	if opts.Cluster.Host, opts.Cluster.Port, err = splitAddr(c.Cluster); err != nil {
		return nil, err
	}
	for _, addr := range c.Routes {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: addr})
	}
	return opts, nil
}

func splitAddr(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.Atoi(port)
	return host, n, err
}

// connect is for roles that may come up before their server does.
func connect() (*nats.Conn, error) {
	return client.Connect(os.Getenv(URLEnv), nats.RetryOnFailedConnect(true), nats.IgnoreDiscoveredServers())
}

// CoordinatorRole runs a coordinator.
func CoordinatorRole(defs ...dataset.Definition) Role {
	return func(ctx context.Context, log *slog.Logger) error {
		replicas, err := strconv.Atoi(cmp.Or(os.Getenv(ReplicasEnv), "1"))
		if err != nil {
			return err
		}
		nc, err := connect()
		if err != nil {
			return err
		}
		defer nc.Close()
		c, err := coordinator.New(nc, coordinator.Config{Name: os.Getenv(NameEnv), Logger: log, Replicas: replicas}, defs...)
		if err != nil {
			return err
		}
		return c.Run(ctx)
	}
}

// WorkerRole runs a worker.
func WorkerRole(defs ...dataset.Definition) Role {
	return func(ctx context.Context, log *slog.Logger) error {
		slots, err := strconv.Atoi(cmp.Or(os.Getenv(SlotsEnv), "2"))
		if err != nil {
			return err
		}
		nc, err := connect()
		if err != nil {
			return err
		}
		defer nc.Close()
		w, err := worker.New(nc, worker.Config{
			Name: os.Getenv(NameEnv), Slots: slots, JobTimeout: jobTimeout, Logger: log,
			Direct: os.Getenv(DirectEnv), DirectAdvertise: os.Getenv(DialEnv),
		}, defs...)
		if err != nil {
			return err
		}
		return w.Run(ctx)
	}
}

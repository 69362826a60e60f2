package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/scratch"
)

const clusterWhat = "three servers in a cluster: record and jobs in three copies, or in one with batchers that share the servers"

const (
	clusterSize     = 3
	clusterBatchers = 6
)

// memberArg is one server of a cluster.
type memberArg struct {
	Name   string   `json:"name"`
	Listen string   `json:"listen"` // host:port
	Route  string   `json:"route"`  // host:port for the other servers
	Routes []string `json:"routes"` // of all
}

// startMember is a broker that belongs to a cluster.
func startMember(_ context.Context, log *slog.Logger, arg memberArg) (*role, any, error) {
	dir, err := scratch.New("bench-member")
	if err != nil {
		return nil, nil, err
	}
	opts := &server.Options{
		ServerName: arg.Name, JetStream: true, StoreDir: dir.Path, NoSigs: true, MaxPayload: 1 << 20, NoLog: true,
	}
	opts.Cluster.Name = "bench"
	if opts.Host, opts.Port, err = hostPort(arg.Listen); err == nil {
		opts.Cluster.Host, opts.Cluster.Port, err = hostPort(arg.Route)
	}
	for _, route := range arg.Routes {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: route})
	}
	var s *server.Server
	if err == nil {
		s, err = server.NewServer(opts)
	}
	if err != nil {
		return nil, nil, errors.Join(err, dir.Close())
	}
	s.Start()
	return &role{close: func() {
		s.Shutdown()
		s.WaitForShutdown()
		closing(log, dir.Close())
	}}, nil, nil
}

func hostPort(address string) (host string, port int, err error) {
	host, digits, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(digits)
	}
	return host, port, err
}

// brokers starts one broker, or as many as a cluster has, and returns where they listen, separated by commas.
func (s *side) brokers(ctx context.Context, n int, alone brokerArg) (urls string, err error) {
	if n <= 1 {
		var broker brokerAnswer
		_, err := s.start(ctx, "broker", alone, &broker)
		return broker.URL, err
	}
	free, err := freeAddresses(2 * n)
	if err != nil {
		return "", err
	}
	listen, routes := free[:n], free[n:]
	for i := range n {
		if _, err := s.start(ctx, "member", memberArg{fmt.Sprintf("member-%d", i), listen[i], routes[i], routes}, nil); err != nil {
			return "", err
		}
	}
	urls = "nats://" + strings.Join(listen, ",nats://")
	return urls, elected(ctx, urls)
}

// freeAddresses are addresses of this machine that nothing listens at just now.
func freeAddresses(n int) (free []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all at once, so that no address comes twice
		free = append(free, l.Addr().String())
	}
	return free, nil
}

// elected waits until the cluster has a leader that makes streams.
func elected(ctx context.Context, urls string) error {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	nc, err := nats.Connect(urls, nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	const name = "elected"
	for {
		attempt, stop := context.WithTimeout(ctx, time.Second)
		_, err = js.CreateStream(attempt, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: clusterSize})
		if err == nil {
			err = js.DeleteStream(attempt, name)
		}
		stop()
		if err == nil {
			return nil
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("the cluster has no leader: %w", err)
		}
	}
}

func cluster(ctx context.Context, b *bench) (*Report, error) {
	report := new(Report)
	return report, errors.Join(b.replicated(ctx, report), b.spread(ctx, report))
}

// replicated compares jobs in three copies with the floor that has as many, and with jobs in one copy.
func (b *bench) replicated(ctx context.Context, report *Report) error {
	var sides []*side
	var entries []entry
	arg := takeArg{Name: "cluster", Warm: 2 * smallWindow, Timed: b.quick(4_000, 20_000)}
	open := openArg{Name: arg.Name, Dataset: echoName, Params: fmt.Appendf(nil, `{"bytes":%d}`, smallBytes), Window: smallWindow}
	for _, cfg := range []serviceConfig{{Workers: 1, Servers: clusterSize, Replicas: clusterSize}, {Workers: 1}} {
		service, trainer, err := b.service(ctx, fmt.Sprintf("service, servers: %d", max(1, cfg.Servers)), cfg)
		if err != nil {
			return err
		}
		if err := trainer.call(ctx, opOpen, open, nil); err != nil {
			return err
		}
		sides, entries = append(sides, service), append(entries, taking(service, trainer, arg, perSecond))
	}
	floor, consumer, err := b.floorSmall(ctx, "floor", floorArg{
		Window: smallWindow, Bytes: smallBytes, Servers: clusterSize, Replicas: clusterSize,
	})
	if err != nil {
		return err
	}
	samples, err := b.measure(ctx, append(entries, taking(floor, consumer, arg, perSecond))...)
	if err != nil {
		return err
	}
	const name = "3 servers, 3 copies"
	report.Rows = append(report.Rows,
		row(name, "raw NATS, 3 copies", "batches/s", samples[0], samples[2]),
		row(name, "1 server", "batches/s", samples[0], samples[1]))
	return errors.Join(b.addPeaks(ctx, report, append(sides, floor)...), sides[0].end(), sides[1].end(), floor.end())
}

// spread compares batchers on three servers, each of which has some of the stores, with as many on one.
func (b *bench) spread(ctx context.Context, report *Report) error {
	var entries []entry
	for _, servers := range []int{clusterSize, 1} {
		name := fmt.Sprintf("batchers: %d, servers: %d", clusterBatchers, servers)
		service, trainer, err := b.service(ctx, name, serviceConfig{Workers: 2, Servers: servers})
		if err != nil {
			return err
		}
		arg := takeAllArg{Warm: smallWindow, Timed: b.quick(1_000, 5_000)}
		for i := range clusterBatchers {
			open := openArg{
				Name: fmt.Sprintf("spread-%d", i), Dataset: echoName, Params: fmt.Appendf(nil, `{"bytes":%d}`, smallBytes), Window: smallWindow / 4,
			}
			if err := trainer.call(ctx, opOpen, open, nil); err != nil {
				return err
			}
			arg.Names = append(arg.Names, open.Name)
		}
		entries = append(entries, takingAll(service, trainer, arg))
	}
	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return err
	}
	report.Rows = append(report.Rows, row("3 servers, 1 copy, 6 batchers", "1 server, 6 batchers", "batches/s", samples[0], samples[1]))
	return b.addPeaks(ctx, report, entries[0].side, entries[1].side)
}

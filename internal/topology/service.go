package topology

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// ServiceConfig describes a NATS micro service.
type ServiceConfig struct {
	Name, Version, Description string
	ID                         string // of the process, a subject token: the name that it has everywhere else
	Metadata                   map[string]string
	Stats                      func() any   // shown with every endpoint's statistics
	Ready                      func() error // why the service is of no use now, shown by PING; nil for always of use
	Endpoints                  []Endpoint
}

// Endpoint is a subject at which a service answers requests: as JSON by Answer, or in its own way by Handle. One that
// has Count is not listened at: it is work that comes in another way, shown beside the others.
type Endpoint struct {
	Name, Subject string
	Queue         string // group of which one service gets a request; empty: all get it
	Answer        func() any
	Handle        nats.MsgHandler
	Count         func() Count
}

// Count is what an endpoint has done.
type Count struct {
	Done, Failed uint64
	Took         time.Duration // in all
	LastError    string
}

// Service answers PING, INFO and STATS as package micro does, and its endpoints, but only where Answerable says so:
// package micro answers at any subject that a request names, and so could be made to write what its user may write.
type Service struct {
	nc       *nats.Conn
	cfg      ServiceConfig
	identity micro.ServiceIdentity
	started  time.Time
	requests []atomic.Int64 // by endpoint
	subs     []*nats.Subscription
}

// Serve begins to answer on nc, until Stop.
func Serve(nc *nats.Conn, cfg ServiceConfig) (*Service, error) {
	s := &Service{
		nc: nc, cfg: cfg, started: time.Now().UTC(), requests: make([]atomic.Int64, len(cfg.Endpoints)),
		identity: micro.ServiceIdentity{
			Name: cfg.Name, ID: cfg.ID, Version: cfg.Version, Metadata: cfg.Metadata,
		},
	}
	verbs := map[micro.Verb]func() any{micro.PingVerb: s.ping, micro.InfoVerb: s.info, micro.StatsVerb: s.stats}
	for verb, answer := range verbs {
		for _, to := range [][2]string{{}, {cfg.Name}, {cfg.Name, s.identity.ID}} {
			subject, err := micro.ControlSubject(verb, to[0], to[1])
			if err == nil {
				err = s.listen(subject, "", s.answers(answer))
			}
			if err != nil {
				return nil, errors.Join(fmt.Errorf("service %s: %w", cfg.Name, err), s.Stop())
			}
		}
	}
	for i, e := range cfg.Endpoints {
		if e.Count != nil {
			continue
		}
		handle := e.Handle
		if handle == nil {
			handle = s.answers(e.Answer)
		}
		err := s.listen(e.Subject, e.Queue, func(m *nats.Msg) {
			s.requests[i].Add(1)
			handle(m)
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("service %s: %w", cfg.Name, err), s.Stop())
		}
	}
	return s, nil
}

// answers answers a request with a value, as JSON.
func (s *Service) answers(with func() any) nats.MsgHandler {
	return func(m *nats.Msg) {
		if data, err := json.Marshal(with()); err == nil {
			_ = m.Respond(data) // the requester asks again
		}
	}
}

// listen hands on what asks for an answer at an inbox. Nothing waits at any other subject.
func (s *Service) listen(subject, queue string, handle nats.MsgHandler) error {
	answerable := func(m *nats.Msg) {
		if Answerable(m.Reply, s.nc.Opts.InboxPrefix) {
			handle(m)
		}
	}
	var sub *nats.Subscription
	var err error
	if queue == "" {
		sub, err = s.nc.Subscribe(subject, answerable)
	} else {
		sub, err = s.nc.QueueSubscribe(subject, queue, answerable)
	}
	if err == nil {
		s.subs = append(s.subs, sub)
	}
	return err
}

// Stop answers no more.
func (s *Service) Stop() error {
	var err error
	for _, sub := range s.subs {
		if failed := sub.Drain(); !errors.Is(failed, nats.ErrConnectionClosed) {
			err = errors.Join(err, failed)
		}
	}
	s.subs = nil
	return err
}

// Unready is the key of a PING's metadata that says why the service is of no use now.
const Unready = "unready"

func (s *Service) ping() any {
	identity := s.identity
	if s.cfg.Ready != nil {
		if err := s.cfg.Ready(); err != nil {
			identity.Metadata = maps.Clone(identity.Metadata)
			identity.Metadata[Unready] = err.Error()
		}
	}
	return micro.Ping{ServiceIdentity: identity, Type: micro.PingResponseType}
}

func (s *Service) info() any {
	info := micro.Info{ServiceIdentity: s.identity, Type: micro.InfoResponseType, Description: s.cfg.Description}
	for _, e := range s.cfg.Endpoints {
		info.Endpoints = append(info.Endpoints, micro.EndpointInfo{Name: e.Name, Subject: e.Subject, QueueGroup: e.Queue})
	}
	return info
}

func (s *Service) stats() any {
	stats := micro.Stats{ServiceIdentity: s.identity, Type: micro.StatsResponseType, Started: s.started}
	data, err := json.Marshal(s.cfg.Stats())
	if err != nil {
		data = nil
	}
	for i, e := range s.cfg.Endpoints {
		if e.Count != nil {
			stats.Endpoints = append(stats.Endpoints, counted(e))
			continue
		}
		stats.Endpoints = append(stats.Endpoints, &micro.EndpointStats{
			Name: e.Name, Subject: e.Subject, QueueGroup: e.Queue, NumRequests: int(s.requests[i].Load()), Data: data,
		})
	}
	return stats
}

func counted(e Endpoint) *micro.EndpointStats {
	c := e.Count()
	most := func(n uint64) int { return int(min(n, math.MaxInt)) }
	stats := &micro.EndpointStats{
		Name: e.Name, Subject: e.Subject, QueueGroup: e.Queue, NumRequests: most(c.Done + c.Failed), NumErrors: most(c.Failed),
		LastError: c.LastError, ProcessingTime: c.Took,
	}
	if stats.NumRequests > 0 {
		stats.AverageProcessingTime = c.Took / time.Duration(stats.NumRequests)
	}
	return stats
}

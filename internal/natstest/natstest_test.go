package natstest_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/natstest"
)

func TestRestartKeepsFilesAndPort(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	nc, js := s.JetStream()
	for name, storage := range map[string]jetstream.StorageType{"file": jetstream.FileStorage, "memory": jetstream.MemoryStorage} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}, Storage: storage}); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	url := s.URL()
	s.Restart()
	if s.URL() != url {
		t.Fatalf("the port changed: %s, was %s", s.URL(), url)
	}
	natstest.Reconnected(t, nc)
	natstest.Eventually(t, "the file stream is back with its message", func() bool {
		stream, err := js.Stream(t.Context(), "file")
		return err == nil && stream.CachedInfo().State.Msgs == 1
	})
}

func TestInProcess(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	if s.URL() != "" {
		t.Fatalf("a server without a port has URL %q", s.URL())
	}
	nc, _ := s.JetStream()
	if !nc.IsConnected() {
		t.Fatal("not connected")
	}
}

package client

import (
	"strings"
	"testing"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"nats://h:1":                      "nats://h:1",
		"nats://u:p@h:1":                  "nats://h:1",
		"tls://u:p@@h:1,nats://token@i:2": "tls://h:1,nats://i:2",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestConnectErrorKeepsSecrets(t *testing.T) {
	t.Parallel()
	_, err := Connect("nats://user:hunter2@127.0.0.1:1")
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("%v, want an error that names the server and no password", err)
	}
}

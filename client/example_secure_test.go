package client_test

import (
	"log"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
)

// TLS, and a key that can do a trainer's work and no other.
func ExampleConnect_secure() {
	key, err := nats.NkeyOptionFromSeed("keys/client.nk")
	if err != nil {
		log.Fatal(err)
	}
	nc, err := client.Connect("tls://nats.example.org:4222", key,
		nats.RootCAs("keys/ca.crt"), nats.CustomInboxPrefix("_INBOX_client"))
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
}

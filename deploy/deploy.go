// Package deploy holds the configuration that ships with jetbatch, so that the command can write out what the tests
// have tried.
package deploy

import _ "embed"

// SecureConf configures a NATS server with TLS and one user per role. It includes permissions.conf and keys.conf from
// its own folder; keys.conf sets <ROLE>_NKEY for each role. JETBATCH_STORE is to be set before it.
//
//go:embed nats/secure.conf
var SecureConf []byte

// PermissionsConf is the included permissions.conf: what each role may publish and subscribe to.
//
//go:embed nats/permissions.conf
var PermissionsConf []byte

// TenantsConf configures a NATS server with an account for each of two tenants. It includes permissions.conf, and for
// each tenant the keys.conf of a set of its own, as lab-a.conf and lab-b.conf.
//
//go:embed nats/tenants.conf
var TenantsConf []byte

// Roles are the users of SecureConf.
var Roles = []string{"coordinator", "worker", "client", "operator"}

// InboxPrefix is where answers to a role come: its permissions allow no other prefix, and no other role may listen
// there.
func InboxPrefix(role string) string { return "_INBOX_" + role }

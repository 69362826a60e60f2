// Package validate checks the manifests of deploy/kubernetes without a cluster and without a network: each is decoded
// strictly into the types of the API, so that no field is misspelt or misplaced, and then looked at for what a schema
// does not say. It is a module of its own so that nobody who uses jetbatch depends on Kubernetes. It has tests only:
//
//	go test ./...
package validate

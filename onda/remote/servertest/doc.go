// Package servertest reads Onda data sets from a real S3 server, versitygw, and
// holds the zstd seekable format as onda writes and reads it against another
// implementation. It is a module of its own so that nobody who uses jetbatch
// depends on either. It has tests only:
//
//	go test ./...
package servertest

// Package chaos proves the central promise under faults: what a trainer takes equals [dataset.Sequential], byte for
// byte and state for state, in order, whatever dies, stops, is lost, comes late or comes twice. It is test code only;
// nothing imports it and it exports nothing.
//
// There are tiers, each with schedules of faults drawn from a seed that is printed and can be replayed with
// -chaos.seed:
//
//   - In process (inproc*_test.go): the real coordinator, worker and client against a real JetStream server inside a
//     testing/synctest bubble, where time is fake and thousands of schedules fit into minutes. A filter between
//     every role and the server sees each protocol frame, and can hold, drop or cut where a network or a server may.
//     Two of three schedules have a trainer of 2 or 4 ranks that take each batch together, which are killed, paused, late,
//     taken over and launched anew, with as many of them or another number; their rows, put together, must be the batch.
//   - Processes (process*_test.go): every role and the broker as a process of its own, killed and stopped by signal,
//     behind a TCP proxy, with stores that are wiped, damaged and full, and as a cluster of three. Two of three
//     schedules of one broker have a trainer of 2 or 4 ranks, each a process: killed, stopped, late, launched anew.
//   - Mutants (mutants_test.go): builds of the product with one safeguard removed at a time, each of which the
//     in-process tier must catch. A harness that finds nothing wrong with a broken product proves nothing.
//
// Safety and liveness are apart: nothing wrong may be taken at any moment; and once faults stop, the run must finish
// within a stated time. "go test" runs a slice; "make chaos" runs all of it and prints its figures as JSON.
//
// [dataset.Sequential]: https://pkg.go.dev/github.com/jetbatch/jetbatch/dataset#Sequential
package chaos

// Package wire is what the roles of jetbatch write to one another and store: subjects and names, control messages and
// the batcher's record (JSON), jobs, results and payloads (msgpack, by package msgp), digests, and what readers and
// workers say on a connection of their own. How it travels is the business of the roles and of package topology.
//
// It promises that
//   - a payload has one form, and a form one batch, so that digests can stand for payloads;
//   - a decoder given hostile bytes returns an error that wraps [msgp.ErrMalformed], or, where values of users are in
//     them, [msgp.ErrDecode]; it does not panic, or take memory out of proportion to the input;
//   - tensors are never copied on the way in: they are views of the payload that they came in.
//
// [Version] is raised by every change of what travels or is stored. It never opens a connection, starts a goroutine,
// reads a clock or imports NATS.
package wire

// Package onda is a data set of labelled signals in the Onda format, such as
// EEG or ECG recordings: random or epoch-wise windows of samples with dense
// labels, as batches of tensors.
//
// It is the Go successor of the batches of OndaBatches.jl. A signal table and
// an annotation table (Arrow IPC) are joined to labelled signals; an iterator,
// [RandomBatches] or [EpochBatches], turns a small readable [State] into a
// [Job], a list of windows; and [Dataset.Materialize] reads these windows from
// lpcm or lpcm.zst files. [Definition] is all of it under the name "onda",
// driven by [Params].
//
// It promises that a state always yields the same jobs, on every machine and
// with every Go version, and a job the same bytes; that windows of one
// duration always have the same number of samples; that a split never divides
// a recording; and that damaged files are typed errors, whatever they say
// about their own size. It never writes to the data it reads, and never reads
// more of an lpcm file than it was asked for.
//
// Files are opened through [Source]: a local folder here, object storage where
// a program implements it. A program's own channel selection is a
// [ChannelSelector], given to [DefinitionWith].
//
// The Onda format: https://github.com/beacon-biosignals/Onda.jl.
package onda

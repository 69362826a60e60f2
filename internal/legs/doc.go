// Package legs counts how many messages one after another a trainer waits for. It has tests alone: one process, whose
// connections to the server take a fixed time for each direction, in fake time, in which everything else takes none.
package legs

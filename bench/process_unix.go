//go:build unix

package main

import "syscall"

// freeze stops a process as it is; thaw lets it go on.
func freeze(p *process) error { return p.cmd.Process.Signal(syscall.SIGSTOP) }
func thaw(p *process) error   { return p.cmd.Process.Signal(syscall.SIGCONT) }

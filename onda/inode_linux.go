package onda

import (
	"fmt"
	"os"
	"syscall"
)

// inode tells files of one machine apart, and what one held from what it holds.
func inode(info os.FileInfo) string {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("@%d.%d.%d.%d", s.Dev, s.Ino, s.Ctim.Sec, s.Ctim.Nsec)
}

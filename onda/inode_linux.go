package onda

import (
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// inode tells files of one machine apart, and what one held from what it holds.
func inode(_ *os.File, info os.FileInfo) string {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("@%d.%d.%d.%d", s.Dev, s.Ino, s.Ctim.Sec, s.Ctim.Nsec)
}

// sameFile reports whether two looks were at one file that held the same.
func sameFile(a, b os.FileInfo) bool {
	x, ok := a.Sys().(*syscall.Stat_t)
	y, other := b.Sys().(*syscall.Stat_t)
	return ok && other && x.Dev == y.Dev && x.Ino == y.Ino && x.Size == y.Size && x.Ctim == y.Ctim && x.Mtim == y.Mtim
}

// local are the file systems of one machine's disks and memory.
var local = []int64{
	unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC,
	unix.OVERLAYFS_SUPER_MAGIC,
}

// prompt reports whether a look at the path of a file, without opening it, shows
// at once what became of it. A file system of a network may go by what it
// remembers, unless the file is opened.
func prompt(f *os.File) bool {
	var s syscall.Statfs_t
	return syscall.Fstatfs(int(f.Fd()), &s) == nil && slices.Contains(local, int64(s.Type))
}

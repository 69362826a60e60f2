//go:build !linux

package onda

import "os"

func inode(os.FileInfo) string { return "" }

// prompt reports false: what this system says of a file that it does not open may be old.
func prompt(*os.File) bool { return false }

func sameFile(os.FileInfo, os.FileInfo) bool { return false }

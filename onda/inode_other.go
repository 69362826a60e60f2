//go:build !linux

package onda

import "os"

func inode(os.FileInfo) string { return "" }

// prompt reports false: what is known of a file without opening it may be old.
func prompt(*os.File) bool { return false }

func sameFile(os.FileInfo, os.FileInfo) bool { return false }

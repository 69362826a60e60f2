//go:build !linux

package onda

import "os"

func inode(os.FileInfo) string { return "" }

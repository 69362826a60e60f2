//go:build !linux

package embedded

import "os"

// temporary makes a folder for the server's records.
func temporary() (dir string, lock *os.File, err error) {
	dir, err = os.MkdirTemp("", "jetbatch-")
	return dir, nil, err
}

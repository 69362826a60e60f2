//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package client

import (
	"errors"
	"os"
)

func lockFolder() (string, error) { return "", errors.ErrUnsupported }

func tryLock(*os.File) (bool, error) { return false, errors.ErrUnsupported }

//go:build !linux

package direct

import (
	"context"
	"errors"
	"net"
)

// ListenLocal is for Linux: elsewhere readers on this machine use TCP as all others.
func ListenLocal(string) (*Listener, error) { return nil, errors.ErrUnsupported }

func dialLocal(context.Context, string) (net.Conn, error) { return nil, errors.ErrUnsupported }

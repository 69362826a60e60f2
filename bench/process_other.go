//go:build !unix

package main

import "errors"

func freeze(*process) error { return errors.ErrUnsupported }
func thaw(*process) error   { return nil }

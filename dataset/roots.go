package dataset

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jetbatch/jetbatch/internal/kind"
)

// ErrOutside is returned by [Allowed] for a place that is below none of the roots.
var ErrOutside = errors.New("outside of the places that this process may open (--data-root)")

type rootsKey struct{}

// WithRoots returns the definition with the places that trainers may have it open: folders, and beginnings of URLs such
// as "s3://bucket/eeg". A data set whose parameters name places asks [Allowed] when it is opened; one that does not ask
// opens what it likes. Without roots, everything is allowed.
func (d Definition) WithRoots(roots ...string) Definition {
	k := kind.Of(d)
	if k == nil || len(roots) == 0 {
		return d
	}
	own := *d.author
	own.open = within(roots, d.author.open)
	return Definition{kind.NewHandle(&kind.Kind{
		Name: k.Name, Version: k.Version, OpenFunc: within(roots, k.OpenFunc), NormalFunc: k.NormalFunc,
	}), &own}
}

// within is an open whose context has the roots.
func within[P, I any](roots []string, open func(context.Context, P) (I, error)) func(context.Context, P) (I, error) {
	return func(ctx context.Context, params P) (I, error) {
		return open(context.WithValue(ctx, rootsKey{}, roots), params)
	}
}

// Allowed returns nil if a place that parameters name, a path or a URL, is one of the roots of [Definition.WithRoots]
// or below it, and else an error that wraps ErrOutside. ctx is the one that open was called with, or derived from it.
// Symbolic links are followed first, in the roots as well; of a path that is not there, those of its folder. A URL has
// to be in one form, without "..", or it is compared as something else than what is opened.
func Allowed(ctx context.Context, place string) error {
	roots, _ := ctx.Value(rootsKey{}).([]string)
	if len(roots) == 0 || slices.ContainsFunc(roots, func(root string) bool { return below(root, place) }) {
		return nil
	}
	return fmt.Errorf("%w: %q", ErrOutside, place)
}

func below(root, place string) bool {
	if isURL(root) || isURL(place) {
		root = strings.TrimSuffix(root, "/")
		return isURL(root) && (place == root || strings.HasPrefix(place, root+"/"))
	}
	way, err := filepath.Rel(resolved(root), resolved(place))
	return err == nil && filepath.IsLocal(way)
}

func isURL(place string) bool { return strings.Contains(place, "://") }

// resolved is a path without links, as far as it is there.
func resolved(path string) string {
	path, err := filepath.Abs(path)
	if err != nil {
		return "" // below nothing
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if folder, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(folder, filepath.Base(path))
	}
	return path
}
